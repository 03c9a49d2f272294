"""A training's pictures: in memory where they fit, else read batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from auditor.api.forward import Execution, Images, Transform, image_loader, load_split
from auditor.api.models import Prepared
from auditor.api.skips import SKIPPED, Skips
from auditor.data import LabelledData
from auditor.data.torch_data import ImageDataset
from auditor.distributed import World
from auditor.errors import DataError, unknown_name
from auditor.progress import Reporter
from auditor.store.space import format_bytes
from auditor.training import InMemory, Source
from auditor.training.ranks import Share

CACHE = ("auto", "always", "never")
# Of the free memory: while batches are joined the pictures are there twice, and the network needs room, too.
SHARE = 0.25
UNKNOWN = 4 * 2**30
_GROUP = Path("/sys/fs/cgroup")

Ints = NDArray[np.int64]


class HeldOut:
    """Validation pictures; may be walked through once per epoch.

    Parameters
    ----------
    parts : Images or InMemory
        Of several ranks' pictures, this one's.
    labels : ndarray of int64, shape (N,)
        Of all ranks' pictures.
    batch_size : int
    share : Share
        The rank's part of the N.
    """

    def __init__(self, parts: Images | InMemory, labels: Ints, batch_size: int, share: Share) -> None:
        self.labels = labels
        self.share = share
        self._parts = parts
        self._size = batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Ints]]:
        """Batches of the rank's pictures, with their labels."""
        if not len(self.share):
            return
        start = self.share.start
        batches = self._parts.images.split(self._size) if isinstance(self._parts, InMemory) else self._parts
        for batch in batches:
            images = batch if isinstance(batch, Tensor) else batch.images
            yield images, self.labels[start : start + len(images)]
            start += len(images)


class _Planned(Sampler[list[int]]):
    """Hands a loader the batches of the epoch to come."""

    def __init__(self) -> None:
        self.plan: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


class Streamed:
    """Training pictures that are read and preprocessed anew in every epoch, by worker processes where that pays.

    Parameters
    ----------
    data : LabelledData
    index : ndarray of int
        Pictures that can be read.
    transform : callable
    batch_size : int
        About how many make a batch.
    execution : Execution
    """

    def __init__(
        self, data: LabelledData, index: Ints, transform: Transform, batch_size: int, execution: Execution
    ) -> None:
        self.labels = data.labels[index]
        self.device = execution.torch_device()
        self._sampler = _Planned()
        dataset = ImageDataset(data, index, transform)
        self._loader = image_loader(dataset, execution, batch_size, batch_sampler=self._sampler)

    def batches(self, plan: Iterable[Ints]) -> Iterator[Tensor]:
        """See :meth:`auditor.training.Source.batches`."""
        self._sampler.plan = [rows.tolist() for rows in plan]
        ended = False
        try:
            for images, _labels, _rows, failures in self._loader:
                for failure in failures:
                    if failure.error is not None:
                        raise failure.error
                yield images.to(self.device, non_blocking=True)
            ended = True
        finally:
            if not ended:
                self._loader._iterator = None  # ends the workers now, not at some later garbage collection


@dataclass(frozen=True)
class TrainingData:
    """Pictures to learn from and to validate on."""

    train: Source
    held_out: HeldOut


def open_shared_data(
    data: LabelledData,
    start: Prepared,
    execution: Execution,
    *,
    batch_size: int,
    cache_images: str,
    state: Path,
    world: World,
    reporter: Reporter,
) -> TrainingData:
    """Make the pictures ready for every rank: all leave out the same ones, which the main rank finds first.

    Parameters
    ----------
    data, start, execution, batch_size, cache_images, reporter
        See :func:`open_training_data`.
    state : Path
        Where the training keeps its state. Pictures that cannot be read are listed beside it.
    world : World

    Raises
    ------
    DataError
        If too many cannot be read, or not all ranks can read the same ones.
    """
    n_images = sum(len(data.splits[split]) for split in ("train", "select"))
    with world.first("unreadable images"):
        skips = Skips(data, n_images, path=state.with_name(SKIPPED), max_bad=execution.max_bad)
        pictures = open_training_data(
            data, start, execution, batch_size=batch_size, cache_images=cache_images, skips=skips,
            checked=state.exists() or not world.main, world=world, reporter=reporter,
        )  # fmt: skip
    left_out = world.gather("images", len(skips))
    if len(set(left_out)) > 1:
        raise DataError(
            "The ranks cannot read the same images.",
            wanted=f"{left_out[0]} left out, as on rank 0",
            got=", ".join(map(str, left_out)),
            fix="Repeat the command to leave out what one of them cannot read.",
        )
    skips.announce(reporter)
    return pictures


