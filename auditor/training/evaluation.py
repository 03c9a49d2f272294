"""Accuracy and selectivity on held-out images, from statistics over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from auditor.distributed import World
from auditor.distributed.group import open_group
from auditor.errors import ModelError
from auditor.hooks import capture
from auditor.stats.intervals import wilson
from auditor.stats.moments import ClassMoments
from auditor.training.classes import ClassStatistics
from auditor.training.history import Evaluation, LayerEvaluation
from auditor.training.metrics import TrainingMetric, score_units
from auditor.units import Site


def shuffled_labels(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Give the labels in random order: one draw, the same at every epoch, so that epochs can be compared."""
    return np.random.default_rng([seed, 43]).permutation(labels)


@torch.no_grad()
def evaluate_network(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, NDArray[np.int64]]],
    *,
    sites: Sequence[Site],
    metric: TrainingMetric,
    rectify: bool,
    shuffled: NDArray[np.int64],
    n_classes: int,
    world: World | None = None,
) -> Evaluation:
    """Classify held-out images and score every site's units.

    Several ranks give a share of the images each, and get the same evaluation of all of them.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    batches : iterable of (Tensor, ndarray of int64)
        Images (B, C, H, W) on the model's device, and their labels (B,).
    sites : sequence of Site
        Without any, only the accuracy is measured.
    metric : TrainingMetric
    rectify : bool
        Pass pooled responses through a ReLU first.
    shuffled : ndarray of int64, shape (N,)
        Labels of all these images in random order, for the floor.
    n_classes : int
    world : World, optional
        The ranks that make the same call; default: this process alone.

    Returns
    -------
    Evaluation
        Dead units are left out of a layer's means.

    Raises
    ------
    ModelError
        If an output is NaN or infinite: the training has diverged.
    """
    width = sum(site.n_units for site in sites)
    real, drawn = ClassMoments(n_classes, width), ClassMoments(n_classes, width)
    correct = seen = 0
    finite, world = True, world or World()
    with capture(model, sites) as captured:
        for images, labels in batches:
            logits = model(images)
            if not bool(torch.isfinite(logits).all()):
                finite = False
                break
            correct += int((logits.argmax(1).cpu().numpy() == labels).sum())
            part = shuffled[seen : seen + len(labels)]
            seen += len(labels)
            if not sites:
                continue
            pooled = torch.cat([each.cpu() for each in captured.take().values()], dim=1).double().numpy()
            responses = np.maximum(pooled, 0.0) if rectify else pooled
            real.update(responses, labels)
            drawn.update(responses, part)
    counts = world.gather("evaluated", [correct, seen, finite])
    if not all(one[2] for one in counts):
        raise ModelError(
            "The network's outputs for held-out images became NaN or infinite.",
            fix="Lower --learning-rate or the size of alpha, or set --clip-norm.",
        )
    estimate, low, high = (float(value) for value in wilson(*(sum(one[i] for one in counts) for i in (0, 1))))
    if not sites:
        return Evaluation(estimate, low, high)
    if world.several:
        for moments in (real, drawn):
            _bring_together(moments, world)
    if not world.main:
        return _evaluation(world.share("evaluation"))
    found = Evaluation(estimate, low, high, _layers(sites, metric, real, drawn))
    world.share("evaluation", asdict(found))
    return found


def _bring_together(moments: ClassMoments, world: World) -> None:
    """Merge the ranks' moments into those of the main rank, in the order of the ranks, one at a time."""
    open_group(world)
    if not world.main:
        for value in moments.state().values():
            distributed.send(torch.from_numpy(value), 0)
        return
    for rank in range(1, world.size):
        state = moments.state()
        for value in state.values():
            distributed.recv(torch.from_numpy(value), rank)
        moments.merge(ClassMoments.from_state(state))


def _evaluation(content: dict[str, Any]) -> Evaluation:
    layers = tuple(LayerEvaluation(**layer) for layer in content["layers"])
    return Evaluation(content["accuracy"], content["low"], content["high"], layers)


def _layers(
    sites: Sequence[Site], metric: TrainingMetric, real: ClassMoments, drawn: ClassMoments
) -> tuple[LayerEvaluation, ...]:
    dead = real.nonzero == 0
    values, floors = (np.where(dead, np.nan, _score(metric, moments)) for moments in (real, drawn))
    layers, start = [], 0
    for site in sites:
        mine = slice(start, start + site.n_units)
        start += site.n_units
        means = [_mean(each[mine]) for each in (values, floors)]
        layers.append(LayerEvaluation(site.name, site.n_units, int(dead[mine].sum()), *means))
    return tuple(layers)


def _score(metric: TrainingMetric, moments: ClassMoments) -> NDArray[np.float64]:
    there = moments.count > 0
    classes = ClassStatistics(
        mean=torch.from_numpy(moments.mean[there]),
        count=torch.from_numpy(moments.count[there].astype(np.float64)),
        variance=torch.from_numpy(np.nan_to_num(moments.variance[there])) if metric.needs_variance else None,
    )
    found: NDArray[np.float64] = score_units(metric, classes).numpy()
    return found


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
