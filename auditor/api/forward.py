"""Stream images through a model."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from auditor.ablation import accuracy_with_interval
from auditor.api.skips import Skips
from auditor.data import SPLITS, LabelledData, UnreadableImageError
from auditor.data.torch_data import Failure, ImageDataset, collate, prepare_worker
from auditor.distributed import current
from auditor.errors import DataError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[["Image"], Tensor]
# Reading that takes longer than so many seconds is worth the start of worker processes.
WORTH_IT = 3.0
SAMPLES = 5
AHEAD = 2
MOST_ON_CPU, MOST_ON_GPU = 4, 16


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
        Loader processes; None for as many as reading the images is worth.
    max_bad : int or None
        Images that may be left out because they cannot be read; None for 1 % of them or 10, whichever is more.
    """

    device: str = "auto"
    batch_size: int = 128
    workers: int | None = None
    max_bad: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError("batch_size must be at least 1.", got=str(self.batch_size))
        if self.workers is not None and self.workers < 0:
            raise OptionError("workers must be 0 or more.", got=str(self.workers))
        if self.max_bad is not None and self.max_bad < 0:
            raise OptionError("max_bad must be 0 or more.", got=str(self.max_bad), fix="--max-bad 0")
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
        found = {"device": str(self.torch_device()), "batch_size": self.batch_size, "threads": torch.get_num_threads()}
        world = current()
        return {**found, "processes": world.size} if world.several else found


@dataclass(frozen=True)
class Batch:
    """Images on the device, their labels there, and their positions in the data."""

    images: Tensor
    labels: Tensor
    index: NDArray[np.int64]


class Images:
    """Images of a data set in batches, preprocessed and on the device; may be walked through more than once.

    Worker processes read ahead while the model runs. They are started with the first walk and serve all of them.

    Parameters
    ----------
    data : LabelledData
    index : ndarray of int
        Which images, in this order.
    transform : callable
        From an image to the model's input.
    execution : Execution
    skips : Skips, optional
        Takes the images that cannot be read; without it they are an error. Batches hold the others: which images
        meet in a batch does not depend on which are left out.
    """

    def __init__(
        self,
        data: LabelledData,
        index: NDArray[np.int64],
        transform: Transform,
        execution: Execution,
        *,
        skips: Skips | None = None,
    ) -> None:
        self._device = execution.torch_device()
        self._skips = skips
        dataset = ImageDataset(data, index, transform, skip=() if skips is None else skips.rows)
        self._loader = image_loader(dataset, execution, execution.batch_size, batch_size=execution.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        device, ended = self._device, False
        try:
            for images, labels, rows, failures in self._loader:
                self._leave_out(failures)
                if images is not None:
                    yield Batch(
                        images.to(device, non_blocking=True),
                        labels.to(device, non_blocking=True),
                        rows.numpy().astype(np.int64),
                    )
            ended = True
        finally:
            if not ended:
                # A traceback would keep the workers alive, until a garbage collection somewhere else waits for them.
                self._loader._iterator = None

    def _leave_out(self, failures: list[Failure]) -> None:
        bad = []
        for failure in failures:
            if failure.error is None:
                continue
            if self._skips is None or not isinstance(failure.error, UnreadableImageError):
                raise failure.error
            bad.append((failure.index, failure.error))
        if bad and self._skips is not None:
            self._skips.add(bad)


def image_loader(dataset: ImageDataset, execution: Execution, size: int, **batching: Any) -> DataLoader[Any]:
    """Make a loader whose processes read ahead, if that pays, and that leaves the caller's random state alone.

    Parameters
    ----------
    dataset : ImageDataset
    execution : Execution
    size : int
        About how many images make a batch.
    **batching
        ``batch_size`` or ``batch_sampler``.
    """
    on_cpu = execution.torch_device().type == "cpu"
    workers = execution.workers
    if workers is None:
        workers = choose_workers(dataset, size, on_cpu=on_cpu)
    return DataLoader(
        dataset,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        persistent_workers=workers > 0,
        pin_memory=execution.torch_device().type == "cuda",
        collate_fn=collate,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),
        **batching,
    )


def batches(
    data: LabelledData,
    index: NDArray[np.int64],
    transform: Transform,
    execution: Execution,
    *,
    skips: Skips | None = None,
) -> Iterator[Batch]:
    """Yield the images at `index` once; see :class:`Images`."""
    return iter(Images(data, index, transform, execution, skips=skips))


def first_images(
    data: LabelledData, index: NDArray[np.int64], transform: Transform, execution: Execution, n: int = 2
) -> Tensor:
    """Preprocess the first `n` images that can be read, as an example of the model's input.

    Raises
    ------
    DataError
        If too many before them cannot be read.
    """
    single = replace(execution, batch_size=1, workers=0)
    skips = Skips(data, sum(len(data.splits[split]) for split in SPLITS[1:]), max_bad=execution.max_bad)
    found = [batch.images for batch in islice(batches(data, index, transform, single, skips=skips), n)]
    if not found:
        raise DataError("None of the images can be read.", got=f"{len(skips)} that cannot")
    return torch.cat(found)


def choose_workers(dataset: ImageDataset, batch_size: int, *, on_cpu: bool) -> int:
    """Decide how many processes read images: none unless that takes seconds, and no more than fit.

    A few images are read to see how long one takes. On the CPU the model needs the cores itself, so half of them
    read; a GPU leaves them idle. What the processes hand over lies in shared memory, which containers keep small.
    """
    places = np.unique(np.linspace(0, max(len(dataset) - 1, 0), SAMPLES).astype(int))
    size, seconds = 0, []
    for place in places if len(dataset) else ():
        began = time.perf_counter()
        item = dataset[int(place)]
        seconds.append(time.perf_counter() - began)
        if not isinstance(item, Failure):
            size = max(size, item[0].numel() * item[0].element_size())
    # The median: the first image also pays for imports.
    if not seconds or float(np.median(seconds)) * len(dataset) < WORTH_IT or not _can_be_sent(dataset):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, cores // current().local_size)
    wanted = min(MOST_ON_CPU, cores // 2) if on_cpu else min(MOST_ON_GPU, cores)
    shared = Path("/dev/shm")
    if shared.is_dir() and size:
        batch = size * batch_size
        # AHEAD batches each, and one in the making.
        wanted = min(wanted, int(disk_usage(shared).free * 0.8) // (batch * (AHEAD + 1)))
    return max(0, min(wanted, math.ceil(len(dataset) / batch_size)))


def _can_be_sent(dataset: ImageDataset) -> bool:
    """Whether worker processes can receive the data set where they do not inherit it.

    What was defined in a notebook or a script is not there in a process that starts afresh.
    """
    if multiprocessing.get_start_method() == "fork":
        return True
    try:
        return b"__main__" not in pickle.dumps(dataset)
    except Exception:  # whatever a data set's parts raise when they do not pickle
        return False


def load_split(
    data: LabelledData, split: str, transform: Transform, execution: Execution, *, skips: Skips | None = None
) -> tuple[Tensor, Tensor]:
    """Preprocess a whole split into memory, for training.

    Parameters
    ----------
    data, transform, execution, skips
        See :class:`Images`.
    split : str

    Returns
    -------
    images, labels : Tensor
        Shapes (N, C, H, W) and (N,), on the device.
    """
    parts = list(batches(data, data.splits[split], transform, execution, skips=skips))
    return torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> tuple[float, float, float]:
    """Accuracy on images in memory, with its Wilson interval."""
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in images.split(batch_size)])
    return accuracy_with_interval((found == labels).cpu().numpy())
