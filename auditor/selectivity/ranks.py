"""Where each image stands in each unit's order of responses, and which images tie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ties:
    """Groups of more than one image with equal response, by unit and by position in the falling order of responses.

    Attributes
    ----------
    n_images, n_units : int
    unit, start, end : ndarray of int64, shape (G,)
        Unit ``unit[g]`` gives the images at positions ``start[g]`` to ``end[g] - 1`` the same response. Ordered by unit
        and position.
    """

    n_images: int
    n_units: int
    unit: IntArray
    start: IntArray
    end: IntArray

    @classmethod
    def join(cls, parts: Sequence[Ties]) -> Ties:
        """Ties of several sets of units on the same images, one after the other."""
        offsets = np.cumsum([0, *(part.n_units for part in parts)])
        return cls(
            n_images=parts[0].n_images,
            n_units=int(offsets[-1]),
            unit=np.concatenate([part.unit + offset for part, offset in zip(parts, offsets, strict=False)]),
            start=np.concatenate([part.start for part in parts]),
            end=np.concatenate([part.end for part in parts]),
        )

    def around(self, cut: int) -> tuple[IntArray, IntArray]:
        """Group that has `cut` strictly inside: its start and end for each unit, both `cut` where there is none."""
        start, end = np.full(self.n_units, cut), np.full(self.n_units, cut)
        inside = (self.start < cut) & (cut < self.end)
        start[self.unit[inside]], end[self.unit[inside]] = self.start[inside], self.end[inside]
        return start, end


class Ranks:
    """Ranks of a block of units.

    Parameters
    ----------
    responses : ndarray of float, shape (N, U)

    Attributes
    ----------
    ordered : ndarray of float, shape (U, N)
        Responses of each unit in falling order.
    more, at_least : ndarray of int32, shape (U, N)
        For each image, how many images respond more than it does, and how many at least as much (itself included).
    ties : Ties
    """

    def __init__(self, responses: NDArray[np.floating]) -> None:
        n_images, n_units = responses.shape
        rising = np.negative(responses.T, order="C")
        order = np.argsort(rising, axis=1)
        self.ordered: NDArray[np.floating] = np.take_along_axis(rising, order, axis=1)
        tied = self.ordered[:, 1:] == self.ordered[:, :-1]
        np.negative(self.ordered, out=self.ordered)
        self.ties = _groups(tied, n_images)
        starts = np.broadcast_to(np.arange(n_images, dtype=np.int32), (n_units, n_images)).copy()
        ends = starts + np.int32(1)
        if len(self.ties.unit):
            starts[:, 1:][tied] = 0
            np.maximum.accumulate(starts, axis=1, out=starts)
            ends[:, :-1][tied] = n_images
            ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
        self.more, self.at_least = np.empty_like(starts), np.empty_like(starts)
        np.put_along_axis(self.more, order, starts, axis=1)
        np.put_along_axis(self.at_least, order, ends, axis=1)

    def thresholds(self, rows: IntArray) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Counts at the thresholds that a class's own responses set, from the highest to the lowest.

        Parameters
        ----------
        rows : ndarray of int64, shape (n,)
            Images of the class.

        Returns
        -------
        images, hits : ndarray of int32, shape (U, n)
            Images of any class, and of this class, that respond at least as much as its j-th most active image.
        """
        images = np.sort(self.at_least[:, rows], axis=1)
        position = np.arange(1, len(rows) + 1, dtype=np.int32)
        tied = images[:, 1:] == images[:, :-1]
        if not tied.any():
            return images, np.broadcast_to(position, images.shape)
        hits = np.broadcast_to(position, images.shape).copy()
        hits[:, :-1][tied] = len(rows)
        return images, np.minimum.accumulate(hits[:, ::-1], axis=1)[:, ::-1]


def _groups(tied: NDArray[np.bool_], n_images: int) -> Ties:
    """Runs of neighbours that are equal; `tied` has shape (U, N - 1)."""
    unit, at = np.nonzero(tied)
    breaks = np.flatnonzero((unit[1:] != unit[:-1]) | (at[1:] != at[:-1] + 1)) + 1
    first = np.concatenate([[0], breaks]) if len(at) else np.empty(0, dtype=np.int64)
    last = np.concatenate([breaks, [len(at)]]) - 1 if len(at) else first
    return Ties(n_images, len(tied), unit=unit[first], start=at[first], end=at[last] + 2)
