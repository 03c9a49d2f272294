"""The score split's images, read as often as ablations need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.api.forward import Execution, Transform, batches
from auditor.data import LabelledData
from auditor.errors import DataError


@dataclass(frozen=True)
class Part:
    """Some images of the split.

    Attributes
    ----------
    rows : ndarray of int64, shape (B,)
        Their places in the split.
    images, labels : Tensor
        Shapes (B, C, H, W) and (B,).
    donors : Tensor or None, shape (B, C, H, W)
        Another image for each, where an edit asks for them.
    """

    rows: NDArray[np.int64]
    images: Tensor
    labels: Tensor
    donors: Tensor | None = None


class ScoreImages:
    """Images in the order of the split, kept in memory if they fit there.

    Parameters
    ----------
    data : LabelledData
    transform : callable
    execution : Execution
    memory : int
        Bytes that the images may take; more of them are read again each time.
    donors : ndarray of int64, shape (N,), optional
        For each image the place in the split of the image that lends it its responses.
    """

    def __init__(
        self,
        data: LabelledData,
        transform: Transform,
        execution: Execution,
        *,
        memory: int,
        donors: NDArray[np.int64] | None = None,
    ) -> None:
        self._data, self._transform, self._execution = data, transform, execution
        self._index = data.splits["score"]
        self._memory, self._donors = memory, donors
        self._kept: Tensor | None = None
        self._labels = torch.as_tensor(self.labels, device=execution.torch_device())

    def __len__(self) -> int:
        return len(self._index)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image."""
        labels: NDArray[np.int64] = self._data.labels[self._index].astype(np.int64)
        return labels

    def first(self, n: int) -> Tensor:
        """The first images."""
        return self.at(np.arange(min(n, len(self)), dtype=np.int64))

    def at(self, rows: NDArray[np.int64]) -> Tensor:
        """Images at places of the split, shape (B, C, H, W)."""
        if self._kept is not None:
            return self._kept[torch.as_tensor(rows, device=self._kept.device)]
        execution = replace(self._execution, batch_size=max(1, len(rows)), workers=0)
        return torch.cat([b.images for b in batches(self._data, self._index[rows], self._transform, execution)])

    def parts(self, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[Part]:
        """Yield the images, or those at `rows`, `size` at a time."""
        rows = np.arange(len(self), dtype=np.int64) if rows is None else rows
        self._keep()
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        if self._kept is not None:
            loaded: Iterator[Tensor] = (self.at(chunk) for chunk in chunks)
        else:
            execution = replace(self._execution, batch_size=size)
            loaded = (b.images for b in batches(self._data, self._index[rows], self._transform, execution))
        for chunk, images in zip(chunks, loaded, strict=True):
            donors = None if self._donors is None else self.at(self._donors[chunk])
            yield Part(chunk, images, self._labels[torch.as_tensor(chunk, device=self._labels.device)], donors)

    def _keep(self) -> None:
        if self._kept is not None or len(self) == 0:
            return
        one = self.first(1)
        if one.numel() * one.element_size() * len(self) <= self._memory:
            found = batches(self._data, self._index, self._transform, self._execution)
            self._kept = torch.cat([b.images for b in found])


def draw_donors(labels: NDArray[np.int64], *, same_class: bool, seed: int) -> NDArray[np.int64]:
    """For each image another one, of any class or of its own, drawn once and for all.

    Every image lends its responses exactly once: each image takes those of the next one in a random round.

    Raises
    ------
    DataError
        If a class, or the split, has a single image.
    """
    rng = np.random.default_rng([seed, 41])
    donors = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels) if same_class else [None]:
        members = np.flatnonzero(labels == label) if same_class else np.arange(len(labels))
        if len(members) < 2:
            raise DataError(
                "Resampling needs two images" + (" of every class in the score split." if same_class else "."),
                got=f"{len(members)}",
                fix="Profile more images, or use --edit resample" if same_class else "Profile more images.",
            )
        order = rng.permutation(members)
        donors[order] = np.roll(order, -1)
    return donors


def noise_for(rows: NDArray[np.int64], shape: tuple[int, ...], unit_axis: int, *, seed: int, site: int) -> Tensor:
    """Standard normal numbers for a site, shape (B, n_units, *positions): the same for an image in any batch."""
    drawn = []
    for row in rows:
        words = np.random.SeedSequence([seed, 42, site, int(row)]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
        drawn.append(torch.randn(shape, generator=generator))
    return torch.stack(drawn).movedim(unit_axis, 1)
