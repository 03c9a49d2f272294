"""Precision: how pure the most active images are."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from auditor.errors import OptionError
from auditor.selectivity.base import FloatArray, IntArray
from auditor.selectivity.ranks import Ties
from auditor.selectivity.responses import (
    LabelledResponses,
    Measured,
    RankMetric,
    best_class,
    cumulative_hits,
    label_sequences,
)
from auditor.stats.intervals import wilson


class Precision(RankMetric):
    """Share of the most frequent class among the most active images.

    Beside it, because a pure top says little about the rest (Gale et al. 2020): ``hit_rate``, the share of that
    class's images which are among the most active, and ``false_alarm_rate``, the share of all others that are.
    ``threshold`` is the response of the last image taken.

    Parameters
    ----------
    n : int
        How many images are the most active; all of them where there are fewer.

    Notes
    -----
    A class with fewer than `n` images cannot reach 1. Images that tie for the last places share them: the value is the
    mean over all ways to break the tie. The null is exact and as large as asked for. The interval is Wilson's, with
    class and number of images held fixed.
    """

    name: ClassVar[str] = "precision"
    label: ClassVar[str] = "precision among the 100 most active images"
    reference: ClassVar[str] = "Zhou et al. 2015, Object detectors emerge in deep scene CNNs"
    signed: ClassVar[bool] = True

    def __init__(self, *, n: int = 100) -> None:
        if n < 1:
            raise OptionError("Precision needs at least one image.", wanted="an integer of 1 or more", got=str(n))
        self.n = n

    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit; see :meth:`ResponseMetric.measure`."""
        n_images, n_units = data.responses.shape
        top = min(self.n, n_images)
        more, at_least = data.ranks.more, data.ranks.at_least
        weight = np.clip((top - more) / (at_least - more), 0.0, 1.0)
        hits = np.stack([weight[:, rows].sum(axis=1) for rows in data.members])
        each = np.where(data.count[:, None] > 0, hits / top, np.nan)
        value, preferred = best_class(each)
        n_in = data.count[preferred]
        best = hits[preferred, np.arange(n_units)]
        _, low, high = wilson(np.clip(best, 0, top), top, confidence)
        extras = {
            "threshold": data.ranks.ordered[:, top - 1].astype(np.float64),
            "hit_rate": best / n_in,
            "false_alarm_rate": (top - best) / (n_images - n_in),
        }
        return Measured(value, preferred, low=low, high=high, chance=n_in / n_images, per_class=each, extras=extras)

    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Precision under random label sequences."""
        top = min(self.n, len(labels))
        groups, unit = np.unique(np.stack(ties.around(top)), axis=1, return_inverse=True)
        start, end = groups
        share = np.where(end > start, (top - start) / np.maximum(end - start, 1), 0.0)[:, None]
        null = np.empty((n, ties.n_units))
        for which, drawn in label_sequences(labels, n=n, seed=seed):
            best = np.zeros((len(start), drawn.shape[1]))
            for k in np.flatnonzero(np.bincount(labels, minlength=n_classes)):
                hits = cumulative_hits(drawn, int(k))
                np.maximum(best, (1 - share) * hits[start] + share * hits[end], out=best)
            null[which] = (best / top).T[:, unit.ravel()]
        return null
