"""What the ranking must survive: other images, other labels, and the network before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.api.forward import Execution, batches
from auditor.api.run import Run
from auditor.api.selection import INDEX, scored_by
from auditor.data import LabelledData
from auditor.hooks import capture
from auditor.models.trace import evaluating
from auditor.models.untrained import untrained_copy
from auditor.progress import Reporter
from auditor.registry import registry
from auditor.selectivity import score_units
from auditor.selectivity.base import AnyMetric
from auditor.units import Site

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_IMAGES = 1000
"""Of the select split, for the controls: each site's responses to them are in memory at once."""
SHUFFLES = 100
CALIBRATED = 512
"""Images of the train split that batch norms of the untrained network see."""


@dataclass(frozen=True)
class Controls:
    """Selectivity of every unit under other conditions, by the metric that its layer is judged by; shape (U,) each.

    Attributes
    ----------
    first, second : ndarray
        Excess over shuffled labels on either half of the images.
    shuffled : ndarray
        The metric itself for labels in random order.
    trained, untrained : ndarray
        Excess in the network, and in the same architecture with random weights, on the same images.
    n_images : int
    seed : int
    """

    first: Floats
    second: Floats
    shuffled: Floats
    trained: Floats
    untrained: Floats
    n_images: int
    seed: int


def measure_controls(run: Run, data: LabelledData, execution: Execution, *, seed: int, reporter: Reporter) -> Controls:
    """Score the units again under the controls.

    Parameters
    ----------
    run : Run
    data : LabelledData
        The run's.
    execution : Execution
    seed : int
        Of halves, shuffled labels and random weights.
    reporter : Reporter
    """
    rng = np.random.default_rng([seed, 51])
    rows = _stratified(data.labels, data.splits["select"], MOST_IMAGES, rng)
    labels = data.labels[rows].astype(np.int64)
    half = _halves(labels, rng)
    mixed = rng.permutation(labels)
    metrics = {name: registry().metric(name) for name in set(scored_by(run.layers).values())}
    prepared = run.model(execution)
    execution = execution.on(prepared.module)
    transform = prepared.preprocessing.build()
    n_classes = len(run.classes)

    def excess(responses: NDArray[np.floating], of: Ints, metric: AnyMetric) -> Floats:
        scores = score_units(
            responses, of, n_classes=n_classes, metric=metric, n_shuffles=SHUFFLES, n_boot=0, seed=seed
        )
        return scores.excess

    found: dict[str, list[Floats]] = {name: [] for name in ("first", "second", "shuffled", "trained", "untrained")}
    calibration = _stratified(data.labels, data.splits["train"], CALIBRATED, rng) if len(data.splits["train"]) else rows
    with reporter.task("Controls", 2 * len(rows), "images") as task:
        images = [batch.images for batch in batches(data, rows, transform, execution)]
        before = _responses(prepared.module, run.sites, images)
        task.advance(len(rows))
        random = untrained_copy(
            prepared.module, (batch.images for batch in batches(data, calibration, transform, execution)), seed=seed
        )
        after = _responses(random, run.sites, images)
        task.advance(len(rows))
    judged = scored_by(run.layers)
    with reporter.task("Scoring controls", len(run.sites), "layers") as task:
        for site in run.sites:
            metric = metrics[judged.get(site.name, INDEX)]
            trained = before[site.name]
            found["first"].append(excess(trained[half], labels[half], metric))
            found["second"].append(excess(trained[~half], labels[~half], metric))
            found["shuffled"].append(
                score_units(trained, mixed, n_classes=n_classes, metric=metric, n_shuffles=0, n_boot=0, seed=seed).value
            )
            found["trained"].append(excess(trained, labels, metric))
            found["untrained"].append(excess(after[site.name], labels, metric))
            task.advance()
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return Controls(**joined, n_images=len(rows), seed=seed)


@torch.no_grad()
def _responses(
    module: torch.nn.Module, sites: Sequence[Site], images: Sequence[torch.Tensor]
) -> dict[str, NDArray[np.float32]]:
    parts: dict[str, list[NDArray[np.float32]]] = {site.name: [] for site in sites}
    with evaluating(module), capture(module, sites) as captured:
        for batch in images:
            module(batch.clone())
            for name, values in captured.take().items():
                parts[name].append(values.float().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _stratified(labels: NDArray[np.integer], index: Ints, most: int, rng: np.random.Generator) -> Ints:
    """At most so many of the images, every class with its share."""
    if len(index) <= most:
        return index
    chosen = []
    for label in np.unique(labels[index]):
        members = index[labels[index] == label]
        chosen.append(rng.permutation(members)[: max(4, round(most * len(members) / len(index)))])
    return np.sort(np.concatenate(chosen))


def _halves(labels: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One half of each class."""
    first = np.zeros(len(labels), dtype=bool)
    for number, label in enumerate(np.unique(labels)):
        members = rng.permutation(np.flatnonzero(labels == label))
        # Odd classes give the extra image to either half in turn.
        first[members[: (len(members) + number % 2) // 2]] = True
    return first
