"""Mutual information of a unit's response and the class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from auditor.errors import OptionError
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


class MutualInformation(RankMetric):
    """How many bits the unit's response tells about the class of the image, on binned responses.

    The images, in order of response, are cut into `bins` parts of equal size; a cut that would part images with equal
    responses moves to the nearer end of that group. So a unit that is silent on half of the images has five and a half
    bins, one of them twice as full, and the value depends on the order of the responses only. The estimate is the
    plug-in one, in bits.

    Parameters
    ----------
    bins : int
        At least 2.

    Notes
    -----
    The plug-in estimate is biased upward, by about ``(bins - 1) (classes - 1) / (2 N ln 2)`` bits. The null has the
    same bias: ``excess`` is the shuffle-corrected information. The null is exact and as large as asked for. The
    interval is analytic: the large-sample standard error of the plug-in estimate to either side, the lower end lowered
    by the bias.

    The preferred class is the one of which the response tells most: its divergence of ``P(response | class)`` from
    ``P(response)``, in bits, is the largest. That may be a class for which the unit is silent.
    """

    name: ClassVar[str] = "mutual_information"
    label: ClassVar[str] = "mutual information of response and class (bits)"
    reference: ClassVar[str] = (
        "Panzeri et al. 2007, Correcting for the sampling bias problem in spike train information"
    )
    signed: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    def __init__(self, *, bins: int = 10) -> None:
        if bins < 2:
            raise OptionError("Information needs at least two bins.", wanted="an integer of 2 or more", got=str(bins))
        self.bins = bins

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        n_images, n_units = data.responses.shape
        edges = self._edges(data.ranks.ties)
        present = np.flatnonzero(data.count)
        joint = _counts(data, edges, present) / n_images  # (present, U, bins)
        by_class, by_bin = joint.sum(axis=2, keepdims=True), joint.sum(axis=0, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = np.where(joint > 0, np.log2(joint / (by_class * by_bin)), 0.0)
        value = np.maximum((joint * bits).sum(axis=(0, 2)), 0.0)
        each = np.full((data.n_classes, n_units), np.nan)
        each[present] = ((joint / by_class) * bits).sum(axis=2)
        spread = np.sqrt(np.maximum((joint * bits**2).sum(axis=(0, 2)) - value**2, 0.0) / n_images)
        used = (by_bin[0] > 0).sum(axis=1)
        bias = (used - 1) * (len(present) - 1) / (2 * n_images * np.log(2))
        half = ndtri((1 + confidence) / 2) * spread
        return Measured(
            value,
            best_class(each)[1],
            low=value - bias - half,
            high=value + half,
            per_class=each,
            extras={"bins": used},
        )

    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Mutual information under random label sequences."""
        n_images, count = len(labels), np.bincount(labels, minlength=n_classes)
        edges, unit = np.unique(self._edges(ties), axis=0, return_inverse=True)
        bounds = np.column_stack([np.zeros(len(edges), dtype=np.int64), edges, np.full(len(edges), n_images)])
        entropy = _times_log2(np.arange(n_images + 1))
        fixed = n_images * np.log2(n_images) - entropy[count].sum() - entropy[np.diff(bounds, axis=1)].sum(axis=1)
        null = np.empty((n, ties.n_units))
        for which, drawn in label_sequences(labels, n=n, seed=seed):
            size = max(1, DRAW_BYTES // (drawn.shape[1] * (self.bins + 1) * 32))
            total = np.repeat(fixed[:, None], drawn.shape[1], axis=1)
            for k in np.flatnonzero(count):
                hits = cumulative_hits(drawn, int(k))
                for first in range(0, len(edges), size):
                    part = slice(first, first + size)
                    total[part] += entropy[np.diff(hits[bounds[part]], axis=1)].sum(axis=1)
            null[which] = np.maximum(total / n_images, 0.0).T[:, unit.ravel()]
        return null

    def _edges(self, ties: Ties) -> IntArray:
        """How many images stand above each cut, shape (U, bins - 1)."""
        edges = []
        for part in range(1, self.bins):
            cut = round(part * ties.n_images / self.bins)
            start, end = ties.around(cut)
            edges.append(np.where(start + end < 2 * cut, end, start))
        return np.stack(edges, axis=1)


def _counts(data: LabelledResponses, edges: IntArray, present: IntArray) -> FloatArray:
    """Images of each class in each bin, shape (len(present), U, bins)."""
    n_units, n_bins = edges.shape[0], edges.shape[1] + 1
    code = np.zeros(data.ranks.at_least.shape, dtype=np.int64)
    for edge in edges.T:
        code += data.ranks.at_least > edge[:, None]
    code += np.arange(n_units)[:, None] * n_bins
    tables = [np.bincount(code[:, data.members[k]].ravel(), minlength=n_units * n_bins) for k in present]
    return np.stack(tables).reshape(len(present), n_units, n_bins).astype(np.float64)


def _times_log2(n: NDArray[np.int64]) -> FloatArray:
    numbers = n.astype(np.float64)
    result: FloatArray = numbers * np.log2(np.maximum(numbers, 1.0))
    return result
