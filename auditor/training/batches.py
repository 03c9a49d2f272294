"""Which samples go into which batch: functions of seed and epoch alone, so that training can resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Batches(Protocol):
    """A plan of batches per epoch."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, number: int) -> Iterator[Ints]:
        """Positions of the samples of each batch of one epoch."""


class ShuffledBatches:
    """Every sample once per epoch, in random order; a last batch of one sample is dropped (batch norm needs two)."""

    def __init__(self, labels: Ints, batch_size: int, *, seed: int) -> None:
        self._n = len(labels)
        self._size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._n // self._size + (self._n % self._size > 1)

    def epoch(self, number: int) -> Iterator[Ints]:
        """Yield the batches of epoch `number`."""
        order = np.random.default_rng([self._seed, 40, number]).permutation(self._n)
        for i in range(len(self)):
            yield order[i * self._size : (i + 1) * self._size]


class BalancedBatches:
    """The same number of samples of every class in every batch.

    Classes are walked through in independent random orders; a class that runs out starts anew, so small classes are
    seen more often than once per epoch. An epoch has as many batches as the samples fill. With more classes than fit
    twice into a batch, each batch holds a random choice of classes with two samples each.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    batch_size : int
        Rounded down to a multiple of the number of classes in a batch.
    seed : int
    """

    MINIMUM = 2

    def __init__(self, labels: Ints, batch_size: int, *, seed: int) -> None:
        self._members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        self._classes = min(len(self._members), max(batch_size // self.MINIMUM, 1))
        self._each = max(batch_size // self._classes, 1)
        self._n = len(labels)
        self._seed = seed

    def __len__(self) -> int:
        """Batches per epoch."""
        return max(1, round(self._n / (self._classes * self._each)))

    def epoch(self, number: int) -> Iterator[Ints]:
        """Yield the batches of epoch `number`."""
        rng = np.random.default_rng([self._seed, 41, number])
        streams = [_endless(members, rng) for members in self._members]
        deck: list[int] = []
        for _ in range(len(self)):
            while len(deck) < self._classes:
                deck += [c for c in rng.permutation(len(streams)).tolist() if c not in deck]
            chosen, deck = deck[: self._classes], deck[self._classes :]
            yield np.concatenate([[next(streams[c]) for _ in range(self._each)] for c in chosen]).astype(np.int64)


def _endless(members: Ints, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(members).tolist()
