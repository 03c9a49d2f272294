"""Class moments of a pass, counted so that the same rows give the same bytes however they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data import SPLITS
from auditor.stats.moments import ClassMoments
from auditor.store.reader import StoreReader
from auditor.store.shards import ShardedReader
from auditor.units import Site

PROFILED = ("select", "score")
# Rows that are counted at once: enough for speed, few enough to be held.
COUNTED = 256

Moments = dict[str, dict[str, ClassMoments]]


def moments_of(store: StoreReader | ShardedReader, sites: Sequence[Site], n_classes: int) -> Moments:
    """Class moments of stored responses: split, then site name, to moments."""
    moments = {split: {site.name: ClassMoments(n_classes, site.n_units) for site in sites} for split in PROFILED}
    tally = Tally(moments)
    read_back(store, tally, sites)
    tally.finish()
    return moments


class Tally:
    """Counts rows into moments in blocks that begin at the first row, whatever comes in together.

    So the same rows give the same bytes, also where a part of them was written by an earlier process.
    """

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self._waiting: list[tuple[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.int8]]] = []
        self._n = 0

    def add(self, responses: Mapping[str, NDArray[Any]], labels: NDArray[np.int64], codes: NDArray[np.int8]) -> None:
        """Add rows."""
        start = 0
        while start < len(labels):
            stop = min(len(labels), start + COUNTED - self._n)
            part = slice(start, stop)
            self._waiting.append(({name: r[part] for name, r in responses.items()}, labels[part], codes[part]))
            self._n += stop - start
            start = stop
            if self._n == COUNTED:
                self.finish()

    def finish(self) -> None:
        """Count what waits for its block to fill."""
        waiting, self._waiting, self._n = self._waiting, [], 0
        if not waiting:
            return
        labels, codes = (np.concatenate([part[i] for part in waiting]) for i in (1, 2))
        for name in waiting[0][0]:
            values = np.concatenate([part[0][name] for part in waiting])
            for split in PROFILED:
                mine = codes == SPLITS.index(split)
                if mine.any():
                    self._moments[split][name].update(values[mine], labels[mine])


def read_back(store: StoreReader | ShardedReader, tally: Tally, sites: Sequence[Site], step: int = COUNTED) -> None:
    """Add the rows that an earlier process wrote."""
    labels, codes = store.labels, store.splits
    for start in range(0, store.n_rows, step):
        part = slice(start, min(start + step, store.n_rows))
        responses = {site.name: store.responses(site.name, part) for site in sites}
        tally.add(responses, labels[part], codes[part])