def open_training_data(
    data: LabelledData,
    start: Prepared,
    execution: Execution,
    *,
    batch_size: int,
    cache_images: str,
    skips: Skips,
    checked: bool,
    world: World,
    reporter: Reporter,
) -> TrainingData:
    """Make the train and the select split ready.

    What comes of a training does not depend on where the pictures are kept.

    Parameters
    ----------
    data : LabelledData
    start : Prepared
        Tells the preprocessing.
    execution : Execution
    batch_size : int
        Of the training.
    cache_images : {"auto", "always", "never"}
        Whether preprocessed pictures are kept in memory; ``auto``: if they take at most a quarter of what is free.
    skips : Skips
        Takes pictures that cannot be read.
    checked : bool
        Whether an earlier call has found those already.
    world : World
        Each rank gets all of the train split, and its share of the select split.
    reporter : Reporter
    """
    transform = start.preprocessing.build()
    if _fits(data, start, execution, cache_images, world, reporter):
        images, labels = load_split(data, "train", transform, execution, skips=skips)
        held_images, held_labels = load_split(data, "select", transform, execution, skips=skips)
        share = Share.of(len(held_labels), world)
        mine = held_images[share.own].clone() if world.several else held_images
        held = InMemory(mine, held_labels[share.own])
        return TrainingData(
            InMemory(images, labels), HeldOut(held, held_labels.cpu().numpy(), execution.batch_size, share)
        )
    index = {split: data.splits[split] for split in ("train", "select")}
    if not checked:
        # Batches are planned from what can be read, as they are where everything is read first.
        for rows in index.values():
            for _ in Images(data, rows, _nothing, execution, skips=skips):
                pass
    unreadable = {one.id for one in skips.all}
    bad = [row for row, name in enumerate(data.ids) if name in unreadable] if unreadable else []
    train, select = (rows[~np.isin(rows, bad)] for rows in index.values())
    share = Share.of(len(select), world)
    parts = Images(data, select[share.own], transform, execution)
    return TrainingData(
        Streamed(data, train, transform, batch_size, execution),
        HeldOut(parts, data.labels[select], execution.batch_size, share),
    )


def check_classes(labels: Ints, classes: Sequence[str], reporter: Reporter) -> None:
    """Refuse to train on one class; say which classes are missing.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
        Of the train split.
    classes : sequence of str
    reporter : Reporter

    Raises
    ------
    DataError
    """
    if len(labels) == 0:
        raise DataError("The train split is empty, so there is nothing to train on.", fix="Profile with --fractions.")
    there = set(labels.tolist())
    if len(there) < 2:
        raise DataError(
            "The train split has images of one class only, so there is nothing to learn.",
            wanted="two classes or more",
            got=f"{len(labels)} of {classes[there.pop()]}",
            fix="A larger --limit, or other --fractions.",
        )
    missing = [name for number, name in enumerate(classes) if number not in there]
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        reporter.say(f"Training: {len(missing)} of {len(classes)} classes have no image in the train split: {named}.")


def check_cache(choice: str) -> str:
    """Refuse what is no choice of where pictures are kept.

    Raises
    ------
    UnknownNameError
    """
    if choice not in CACHE:
        raise unknown_name("choice of keeping images in memory", choice, CACHE)
    return choice


def _nothing(_image: object) -> Tensor:
    return torch.empty(0)


def _fits(
    data: LabelledData, start: Prepared, execution: Execution, choice: str, world: World, reporter: Reporter
) -> bool:
    if choice != "auto":
        return choice == "always"
    n = len(data.splits["train"]) + len(data.splits["select"])
    device = execution.torch_device()
    need, free = 4 * n * prod(start.preprocessing.input_size), free_memory(device)
    if device.type == "cpu":
        free /= world.local_size  # GPUs are each rank's own
    if need <= SHARE * free:
        return True
    reporter.say(
        f"Images: {format_bytes(need)} preprocessed, of {format_bytes(int(free))} free memory; they are read anew in "
        "each epoch (--cache-images always keeps them in memory)."
    )
    return False


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; for the CPU also what the process's group may still take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found.append(next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
        most, used = (_GROUP.joinpath(name).read_text().strip() for name in ("memory.max", "memory.current"))
        if most != "max":
            found.append(float(most) - float(used))
    except (OSError, ValueError, StopIteration):
        pass
    return min(found, default=float(UNKNOWN))
