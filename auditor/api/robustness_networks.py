"""The networks whose robustness is measured: one run's, or those of a sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.api.forward import Execution
from auditor.api.run import Run
from auditor.errors import ModelError, OptionError, RunError
from auditor.models.preprocessing import Preprocessing
from auditor.models.trace import evaluating
from auditor.perturbations.pixels import PixelModel, pixel_identity

if TYPE_CHECKING:
    from auditor.api.sweep import Sweep

MODEL_MEMORY = 2 * 1024**3
"""Bytes that networks may take together while they share corrupted pixels."""


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes
    ----------
    name : str
        Unique among the networks.
    alpha, seed : float or None, int or None
        Of its training, in a sweep.
    run : Run
    """

    name: str
    alpha: float | None
    seed: int | None
    run: Run

    @property
    def key(self) -> str:
        """What its results are kept under."""
        return self.run.manifest.digest()[:16]

    @property
    def preprocessing(self) -> Preprocessing:
        """From a picture to its input."""
        return Preprocessing.from_dict(self.run.manifest.identity["preprocessing"])

    @property
    def pixels(self) -> str:
        """Equal for networks that are given the same pixels."""
        return json.dumps(pixel_identity(self.preprocessing), sort_keys=True)

    @property
    def mean_si(self) -> tuple[float, float, float, float]:
        """Mean selectivity index with the ends of its interval, and its mean with shuffled labels; NaN if undefined."""
        found = self.run.summary["network"]
        values = [found[name] for name in ("mean_index", "low", "high", "null_mean")]
        first, second, third, fourth = (np.nan if value is None else float(value) for value in values)
        return first, second, third, fourth

    def columns(self) -> dict[str, Any]:
        """What every table says of it."""
        return {
            "network": self.name,
            "alpha": np.nan if self.alpha is None else self.alpha,
            "seed": np.nan if self.seed is None else self.seed,
        }


def networks_of(what: Run | Sweep) -> list[Network]:
    """Return the network of a run, or those of a sweep by alpha and seed.

    Raises
    ------
    RunError
        If the sweep has no finished network.
    ModelError
        If the outputs of a network are not the data's classes.
    """
    if isinstance(what, Run):
        networks = [Network(what.name, None, None, what)]
    else:
        networks = [Network(m.run.name, float(m.alpha), int(m.seed), m.run) for m in what.members]
    if not networks:
        raise RunError("The sweep has no finished network.", fix="Repeat `auditor sweep`; it goes on by itself.")
    for network in networks:
        check_scored(network.run)
        check_same_images(network.run, networks[0].run)
    return networks


def check_scored(run: Run) -> None:
    """Raise an error unless the accuracy of a run can be measured on its score split.

    Raises
    ------
    ModelError, RunError
    """
    if run.summary["accuracy"] is None:
        raise ModelError(
            f"The outputs of {run.name} are not the classes of the data, so it has no accuracy.",
            wanted=f"{len(run.classes)} outputs, one per class",
            fix="Map the outputs to the classes (--class-map FILE), or fit a new logit layer (--head probe).",
        )
    if run.manifest.identity["data"]["n_per_split"]["score"] == 0:
        raise RunError(f"{run.name} has no score split.", fix="Profile with --fractions 0,0.5,0.5.")


def check_same_images(run: Run, other: Run) -> None:
    """Raise an error unless two runs are of the same images, divided in the same way.

    Raises
    ------
    RunError
    """
    mine, theirs = run.manifest.identity["data"], other.manifest.identity["data"]
    for field in ("fingerprint", "split_fingerprint"):
        if mine[field] != theirs[field]:
            raise RunError(
                f"{run.name} and {other.name} are of different images.", wanted=str(theirs[field]), got=str(mine[field])
            )


def check_source(network: Network, source: Network) -> None:
    """Raise an error unless examples made on `source` can be shown to `network`.

    Raises
    ------
    OptionError
        If it is the same network, or it sees other pixels.
    """
    if network.key == source.key:
        raise OptionError("Transfer needs another network.", got=f"{source.name} itself", fix="--transfer-from RUN")
    if network.pixels != source.pixels:
        raise OptionError(
            "Examples made on a network of other inputs cannot be shown to this one.",
            wanted=network.preprocessing.describe(),
            got=source.preprocessing.describe(),
        )


def next_seed(network: Network, networks: Sequence[Network]) -> Network | None:
    """The network of the same alpha and the next seed, around the end; None if there is no other."""
    if network.alpha is None:
        return None
    others = [one for one in networks if one.alpha == network.alpha]
    place = others.index(network)
    return others[(place + 1) % len(others)] if len(others) > 1 else None


def by_pixels(networks: Sequence[Network]) -> list[list[Network]]:
    """Put networks together that are given the same pixels."""
    groups: dict[str, list[Network]] = {}
    for network in networks:
        groups.setdefault(network.pixels, []).append(network)
    return list(groups.values())


class Loader:
    """Builds networks as functions of pixels; keeps the models of a few, builds those of many again each time.

    Parameters
    ----------
    networks : sequence of Network
    execution : Execution
        Its device is that of the first network, once that is built.
    """

    def __init__(self, networks: Sequence[Network], execution: Execution) -> None:
        first = networks[0].run.model(execution)
        self.execution = execution.on(first.module)
        size = sum(p.numel() * p.element_size() for p in first.module.parameters())
        self.together = max(1, MODEL_MEMORY // max(size, 1))
        self._keeps = len(networks) <= self.together

    @contextmanager
    def open(self, *networks: Network) -> Iterator[list[PixelModel]]:
        """Hold networks in evaluation mode on the device."""
        with ExitStack() as stack:
            models = []
            for network in networks:
                run = network.run if self._keeps else type(network.run)(network.run.path, manifest=network.run.manifest)
                prepared = run.model(self.execution)
                stack.enter_context(evaluating(prepared.module))
                models.append(PixelModel(prepared.module, prepared.preprocessing).eval())
            yield models

    def chunks(self, networks: Sequence[Network]) -> Iterator[Sequence[Network]]:
        """Yield as many networks as fit memory together."""
        for start in range(0, len(networks), self.together):
            yield networks[start : start + self.together]
