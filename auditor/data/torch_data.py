"""A data set as PyTorch's loaders read it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from auditor.data.base import LabelledData
from auditor.errors import AuditorError


@dataclass(frozen=True)
class Failure:
    """An image that there is no tensor of.

    Parameters
    ----------
    index : int
        Its position in the data.
    error : AuditorError or None
        Why; None for an image that was not tried. It travels as a value, because PyTorch would wrap what a worker
        process raises into another message.
    """

    index: int
    error: AuditorError | None


Item = tuple[Tensor, int, int]
Collated = tuple[Tensor | None, Tensor, Tensor, list[Failure]]


class ImageDataset(Dataset[Item | Failure]):
    """Some images of a data set, transformed.

    Parameters
    ----------
    data : LabelledData
        The data set.
    indices : sequence of int
        Which of its images, in this order.
    transform : callable
        From a PIL image to a tensor of shape (C, H, W).
    skip : collection of int
        Images that are not tried.

    Notes
    -----
    An item is ``(tensor, label, index)``, the index being that of the image in `data`, or a :class:`Failure`.
    """

    def __init__(
        self,
        data: LabelledData,
        indices: Sequence[int] | NDArray[np.int64],
        transform: Callable[[Image], Tensor],
        *,
        skip: Collection[int] = (),
    ) -> None:
        self.data = data
        self.indices = np.asarray(indices, dtype=np.int64)
        self.transform = transform
        self.skip = frozenset(skip)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Item | Failure:
        index = int(self.indices[position])
        if index in self.skip:
            return Failure(index, None)
        try:
            image = self.data.read(index)
        except AuditorError as error:
            error.__traceback__ = error.__cause__ = None  # which do not travel between processes
            return Failure(index, error)
        return self.transform(image), int(self.data.labels[index]), index


def collate(items: Sequence[Item | Failure]) -> Collated:
    """Join items into ``(images, labels, indices, failures)``; images are None where every item failed."""
    good = [item for item in items if not isinstance(item, Failure)]
    failures = [item for item in items if isinstance(item, Failure)]
    if not good:
        empty = torch.empty(0, dtype=torch.int64)
        return None, empty, empty, failures
    images, labels, indices = default_collate(good)
    return images, labels, indices, failures


def prepare_worker(_worker: int) -> None:
    """Let a process that reads images end without a traceback when who asked for them is gone.

    Tensors are fetched from a thread of the worker, which prints what fails there. Where the main process is
    interrupted in the middle of a fetch, that is the broken connection.
    """
    sys.excepthook = _ignore_a_broken_connection


def _ignore_a_broken_connection(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if threading.current_thread() is threading.main_thread() or not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, traceback)
