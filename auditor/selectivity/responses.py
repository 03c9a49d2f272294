"""The second kind of metric: it sees every response and label, not only class moments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from auditor.selectivity.base import AnyMetric, FloatArray, IntArray
from auditor.selectivity.ranks import Ranks, Ties
from auditor.selectivity.resample import class_members

DRAW_BYTES = 64 * 2**20
# Bytes that a null takes per image and draw: indicator, counts, a curve, and the levels of a table of maxima.
DRAW_WIDTH = 100


class LabelledResponses:
    """Responses of a block of units, and what metrics derive from them more than once.

    Parameters
    ----------
    responses : ndarray of float, shape (N, U)
        Finite.
    labels : ndarray of int64, shape (N,)
    n_classes : int

    Attributes
    ----------
    members : list of ndarray
        Rows of each class, in order.
    count : ndarray of int64, shape (C,)
        Images of each class; some may be 0.
    """

    def __init__(self, responses: NDArray[np.floating], labels: IntArray, n_classes: int) -> None:
        self.responses, self.labels, self.n_classes = responses, labels, n_classes
        self.members = class_members(labels, n_classes)
        self.count = np.array([len(rows) for rows in self.members])

    @cached_property
    def ranks(self) -> Ranks:
        """Ranks of the images, sorted once for all metrics."""
        return Ranks(self.responses)

    def with_labels(self, labels: IntArray) -> LabelledResponses:
        """Return the same responses under other labels; what is known of their order is kept."""
        other = LabelledResponses(self.responses, labels, self.n_classes)
        if "ranks" in self.__dict__:
            other.__dict__["ranks"] = self.ranks
        return other


@dataclass(frozen=True, eq=False)
class Measured:
    """What a response metric finds.

    Attributes
    ----------
    value : ndarray of float64, shape (U,)
    preferred : ndarray of int64, shape (U,)
        Best class; -1 where there is none.
    low, high : ndarray of float64, shape (U,), optional
        Interval of the value; None where the metric has none.
    chance : ndarray of float64, shape (U,), optional
        Value without class signal, where it differs from unit to unit.
    per_class : ndarray of float64, shape (C, U), optional
        Value of each class; NaN for a class without images.
    null_mean, p : ndarray of float64, shape (U,), optional
        An analytic null. Where given, no labels are shuffled.
    extras : dict of str to ndarray, each of shape (U,)
        Further columns, written as ``<metric>_<name>``.
    """

    value: FloatArray
    preferred: IntArray
    low: FloatArray | None = None
    high: FloatArray | None = None
    chance: FloatArray | None = None
    per_class: FloatArray | None = None
    null_mean: FloatArray | None = None
    p: FloatArray | None = None
    extras: dict[str, NDArray[np.generic]] = field(default_factory=dict)


class ResponseMetric(AnyMetric):
    """A metric that sees all responses and labels of a block of units.

    Attributes
    ----------
    max_shuffles : int
        At most so many label shuffles, however many are asked for, because each one measures anew.
    """

    max_shuffles: ClassVar[int] = 100

    @abstractmethod
    def measure(self, data: LabelledResponses, *, confidence: float = 0.95) -> Measured:
        """Score every unit of the block.

        Parameters
        ----------
        data : LabelledResponses
            At least two classes have images.
        confidence : float
            Of the interval.
        """

    def null(self, data: LabelledResponses, *, n: int, seed: int) -> FloatArray:
        """Value of every unit under random permutations of the labels, the same ones for all units of a seed.

        Returns
        -------
        ndarray of float64, shape (min(n, max_shuffles), U)
        """
        rng = np.random.default_rng([seed, 0])
        draws = [
            self.measure(data.with_labels(rng.permuted(data.labels[None], axis=1)[0])).value
            for _ in range(min(n, self.max_shuffles))
        ]
        return np.array(draws).reshape(len(draws), data.responses.shape[1])


class RankMetric(ResponseMetric):
    """A response metric that depends on the order of a unit's responses only.

    Labels shuffled over images are labels shuffled over places in that order, whatever the order is. So one set of
    label sequences serves all units, and each unit only brings its ties. Its null is that of label shuffles, exactly;
    but a draw does not put the same images together in different units, so a layer's mean has no quantile.
    """

    @abstractmethod
    def rank_null(self, ties: Ties, labels: IntArray, n_classes: int, *, n: int, seed: int) -> FloatArray:
        """Value under `n` random label sequences, from the most to the least active image.

        Returns
        -------
        ndarray of float64, shape (n, U)
        """

    def null(self, data: LabelledResponses, *, n: int, seed: int) -> FloatArray:
        """Value of every unit under label shuffles."""
        return self.rank_null(data.ranks.ties, data.labels, data.n_classes, n=n, seed=seed)


def label_sequences(labels: IntArray, *, n: int, seed: int) -> Iterator[tuple[slice, NDArray[np.int32]]]:
    """Yield `n` random label sequences in blocks: which draws they are, and labels of shape (N, block)."""
    rng = np.random.default_rng([seed, 0])
    size = int(np.clip(DRAW_BYTES // (DRAW_WIDTH * len(labels)), 1, max(n, 1)))
    small = labels.astype(np.int32)
    for start in range(0, n, size):
        block = min(size, n - start)
        drawn = rng.permuted(np.broadcast_to(small, (block, len(small))), axis=1)
        yield slice(start, start + block), np.ascontiguousarray(drawn.T)


def cumulative_hits(drawn: NDArray[np.int32], k: int) -> NDArray[np.int32]:
    """Images of class `k` among the first i of each sequence, shape (N + 1, block)."""
    hits = np.zeros((len(drawn) + 1, drawn.shape[1]), dtype=np.int32)
    np.cumsum(drawn == k, axis=0, out=hits[1:])
    return hits


def best_class(per_class: FloatArray) -> tuple[FloatArray, IntArray]:
    """Largest entry of each unit of (C, U) and its class, the first of equals; NaN entries are left out."""
    filled = np.where(np.isnan(per_class), -np.inf, per_class)
    return filled.max(axis=0), filled.argmax(axis=0).astype(np.int64)


def sums_with_ties(
    ties: Ties,
    hits: NDArray[np.int32],
    worth: FloatArray,
    together: Callable[[FloatArray, IntArray, IntArray], FloatArray],
) -> FloatArray:
    """Add up what each hit of each sequence is worth, for each unit: tied images pass the threshold together.

    Parameters
    ----------
    ties : Ties
    hits : ndarray of int32, shape (N + 1, block)
        From :func:`cumulative_hits`.
    worth : ndarray of float64, shape (N, block)
        What a hit at each position is worth where no other image ties with it; 0 where there is no hit.
    together : callable
        Given hits up to the end (G, block), start (G, 1) and end (G, 1) of groups of ties: what one hit within the
        group is worth, broadcasting to (G, block).

    Returns
    -------
    ndarray of float64, shape (U, block)
    """
    curve = np.zeros(hits.shape)
    np.cumsum(worth, axis=0, out=curve[1:])
    total = np.repeat(curve[-1:], ties.n_units, axis=0)
    size = max(1, DRAW_BYTES // (hits.shape[1] * 40))
    for first in range(0, len(ties.unit), size):
        part = slice(first, first + size)
        unit, start, end = ties.unit[part], ties.start[part], ties.end[part]
        last = hits[end].astype(np.float64)
        change = (last - hits[start]) * together(last, start[:, None], end[:, None])
        change -= curve[end] - curve[start]
        groups = np.arange(len(unit))
        by_unit = sparse.csr_array((np.ones(len(unit)), (unit, groups)), shape=(ties.n_units, len(unit)))
        total += np.asarray(by_unit @ change)
    return total
