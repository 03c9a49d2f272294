"""Where a training's pictures come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class Source(Protocol):
    """Labelled pictures that can be taken in any order, batch by batch."""

    labels: Ints
    device: torch.device

    def batches(self, plan: Iterable[Ints]) -> Iterator[Tensor]:
        """Yield the pictures at each list of positions, shape (B, C, H, W), on the device."""


class InMemory:
    """Pictures that are all in memory.

    Parameters
    ----------
    images : Tensor
        Preprocessed, shape (N, C, H, W).
    labels : Tensor
        Shape (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels: Ints = labels.cpu().numpy()
        self.device = images.device

    def batches(self, plan: Iterable[Ints]) -> Iterator[Tensor]:
        """See :meth:`Source.batches`."""
        for rows in plan:
            yield self.images[torch.from_numpy(rows).to(self.device)]
