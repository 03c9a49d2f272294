"""A network's responses to unchanged, corrupted and attacked images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.api.forward import Batch, Execution, batches
from auditor.api.geometry_settings import GeometrySettings
from auditor.api.run import Run
from auditor.data import LabelledData
from auditor.hooks.capture import capture
from auditor.models.trace import evaluating
from auditor.perturbations.attacks import pgd
from auditor.perturbations.pixels import PixelModel, pixel_transform, to_channels, to_colour
from auditor.perturbations.seeds import corruption_seeds
from auditor.progress import Reporter
from auditor.registry import registry
from auditor.store.blocks import BlockCache
from auditor.store.reader import StoreReader
from auditor.store.shards import ShardedReader
from auditor.units import Site

FloatArray = NDArray[np.float32]
CLEAN, CORRUPTED, ADVERSARIAL = "clean", "corrupted", "adversarial"


class Condition(NamedTuple):
    """What was done to the images; `corruption` is empty where nothing natural was."""

    name: str
    corruption: str = ""

    @property
    def key(self) -> str:
        """Name of its block."""
        return f"{self.name}-{self.corruption}" if self.corruption else self.name


class CleanResponses:
    """Responses to unchanged images: from the run's store, or from the model where it holds none.

    A context manager; nothing is opened before it is asked for. What the model has to give is kept for the next layer,
    so ask for the same images layer by layer.

    Parameters
    ----------
    run : Run
    sites : sequence of Site
    execution : Execution
    """

    def __init__(self, run: Run, sites: Sequence[Site], execution: Execution) -> None:
        self._run, self._sites, self._execution = run, sites, execution
        self._stack = ExitStack()
        self._streamed: dict[bytes, dict[str, FloatArray]] = {}

    @cached_property
    def data(self) -> LabelledData:
        """The run's images."""
        return self._run.data()

    @cached_property
    def _store(self) -> StoreReader | ShardedReader:
        store: StoreReader | ShardedReader = self._run.store()
        self._stack.enter_context(store)
        return store

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._store.ids)}

    @property
    def stored(self) -> bool:
        """Whether the store holds the responses."""
        return all(site.name in self._store.sites for site in self._sites)

    def images(self, split: str, most: int) -> NDArray[np.int64]:
        """Positions in the data of at most `most` images of a split, stratified."""
        return self.data.limited(most).splits[split]

    def labels(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class numbers of images."""
        return self.data.labels[index]

    def responses(self, site: str, index: NDArray[np.int64]) -> FloatArray:
        """Responses of a site's units to the images at `index`, shape (n, U)."""
        if self.stored:
            rows = np.array([self._row_of[self.data.ids[i]] for i in index], dtype=np.int64)
            return self._store.responses(site, rows)
        key = index.tobytes()
        if key not in self._streamed:
            self._streamed[key] = self._stream(index)
        return self._streamed[key][site]

    def _stream(self, index: NDArray[np.int64]) -> dict[str, FloatArray]:
        prepared = self._run.model(self._execution)
        execution = self._execution.on(prepared.module)
        found: dict[str, list[FloatArray]] = {site.name: [] for site in self._sites}
        for batch in batches(self.data, index, prepared.preprocessing.build(), execution):
            for name, values in pooled(prepared.module, batch.images, self._sites).items():
                found[name].append(values)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def __enter__(self) -> CleanResponses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


def pooled(
    module: nn.Module,
    images: Tensor,
    sites: Sequence[Site],
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, FloatArray]:
    """Responses of every site's units, site name to (B, U); `forward` is what calls the module, if not itself."""
    with torch.no_grad(), evaluating(module), capture(module, sites) as found:
        (module if forward is None else forward)(images)
        return {name: values.cpu().numpy() for name, values in found.take().items()}


def conditions_of(run: Run, settings: GeometrySettings) -> list[Condition]:
    """Conditions in order; without the attack where the model's outputs are not the data's classes."""
    found = [Condition(CLEAN), *(Condition(CORRUPTED, name) for name in settings.corruptions or ())]
    return found if run.summary["accuracy"] is None else [*found, Condition(ADVERSARIAL)]


class PixelImages:
    """Images in batches of pixels in [0, 1], and the network as a function of them.

    Parameters
    ----------
    run : Run
    sites : sequence of Site
    execution : Execution

    Attributes
    ----------
    data : LabelledData
    model : PixelModel
        The run's model with its normalisation inside.
    """

    def __init__(self, run: Run, sites: Sequence[Site], execution: Execution) -> None:
        prepared = run.model(execution)
        self.data = run.data()
        self.sites = tuple(sites)
        self.model = PixelModel(prepared.module, prepared.preprocessing)
        self._transform = pixel_transform(prepared.preprocessing)
        self._execution = execution.on(prepared.module)

    def index(self, most: int) -> NDArray[np.int64]:
        """Positions in the data of at most `most` images of the score split, stratified."""
        return self.data.limited(most).splits["score"]

    def batches(self, index: NDArray[np.int64]) -> Iterator[Batch]:
        """Yield pixels, labels and positions."""
        return batches(self.data, index, self._transform, self._execution)

    def ids(self, batch: Batch) -> list[str]:
        """Names of a batch's images."""
        return [self.data.ids[row] for row in batch.index]

    def pooled(self, pixels: Tensor) -> dict[str, FloatArray]:
        """Responses of every site's units to pixels, site name to (B, U)."""
        return pooled(self.model.module, pixels, self.sites, forward=self.model)


def change(condition: Condition, images: PixelImages, batch: Batch, settings: GeometrySettings) -> Tensor:
    """Pixels of a batch under a condition; every random draw is by the image's name."""
    if condition.name == CLEAN:
        return batch.images
    if condition.name == CORRUPTED:
        name, severity = condition.corruption, settings.severity
        seeds = corruption_seeds(settings.seed, name, severity, images.ids(batch))
        corruption = registry().corruptions()[name]
        return to_channels(corruption(to_colour(batch.images), severity, seeds=seeds), images.model.channels)
    seeds = corruption_seeds(settings.seed, "pgd", settings.attack_steps, images.ids(batch))
    with evaluating(images.model.module):
        steps = settings.attack_steps
        path = pgd(
            images.model, batch.images, batch.labels, epsilon=settings.epsilon, steps=[steps], seeds=seeds
        )  # fmt: skip
    return path[steps]


def perturbed_responses(
    run: Run,
    settings: GeometrySettings,
    sites: Sequence[Site],
    execution: Execution,
    blocks: BlockCache,
    reporter: Reporter,
) -> dict[Condition, dict[str, FloatArray]]:
    """Responses of the same images under every condition: condition, then site name, to (n, U).

    They are kept batch by batch in `blocks`, and held in memory together: conditions x images x units x 4 bytes.
    """
    images = PixelImages(run, sites, execution)
    index, size = images.index(settings.n_images), execution.batch_size
    conditions = conditions_of(run, settings)
    if Condition(ADVERSARIAL) not in conditions:
        reporter.say(f"{run.name} has outputs that are not the data's classes: no images are attacked.")
    found: dict[Condition, dict[str, list[FloatArray]]] = {c: {s.name: [] for s in sites} for c in conditions}
    keys = [f"responses-{size}-{start:06d}" for start in range(0, len(index), size)]
    with reporter.task(f"Changing images for {run.name}", len(index) * len(conditions), "images") as task:
        for number, key in enumerate(keys):
            part = index[number * size : (number + 1) * size]
            stored = blocks.get(key)
            if stored is None:
                (batch,) = images.batches(part)
                stored = {
                    f"{condition.key}|{name}": values
                    for condition in conditions
                    for name, values in images.pooled(change(condition, images, batch, settings)).items()
                }
                blocks.put(key, stored)
            for condition in conditions:
                for site in sites:
                    found[condition][site.name].append(stored[f"{condition.key}|{site.name}"])
                task.advance(len(part))
    return {c: {name: np.concatenate(parts) for name, parts in by_site.items()} for c, by_site in found.items()}
