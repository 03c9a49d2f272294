"""Stream images through a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from auditor.ablation import accuracy_with_interval
from auditor.data import LabelledData
from auditor.data.torch_data import ImageDataset
from auditor.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[["Image"], Tensor]
IN_MEMORY = 4096


@dataclass(frozen=True)
class Execution:
    """How the work is done; none of it changes the results beyond float summation order.

    Parameters
    ----------
    device : str
        ``auto`` takes CUDA when present.
    batch_size : int
        Images per forward pass.
    workers : int or None
        Loader processes; None for none on small data, else up to four.
    """

    device: str = "auto"
    batch_size: int = 128
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError("batch_size must be at least 1.", got=str(self.batch_size))
        if self.workers is not None and self.workers < 0:
            raise OptionError("workers must be 0 or more.", got=str(self.workers))
        self.torch_device()

    def torch_device(self) -> torch.device:
        """Resolve ``auto`` and check that the device can be used.

        Raises
        ------
        OptionError
            If there is no such device.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise OptionError(
                f"The device {self.device!r} cannot be used: {str(error).splitlines()[0]}",
                wanted="auto, cpu" + (", cuda" if torch.cuda.is_available() else " (no CUDA device is present)"),
                got=repr(self.device),
            ) from None
        return device

    def on(self, module: nn.Module) -> Execution:
        """Resolve ``auto`` to where `module` is.

        Raises
        ------
        OptionError
            If another device was asked for.
        """
        parameter = next(module.parameters(), None)
        if parameter is None:
            return self
        if self.device != "auto" and self.torch_device().type != parameter.device.type:
            raise OptionError(
                "The model is on another device.",
                wanted=self.device,
                got=str(parameter.device),
                fix=f"Move the model there first, or use device={str(parameter.device)!r}.",
            )
        return replace(self, device=str(parameter.device))

    def describe(self) -> dict[str, object]:
        """For a manifest's provenance."""
        return {"device": str(self.torch_device()), "batch_size": self.batch_size, "threads": torch.get_num_threads()}


@dataclass(frozen=True)
class Batch:
    """Images on the device, their labels there, and their positions in the data."""

    images: Tensor
    labels: Tensor
    index: NDArray[np.int64]


def batches(
    data: LabelledData, index: NDArray[np.int64], transform: Transform, execution: Execution
) -> Iterator[Batch]:
    """Yield the images at `index`, in that order, preprocessed and on the device."""
    device = execution.torch_device()
    workers = execution.workers
    if workers is None:
        workers = 0 if len(index) <= IN_MEMORY else min(4, os.cpu_count() or 1)
    loader = DataLoader(
        ImageDataset(data, index, transform),
        batch_size=execution.batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for images, labels, rows in loader:
        yield Batch(
            images.to(device, non_blocking=True), labels.to(device, non_blocking=True), rows.numpy().astype(np.int64)
        )


def load_split(data: LabelledData, split: str, transform: Transform, execution: Execution) -> tuple[Tensor, Tensor]:
    """Preprocess a whole split into memory, for training.

    Returns
    -------
    images, labels : Tensor
        Shapes (N, C, H, W) and (N,), on the device.
    """
    parts = list(batches(data, data.splits[split], transform, execution))
    return torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[float, float, float]:
    """Accuracy on images in memory, with its Wilson interval."""
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in images.split(batch_size)])
    return accuracy_with_interval((found == labels).cpu().numpy())
