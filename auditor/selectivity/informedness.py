"""Informedness: hit rate minus false-alarm rate at the best threshold."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.analytic import difference_interval
from auditor.selectivity.base import FloatArray, IntArray
from auditor.selectivity.ranks import Ties
from auditor.selectivity.responses import (
    DRAW_BYTES,
    LabelledResponses,
    Measured,
    RankMetric,
    best_class,
    cumulative_hits,
    label_sequences,
)


class Informedness(RankMetric):
    """Largest difference, over thresholds and classes, of hit rate and false-alarm rate (Youden's J).

    The unit says "yes" to an image that it responds to at least as much as the threshold. Columns beside it: the
    ``threshold`` (infinite where no threshold beats none), the ``hit_rate`` on the best class and the
    ``false_alarm_rate`` on all other images. Equal to the largest ``tpr - fpr`` of ``sklearn.metrics.roc_curve``.

    Notes
    -----
    The null is exact and as large as asked for, thresholds and classes chosen anew in each draw; each group of tied
    images of a unit adds to its time. The interval (Newcombe 1998) holds class and threshold fixed, so it does not
    know that both were chosen: in the simulations described at :class:`~auditor.selectivity.auc.AUC` it covers the
    population value for 88-96 % of units with clear signal, but of units near chance, whose value is biased upward
    most, for as few as 69 % until it is extended to chance. Read it beside the null.
    """

    name: ClassVar[str] = "informedness"
    label: ClassVar[str] = "informedness (Youden's J)"
    reference: ClassVar[str] = "Youden 1950, Index for rating diagnostic tests"
    signed: ClassVar[bool] = True

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        n_images, n_units = data.responses.shape
        unit = np.arange(n_units)
        each = np.full((data.n_classes, n_units), np.nan)
        passed, hit = np.zeros((2, data.n_classes, n_units), dtype=np.int64)
        for k in np.flatnonzero(data.count):
            size = int(data.count[k])
            images, hits = data.ranks.thresholds(data.members[k])
            gain = hits * np.int64(n_images) - images * np.int64(size)  # J times n_in n_out, in whole numbers
            best = gain.argmax(axis=1)
            above = gain[unit, best] > 0
            passed[k], hit[k] = np.where(above, images[unit, best], 0), np.where(above, hits[unit, best], 0)
            each[k] = np.maximum(gain[unit, best], 0) / (size * (n_images - size))
        value, preferred = best_class(each)
        n_in, n_out = data.count[preferred], n_images - data.count[preferred]
        right, alarms = hit[preferred, unit], passed[preferred, unit] - hit[preferred, unit]
        low, high = difference_interval(right, n_in, alarms, n_out, confidence)
        last = np.maximum(right + alarms - 1, 0)
        threshold = np.where(right > 0, data.ranks.ordered[unit, last].astype(np.float64), np.inf)
        extras = {"threshold": threshold, "hit_rate": right / n_in, "false_alarm_rate": alarms / n_out}
        return Measured(value, preferred, low=low, high=high, per_class=each, extras=extras)

    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Best informedness under random label sequences."""
        n_images, count = len(labels), np.bincount(labels, minlength=n_classes)
        place = np.arange(n_images + 1, dtype=np.float32)[:, None]
        unit, first, last = _open_stretches(ties)
        pairs, which_pair = np.unique(np.stack([first, last]), axis=1, return_inverse=True)
        null = np.empty((n, ties.n_units))
        for which, drawn in label_sequences(labels, n=n, seed=seed):
            best = np.zeros((ties.n_units, drawn.shape[1]), dtype=np.float32)
            for k in np.flatnonzero(count):
                n_in, n_out = int(count[k]), n_images - int(count[k])
                hits = cumulative_hits(drawn, int(k)).astype(np.float32)
                curve = hits * np.float32(1 / n_in + 1 / n_out) - place / np.float32(n_out)
                tops = _range_maxima(curve, pairs[0], pairs[1])
                _raise_to_group_maxima(best, tops, which_pair.ravel(), unit)
            null[which] = best.T
        return null


def _open_stretches(ties: Ties) -> tuple[IntArray, IntArray, IntArray]:
    """Thresholds that tied images leave open: unit, first and last number of images that pass, ends included."""
    unit = np.concatenate([np.arange(ties.n_units), ties.unit])
    first = np.concatenate([np.zeros(ties.n_units, dtype=np.int64), ties.end])
    order = np.lexsort((first, unit))
    unit, first = unit[order], first[order]
    # A stretch ends where the unit's next group of ties starts, the last one with all images.
    last = np.full(len(unit), ties.n_images)
    last[np.flatnonzero(np.append(unit[1:] == unit[:-1], False))] = ties.start
    return unit, first, last


def _range_maxima(curve: NDArray[np.float32], first: IntArray, last: IntArray) -> NDArray[np.float32]:
    """Maximum of each column over rows `first` to `last`, ends included; shape (ranges, block)."""
    maxima = np.empty((len(first), curve.shape[1]), dtype=curve.dtype)
    level = np.frexp(last - first + 1)[1] - 1  # the largest power of two that fits
    table, width = curve, 1
    for power in range(int(level.max()) + 1):
        mine = level == power
        if mine.any():
            maxima[mine] = np.maximum(table[first[mine]], table[last[mine] - width + 1])
        table, width = np.maximum(table[:-width], table[width:]), 2 * width
    return maxima


def _raise_to_group_maxima(
    best: NDArray[np.float32], values: NDArray[np.float32], row: IntArray, unit: IntArray
) -> None:
    """Raise each row of `best` to the largest of the `values` in the rows of its unit; units are in order."""
    size = max(1, DRAW_BYTES // (4 * best.shape[1]))
    starts = np.searchsorted(unit, np.arange(len(best) + 1))
    begin = 0
    while begin < len(best):
        end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + size, side="right")) - 1)
        part = slice(starts[begin], starts[end])
        tops = np.maximum.reduceat(values[row[part]], starts[begin:end] - starts[begin], axis=0)
        np.maximum(best[begin:end], tops, out=best[begin:end])
        begin = end
