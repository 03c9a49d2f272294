"""A data set as PyTorch's loaders read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from auditor.data.base import LabelledData


class ImageDataset(Dataset[tuple[Tensor, int, int]]):
    """Some images of a data set, transformed.

    Parameters
    ----------
    data : LabelledData
        The data set.
    indices : sequence of int
        Which of its images, in this order.
    transform : callable
        From a PIL image to a tensor of shape (C, H, W).

    Notes
    -----
    An item is ``(tensor, label, index)``, the index being that of the image in `data`.
    """

    def __init__(
        self, data: LabelledData, indices: Sequence[int] | NDArray[np.int64], transform: Callable[[Image], Tensor]
    ) -> None:
        self.data = data
        self.indices = np.asarray(indices, dtype=np.int64)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        index = int(self.indices[position])
        return self.transform(self.data.read(index)), int(self.data.labels[index]), index
