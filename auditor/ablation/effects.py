"""Effects of ablation, all from the same intact and ablated logits, each with an interval over images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, ndtri

from auditor.ablation.pair_effects import ByClass, PairEffects, pair_effects
from auditor.errors import DataError
from auditor.stats.intervals import (
    Interval,
    check_confidence,
    paired_mean_interval,
    paired_proportion_interval,
    wilson,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]

# Pairs worked on at once, in float64: 32 MiB an array.
PAIRS = 2**22


def cross_entropy(logits: NDArray[np.floating], labels: Ints) -> Floats:
    """Cross-entropy of each image, in nats.

    Parameters
    ----------
    logits : ndarray, shape (..., N, outputs)
    labels : ndarray of int, shape (N,)

    Returns
    -------
    ndarray, shape (..., N)
    """
    log_p = log_softmax(logits.astype(np.float64), axis=-1)
    index = np.broadcast_to(labels[:, None], (*log_p.shape[:-1], 1))
    loss: Floats = -np.take_along_axis(log_p, index, axis=-1)[..., 0]
    return loss


def accuracy_with_interval(correct: NDArray[np.bool_], confidence: float = 0.95) -> tuple[float, float, float]:
    """Share of correct images with its Wilson score interval."""
    share, low, high = wilson(int(correct.sum()), correct.size, confidence)
    return float(share), float(low), float(high)


def unit_effects(
    intact: NDArray[np.floating],
    ablated: NDArray[np.floating],
    labels: Ints,
    preferred: Ints,
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Effect of each ablation, from all logits at once.

    Parameters
    ----------
    intact : ndarray, shape (N, outputs)
        Logits of the untouched network.
    ablated : ndarray, shape (K, N, outputs)
        Logits of K ablations on the same images.
    labels : ndarray of int, shape (N,)
    preferred : ndarray of int, shape (K,)
        Preferred class of each ablated unit; -1 where it is not known.
    confidence : float
        Of every interval.

    Returns
    -------
    pandas.DataFrame
        See :func:`effect_table`.
    """
    before, classes = torch.tensor(intact), torch.tensor(labels)
    step = max(1, PAIRS // max(1, intact.size))
    parts = []
    for start in range(0, max(1, len(ablated)), step):
        after = torch.tensor(ablated[start : start + step])
        n = len(after)
        found = pair_effects(before.repeat(n, 1), after.flatten(0, 1), classes.repeat(n))
        parts.append(PairEffects.from_arrays({name: v.numpy().reshape(n, len(labels)) for name, v in found.items()}))
    return effect_table(
        PairEffects.concatenate(parts, axis=0),
        intact.argmax(-1),
        labels,
        preferred,
        n_classes=intact.shape[-1],
        confidence=confidence,
    )


def effect_table(
    effects: PairEffects,
    intact_prediction: NDArray[np.integer],
    labels: NDArray[np.integer],
    preferred: NDArray[np.integer],
    *,
    n_classes: int,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Effect of each ablation on logits, loss, output and accuracy, over images.

    Parameters
    ----------
    effects : PairEffects
        K ablations on N images.
    intact_prediction, labels : ndarray of int, shape (N,)
        Class that the untouched network gives, and the right one.
    preferred : ndarray of int, shape (K,)
        Preferred class of each ablated unit; -1 where it is not known.
    n_classes : int
        Classes without images are left out of every figure.
    confidence : float
        Of every interval.

    Returns
    -------
    pandas.DataFrame
        One row per ablation; all but the last four columns come with ``_low`` and ``_high``.

        ``target_logit_drop`` (intact minus ablated), ``loss_change`` (nats), ``kl`` (nats)
            Means with paired t intervals. That of ``kl`` ends at 0; divergences are skewed, so with few images it
            holds the truth less often than it says.
        ``accuracy_change``, ``preferred_accuracy_change``, ``other_accuracy_change``
            Shares of all images, of those of the preferred class, of all others; negative is harm. Adjusted Wald
            intervals for paired proportions (Bonett & Price 2012), NaN for fewer than two images. The last two are NaN
            where the preferred class is not known.
        ``balanced_accuracy_change``
            Unweighted mean of the changes of all classes present: the change of balanced accuracy. Its interval treats
            classes as strata, ``sum_c s_c^2 / n_c / C^2`` with ``s_c^2`` the variance of the paired differences of
            class c, after ``1 / C`` has been added to both discordant cells of each class. That is Bonett and Price's
            one pair each way, spread over the classes. Without it the interval of an ablation that changes no image
            of the sample would be a point (simulated coverage of 95 % intervals then as low as 3 %); with it and the
            normal quantile coverage was 94.8 % or more in every case from 2 classes of 5 images to 1,000 of 2 and 200
            of 50, and t quantiles only widened it. NaN if a class has a single image: its variance is not known.
        ``worst_class``, ``worst_class_accuracy_change``
            Index and change of the class that loses most, the first of equals; index -1 where no class loses. A
            minimum, selected on the images it is measured on, is biased towards harm: it has no interval.
        ``n_images``, ``n_preferred``
            Images, and those of the preferred class.

    Raises
    ------
    DataError
        If lengths differ, there are no images, or a class is out of range.
    """
    _check(effects, intact_prediction, labels, n_classes)
    if preferred.shape != effects.shape[:1] or (preferred < -1).any() or (preferred >= n_classes).any():
        raise DataError(
            "Each ablation needs its preferred class.",
            wanted=f"{effects.shape[0]} integers from -1 (not known) to {n_classes - 1}",
            got=f"{len(preferred)} from {preferred.min(initial=0)} to {preferred.max(initial=-1)}",
        )
    classes, before = ByClass.of(labels), intact_prediction == labels
    parts = []
    for rows in _blocks(*effects.shape):
        columns: Columns = {}
        _put(columns, "target_logit_drop", paired_mean_interval(effects.target_logit_drop[rows], confidence))
        _put(columns, "loss_change", paired_mean_interval(effects.loss_change[rows], confidence))
        mean, low, high = paired_mean_interval(effects.kl[rows], confidence)
        _put(columns, "kl", Interval(mean, np.maximum(low, 0.0), high))
        gained, lost = classes.discordant(before, effects.prediction[rows] == labels)
        columns |= _accuracy_columns(gained, lost, classes, preferred[rows], n_classes, confidence)
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def class_effects(
    effects: PairEffects,
    intact_prediction: NDArray[np.integer],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Effect of each ablation on each class.

    Parameters
    ----------
    effects : PairEffects
        K ablations on N images.
    intact_prediction, labels : ndarray of int, shape (N,)
    classes : sequence of str
        Names of the C classes.
    confidence : float

    Returns
    -------
    pandas.DataFrame
        K * C rows: ``row`` (of `effects`), ``class_index``, ``class_name``, ``accuracy_change`` (share;
        adjusted Wald interval for paired proportions) and ``loss_change`` (nats; paired t interval), both with ``_low``
        and ``_high``, and ``n_images``. NaN for a class without images; no intervals for one with a single image.

    Raises
    ------
    DataError
        If lengths differ, there are no images, or a label is out of range.
    """
    _check(effects, intact_prediction, labels, len(classes))
    found, before = ByClass.of(labels), intact_prediction == labels
    names = [f"{name}{end}" for name in ("accuracy_change", "loss_change") for end in ("", "_low", "_high")]
    columns: Columns = {name: np.full((len(effects.prediction), len(classes)), np.nan) for name in names}
    for rows in _blocks(*effects.shape):
        gained, lost = found.discordant(before, effects.prediction[rows] == labels)
        parts = (
            *_proportion((gained, lost, found.sizes), confidence),
            *found.means(effects.loss_change[rows], confidence),
        )
        for name, part in zip(names, parts, strict=True):
            columns[name][rows, found.present] = part
    n, c = effects.shape[0], len(classes)
    index = np.tile(np.arange(c), n)
    described: Columns = {"row": np.repeat(np.arange(n), c), "class_index": index}
    described["class_name"] = np.array(classes, dtype=object)[index]
    counts = np.tile(np.bincount(labels, minlength=c), n)
    return pd.DataFrame(described | {name: values.ravel() for name, values in columns.items()} | {"n_images": counts})


def _accuracy_columns(
    gained: Ints, lost: Ints, classes: ByClass, preferred: NDArray[np.integer], n_classes: int, confidence: float
) -> Columns:
    """Columns on accuracy from discordant images, shape (K, classes present)."""
    rows, n = np.arange(len(gained)), int(classes.sizes.sum())
    # One place more than there are classes: -1, a class that is not known, finds it.
    place = np.full(n_classes + 1, -1)
    place[classes.present] = np.arange(len(classes.present))
    column, known = place[preferred], preferred >= 0
    every = [gained.sum(1), lost.sum(1), np.full(len(rows), n)]
    own = [np.where(column >= 0, values[rows, column], 0) for values in (gained, lost)]
    own.append(np.where(column >= 0, classes.sizes[column], 0))
    others = [np.where(known, total - part, 0) for total, part in zip(every, own, strict=True)]
    change = (gained - lost) / classes.sizes
    worst = change.argmin(1)
    least = change[rows, worst]
    columns: Columns = {}
    _put(columns, "accuracy_change", _proportion(every, confidence))
    _put(columns, "balanced_accuracy_change", _balanced(gained, lost, classes.sizes, confidence))
    _put(columns, "preferred_accuracy_change", _proportion(own, confidence))
    _put(columns, "other_accuracy_change", _proportion(others, confidence))
    columns["worst_class"] = np.where(least < 0, classes.present[worst], -1)
    columns["worst_class_accuracy_change"] = least
    return columns | {"n_images": every[2], "n_preferred": own[2]}


def _balanced(gained: Ints, lost: Ints, sizes: Ints, confidence: float) -> Interval:
    z = float(ndtri((1 + check_confidence(confidence)) / 2))
    extra = 1 / len(sizes)
    up, down = (gained + extra) / (sizes + 2 * extra), (lost + extra) / (sizes + 2 * extra)
    variance = ((up + down - (up - down) ** 2) / (sizes - 1 + 2 * extra)).mean(1) / len(sizes)
    centre, half = (up - down).mean(1), z * np.sqrt(variance)
    if sizes.min() < 2:
        half = np.full_like(half, np.nan)
    change = ((gained - lost) / sizes).mean(1)
    return Interval(change, np.maximum(centre - half, -1.0), np.minimum(centre + half, 1.0))


def _proportion(counts: Sequence[Ints], confidence: float) -> Interval:
    """Change of accuracy from the numbers of images gained, lost, and in all."""
    gained, lost, n = counts
    change, low, high = paired_proportion_interval(gained, lost, n, confidence)
    return Interval(change, np.where(n > 1, low, np.nan), np.where(n > 1, high, np.nan))


def _put(columns: Columns, name: str, interval: Interval) -> None:
    columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = interval


def _blocks(n_rows: int, n_images: int) -> Iterator[slice]:
    """Rows of about PAIRS pairs; one empty block if there are none, so that its columns are there."""
    step = max(1, PAIRS // n_images)
    return (slice(start, start + step) for start in range(0, max(1, n_rows), step))


def _check(
    effects: PairEffects, intact_prediction: NDArray[np.integer], labels: NDArray[np.integer], n_classes: int
) -> None:
    n = effects.shape[1]
    if n == 0 or labels.shape != (n,) or intact_prediction.shape != (n,):
        raise DataError(
            "Each image needs its label and the answer of the intact network.",
            wanted=f"{max(n, 1)} of each",
            got=f"{len(labels)} labels, {len(intact_prediction)} answers, effects on {n} images",
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise DataError(
            "A label is no class.",
            wanted=f"integers from 0 to {n_classes - 1}",
            got=f"{labels.min()} to {labels.max()}",
        )
