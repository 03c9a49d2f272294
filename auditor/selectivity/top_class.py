"""Top-class selectivity: how long the most active images stay within one class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from auditor.selectivity.base import FloatArray, IntArray
from auditor.selectivity.ranks import Ties
from auditor.selectivity.responses import LabelledResponses, Measured, RankMetric, label_sequences


class TopClass(RankMetric):
    """How many of the most active images come before the first one of another class.

    Images that tie with the first one of another class do not come before it. Beside it ``share``, the same as a
    share of the class's images, which is the hit rate at the lowest threshold without a false alarm.

    Notes
    -----
    The null is exact and as large as asked for. There is no interval: the count hangs on the single most active image
    of all other classes, and resampling such an extreme does not estimate its spread.
    """

    name: ClassVar[str] = "top_class"
    label: ClassVar[str] = "most active images before one of another class"
    reference: ClassVar[str] = "Gale et al. 2020, Are there any 'object detectors' in the hidden layers of CNNs?"
    signed: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        present = np.flatnonzero(data.count)
        first = np.stack([data.ranks.more[:, data.members[k]].min(axis=1) for k in present])
        preferred = present[first.argmin(axis=0)].astype(np.int64)
        value = np.partition(first, 1, axis=0)[1].astype(np.float64)
        return Measured(value, preferred, extras={"share": value / data.count[preferred]})

    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Images before the first of another class under random label sequences."""
        null = np.empty((n, ties.n_units))
        for which, drawn in label_sequences(labels, n=n, seed=seed):
            lead = (drawn != drawn[:1]).argmax(axis=0)
            null[which] = lead[:, None]
            for i in np.unique(lead):
                start, _ = ties.around(int(i))
                null[which][lead == i] = start
        return null
