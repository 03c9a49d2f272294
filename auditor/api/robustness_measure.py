"""Which images each network still classifies correctly: intact, corrupted and attacked; in blocks that resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.api.robustness_networks import Loader, Network, by_pixels, check_source, next_seed
from auditor.api.robustness_settings import ATTACKS, LEVELS, RobustnessSettings
from auditor.api.score_images import Part, ScoreImages
from auditor.data import LabelledData
from auditor.errors import ModelError
from auditor.perturbations.attacks import fgsm, pgd
from auditor.perturbations.jacobian import MOST_EXACT, PROJECTIONS, jacobian_norm
from auditor.perturbations.pixels import PixelModel, pixel_transform, to_channels, to_colour
from auditor.perturbations.seeds import corruption_seeds
from auditor.progress import Reporter, Task
from auditor.registry import registry
from auditor.store.blocks import BlockCache

IMAGE_MEMORY = 1024**3
Right = NDArray[np.bool_]
Attack = tuple[str, float, int]
"""Name, epsilon in 255ths, steps."""


@dataclass
class Survival:
    """What one network withstands.

    Attributes
    ----------
    clean : ndarray of bool, shape (N,)
        Whether each image is classified correctly.
    corrupted : dict of (str, int) to ndarray of bool, shape (N,)
        By type and severity; of other images where they were read from files.
    attacked : dict of Attack to ndarray of bool, shape (N,)
        Images that are wrong as they are count as wrong.
    transferred : ndarray of bool or None, shape (N,)
        Under examples made on another network.
    source : str
        Name of that network.
    jacobian : ndarray of float64, shape (2, N)
        Squared Frobenius norm of each image, and the standard error of its estimate.
    paired : bool
        Whether the corrupted images are the clean ones, corrupted here.
    """

    clean: Right
    corrupted: dict[tuple[str, int], Right] = field(default_factory=dict)
    attacked: dict[Attack, Right] = field(default_factory=dict)
    transferred: Right | None = None
    source: str = ""
    jacobian: NDArray[np.float64] | None = None
    paired: bool = True


class Measurement:
    """Measures networks on the same images, and keeps what is finished.

    Parameters
    ----------
    data : LabelledData
        Its score split is used.
    settings : RobustnessSettings
    loader : Loader
    cache : BlockCache
    reporter : Reporter
    """

    def __init__(
        self,
        data: LabelledData,
        settings: RobustnessSettings,
        loader: Loader,
        cache: BlockCache,
        reporter: Reporter,
    ) -> None:
        self.data, self.settings, self.loader, self.cache, self.reporter = data, settings, loader, cache, reporter
        self.ids = np.array([data.ids[row] for row in data.splits["score"]], dtype=object)
        self._images: dict[str, ScoreImages] = {}

    def images(self, network: Network) -> ScoreImages:
        """Pixels as a network sees them; those of the last kind stay in memory if they fit there."""
        key = network.pixels
        if key not in self._images:
            transform = pixel_transform(network.preprocessing)
            self._images = {key: ScoreImages(self.data, transform, self.loader.execution, memory=IMAGE_MEMORY)}
        return self._images[key]

    def check_gradients(self, network: Network) -> None:
        """Raise an error unless the logits of a network depend on its pixels in a way that can be followed back.

        Raises
        ------
        ModelError
        """
        with self.loader.open(network) as (model,), torch.enable_grad():
            pixels = self.images(network).first(1).detach().clone().requires_grad_()
            if not model(pixels).requires_grad:
                raise ModelError(
                    f"The logits of {network.name} have no gradient with respect to its pixels.",
                    wanted="a network that PyTorch can differentiate",
                    fix="Measure corruptions alone: --attacks none --no-jacobian.",
                )

    def clean(self, networks: Sequence[Network]) -> dict[str, Right]:
        """Which images are classified correctly as they are, by network."""
        missing = [one for one in networks if self._get(f"{one.key}@clean") is None]
        if missing:
            with self.reporter.task("Intact", len(missing) * len(self.ids), "images") as task:
                for group in by_pixels(missing):
                    for some in self.loader.chunks(group):
                        self._predict(some, None, task)
        return {one.name: self.right(f"{one.key}@clean") for one in networks}

    def corrupted(self, networks: Sequence[Network], names: Sequence[str]) -> dict[str, dict[tuple[str, int], Right]]:
        """Which images are classified correctly, by network, type and severity; networks share corrupted pixels."""
        conditions = [(name, severity) for name in names for severity in self.settings.severities]
        missing = {one.name: {c for c in conditions if self._get(corruption_key(one, *c)) is None} for one in networks}
        total = sum(map(len, missing.values())) * len(self.ids)
        if total:
            with self.reporter.task("Corruptions", total, "images") as task:
                for group in by_pixels([one for one in networks if missing[one.name]]):
                    for some in self.loader.chunks(group):
                        for condition in conditions:
                            needy = [one for one in some if condition in missing[one.name]]
                            if needy:
                                self._predict(needy, condition, task)
        return {one.name: {c: self.right(corruption_key(one, *c)) for c in conditions} for one in networks}

    def attacked(self, networks: Sequence[Network], clean: Mapping[str, Right]) -> dict[str, dict[Attack, Right]]:
        """Which images survive each attack, by network."""
        epsilons = self.settings.epsilons if "fgsm" in self.settings.attacks else ()
        grid = self.settings.pgd_grid()
        jobs = [
            (one, attack, epsilon)
            for one in networks
            for attack, radii in (("fgsm", epsilons), ("pgd", tuple(grid)))
            for epsilon in radii
            if self._get(f"{one.key}@{attack}@{epsilon:g}") is None
        ]
        if jobs:
            with self.reporter.task("Attacks", len(jobs) * len(self.ids), "images") as task:
                for one in networks:
                    mine = [(attack, epsilon) for other, attack, epsilon in jobs if other is one]
                    if mine:
                        with self.loader.open(one) as (model,):
                            self._attack(one, model, clean[one.name], mine, task)
        found: dict[str, dict[Attack, Right]] = {}
        for one in networks:
            mine_found: dict[Attack, Right] = {
                ("fgsm", epsilon, 1): self.right(f"{one.key}@fgsm@{epsilon:g}", "1") for epsilon in epsilons
            }
            for epsilon, steps in grid.items():
                for n in steps:
                    mine_found["pgd", epsilon, n] = self.right(f"{one.key}@pgd@{epsilon:g}", str(n))
            found[one.name] = mine_found
        return found

    def transferred(
        self, networks: Sequence[Network], clean: Mapping[str, Right], given: Network | None
    ) -> dict[str, tuple[str, Right]]:
        """Which images survive examples made on another network, with its name; networks without another are absent."""
        if "pgd" not in self.settings.attacks:
            return {}
        pairs = [(one, source) for one in networks if (source := given or next_seed(one, networks)) is not None]
        for one, source in pairs:
            check_source(one, source)
        keys = {one.name: f"{one.key}@transfer@{source.key}" for one, source in pairs}
        missing = [(one, source) for one, source in pairs if self._get(keys[one.name]) is None]
        if missing:
            with self.reporter.task("Transfer", len(missing) * len(self.ids), "images") as task:
                for one, source in missing:
                    with self.loader.open(one, source) as (model, other):
                        right = np.zeros(len(self.ids), dtype=bool)
                        for part in self._standing(one, clean[one.name], task):
                            made = self._pgd(other, part, self.settings.step_epsilon, (self.settings.pgd_steps,))
                            right[part.rows] = is_right(model, made[self.settings.pgd_steps], part.labels)
                        self.cache.put(keys[one.name], {"right": right})
        return {one.name: (source.name, self.right(keys[one.name])) for one, source in pairs}

    def jacobians(self, networks: Sequence[Network]) -> dict[str, NDArray[np.float64]]:
        """Squared norm of each image's Jacobian and the standard error of its estimate, shape (2, N), by network."""
        missing = [one for one in networks if self.cache.get(f"{one.key}@jacobian") is None]
        if missing:
            with self.reporter.task("Jacobians", len(missing) * len(self.ids), "images") as task:
                for one in missing:
                    with self.loader.open(one) as (model,):
                        self.cache.put(f"{one.key}@jacobian", {"norms": self._norms(one, model, task)})
        return {one.name: self._block(f"{one.key}@jacobian")["norms"] for one in networks}

    def _norms(self, network: Network, model: PixelModel, task: Task) -> NDArray[np.float64]:
        norms = np.zeros((2, len(self.ids)))
        for part in self.images(network).parts(self.loader.execution.batch_size):
            with torch.no_grad():
                outputs = model(part.images[:1]).shape[1]
            many = PROJECTIONS if outputs > MOST_EXACT else None
            seeds = self._seeds("jacobian", part)
            norms[:, part.rows] = jacobian_norm(model, part.images, seeds=seeds, projections=many)
            task.advance(len(part.rows))
        return norms

    def _predict(self, networks: Sequence[Network], condition: tuple[str, int] | None, task: Task) -> None:
        """Classify the images, corrupted once for all of these networks, and keep which are right."""
        right = np.zeros((len(networks), len(self.ids)), dtype=bool)
        with self.loader.open(*networks) as models, torch.no_grad():
            for part in self.images(networks[0]).parts(self.loader.execution.batch_size):
                pixels = part.images
                if condition is not None:
                    name, severity = condition
                    seeds = corruption_seeds(self.settings.seed, name, severity, self.ids[part.rows])
                    colour = registry().corruptions()[name](to_colour(pixels), severity, seeds=seeds)
                    pixels = to_channels(colour, pixels.shape[1])
                for place, model in enumerate(models):
                    right[place, part.rows] = is_right(model, pixels, part.labels)
                task.advance(len(part.rows) * len(networks))
        for place, network in enumerate(networks):
            key = f"{network.key}@clean" if condition is None else corruption_key(network, *condition)
            self.cache.put(key, {"right": right[place]})

    def _attack(
        self, network: Network, model: PixelModel, clean: Right, jobs: list[tuple[str, float]], task: Task
    ) -> None:
        radii = [epsilon for attack, epsilon in jobs if attack == "fgsm"]
        if radii:
            survives = np.zeros((len(radii), len(self.ids)), dtype=bool)
            for part in self._standing(network, clean, task, times=len(radii)):
                made = fgsm(model, part.images, part.labels, [epsilon / LEVELS for epsilon in radii])
                for place, pixels in enumerate(made):
                    survives[place, part.rows] = is_right(model, pixels, part.labels)
            for place, epsilon in enumerate(radii):
                self.cache.put(f"{network.key}@fgsm@{epsilon:g}", {"1": survives[place]})
        grid = self.settings.pgd_grid()
        for epsilon in (epsilon for attack, epsilon in jobs if attack == "pgd"):
            after = {n: np.zeros(len(self.ids), dtype=bool) for n in grid[epsilon]}
            for part in self._standing(network, clean, task):
                for n, pixels in self._pgd(model, part, epsilon, grid[epsilon]).items():
                    after[n][part.rows] = is_right(model, pixels, part.labels)
            self.cache.put(f"{network.key}@pgd@{epsilon:g}", {str(n): right for n, right in after.items()})

    def _standing(self, network: Network, clean: Right, task: Task, *, times: int = 1) -> Iterator[Part]:
        """Yield the images that are right as they are: the others count as wrong without an attack."""
        task.advance(times * int((~clean).sum()))
        for part in self.images(network).parts(self.loader.execution.batch_size, np.flatnonzero(clean)):
            yield part
            task.advance(times * len(part.rows))

    def _pgd(self, model: PixelModel, part: Part, epsilon: float, steps: Sequence[int]) -> dict[int, Tensor]:
        seeds = self._seeds(f"pgd@{epsilon:g}", part)
        return pgd(model, part.images, part.labels, epsilon=epsilon / LEVELS, steps=steps, seeds=seeds)

    def _seeds(self, what: str, part: Part) -> list[int]:
        return corruption_seeds(self.settings.seed, what, 0, self.ids[part.rows])

    def _get(self, key: str) -> dict[str, NDArray[Any]] | None:
        return self.cache.get(key)

    def _block(self, key: str) -> dict[str, NDArray[Any]]:
        block = self.cache.get(key)
        assert block is not None
        return block

    def right(self, key: str, name: str = "right") -> Right:
        """Read which images a finished block says are classified correctly."""
        right: Right = self._block(key)[name]
        return right


def corruption_key(network: Network, name: str, severity: int) -> str:
    """What the results under a corruption are kept under; apart from those of an attack of the same name."""
    kind = "corruption " if name in ATTACKS else ""
    return f"{network.key}@{kind}{name}@{severity}"


def is_right(model: PixelModel, pixels: Tensor, labels: Tensor) -> Right:
    """Whether a network classifies each image correctly; logits that are not numbers say nothing, which is wrong."""
    with torch.no_grad():
        logits = model(pixels)
        right: Right = ((logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)).cpu().numpy()
    return right
