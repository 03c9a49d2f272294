"""Accuracy and selectivity on held-out images, from statistics over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
) -> Evaluation:
    """Classify held-out images and score every site's units.

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
        Labels of all images in random order, for the floor.
    n_classes : int

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
    with capture(model, sites) as captured:
        for images, labels in batches:
            logits = model(images)
            if not bool(torch.isfinite(logits).all()):
                raise ModelError(
                    "The network's outputs for held-out images became NaN or infinite.",
                    fix="Lower --learning-rate or the size of alpha, or set --clip-norm.",
                )
            correct += int((logits.argmax(1).cpu().numpy() == labels).sum())
            part = shuffled[seen : seen + len(labels)]
            seen += len(labels)
            if not sites:
                continue
            pooled = torch.cat([each.cpu() for each in captured.take().values()], dim=1).double().numpy()
            responses = np.maximum(pooled, 0.0) if rectify else pooled
            real.update(responses, labels)
            drawn.update(responses, part)
    estimate, low, high = (float(value) for value in wilson(correct, seen))
    if not sites:
        return Evaluation(estimate, low, high)
    dead = real.nonzero == 0
    values, floors = (np.where(dead, np.nan, _score(metric, moments)) for moments in (real, drawn))
    layers, start = [], 0
    for site in sites:
        mine = slice(start, start + site.n_units)
        start += site.n_units
        means = [_mean(each[mine]) for each in (values, floors)]
        layers.append(LayerEvaluation(site.name, site.n_units, int(dead[mine].sum()), *means))
    return Evaluation(estimate, low, high, tuple(layers))


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
