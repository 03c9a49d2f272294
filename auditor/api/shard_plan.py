"""How the images of a profile are divided among processes, written down so that any number of them can go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auditor.api.settings import MOST_SHARDS, StoreSettings
from auditor.api.skips import SKIPPED, read_skipped, write_skipped
from auditor.api.storing import SHARDS, STORE, shard_file, shard_is_complete
from auditor.data import LabelledData
from auditor.errors import RunError
from auditor.store.files import read_json, write_json
from auditor.store.reader import StoreReader
from auditor.store.writer import seal

PLAN = "plan.json"
EACH = 4
"""Shards for each process: fast ones take more of them than slow ones."""


@dataclass(frozen=True)
class ShardPlan:
    """Where each shard of a pass begins and ends.

    Attributes
    ----------
    folder : Path
        The run's.
    bounds : tuple of int
        Shard k (from 1) holds the images ``bounds[k - 1]`` to ``bounds[k]`` of the pass.
    """

    folder: Path
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> ShardPlan | None:
        """Read the plan of a run; None if it is made in one piece, or in shards that the user divided.

        Raises
        ------
        RunError
            If the file is damaged.
        """
        path = folder / SHARDS / PLAN
        if not path.exists():
            return None
        bounds = read_json(path).get("bounds")
        whole = isinstance(bounds, list) and len(bounds) > 1 and all(type(bound) is int for bound in bounds)
        if not (whole and bounds[0] == 0 and bounds == sorted(set(bounds))):
            raise RunError(f"{path} is damaged.", fix="Profile again under another --name.")
        return cls(folder, tuple(bounds))

    @classmethod
    def begin(
        cls, folder: Path, order: NDArray[np.int64], data: LabelledData, *, size: int, batch_size: int
    ) -> ShardPlan:
        """Divide a pass among `size` processes; what one process has begun becomes the first shard.

        Shards end where batches do, as far as there are enough of those: then images meet in the same batches as in
        one process.

        Parameters
        ----------
        folder : Path
        order : ndarray of int64
            Images in the order of the pass.
        data : LabelledData
        size : int
        batch_size : int
        """
        whole, begun = folder / STORE, 0
        if whole.exists():
            begun = first_missing(whole, order, data, {one.id for one in read_skipped(folder / SKIPPED)})
            if begun == 0:
                whole.unlink()
        bounds = [0, *([begun] if begun else []), *divide(begun, len(order), size=size, batch_size=batch_size)]
        write_json(folder / SHARDS / PLAN, {"bounds": bounds})
        return cls(folder, tuple(bounds))

    def adopt(self, order: NDArray[np.int64], data: LabelledData) -> None:
        """Make what one process began the first shard, if that was not done yet. May be killed and repeated.

        Raises
        ------
        RunError
            If the plan is of another number of images.
        """
        if self.bounds[-1] != len(order):
            raise RunError(
                f"{self.folder / SHARDS / PLAN} divides another number of images.",
                wanted=str(len(order)), got=str(self.bounds[-1]), fix="Profile again under another --name.",
            )  # fmt: skip
        whole, first = self.folder / STORE, self.file(1)
        if not whole.exists():
            return
        seal(whole)
        covered = {data.ids[row] for row in order[self.rows(1)]}
        if mine := [one for one in read_skipped(self.folder / SKIPPED) if one.id in covered]:
            write_skipped(first.with_name(SKIPPED), mine)
        first.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(first)

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.bounds) - 1

    def settings(self, number: int, storing: StoreSettings) -> StoreSettings:
        """`storing` for one shard."""
        return StoreSettings(storing.keep, storing.dtype, storing.compression, f"{number}/{self.count}")

    def file(self, number: int) -> Path:
        """Where a shard's rows are."""
        return shard_file(self.folder, StoreSettings(shard=f"{number}/{self.count}"))

    def rows(self, number: int) -> slice:
        """Which part of the pass a shard is."""
        return slice(self.bounds[number - 1], self.bounds[number])

    def missing(self) -> list[int]:
        """Numbers of the shards that are not complete."""
        return [number for number in range(1, self.count + 1) if not shard_is_complete(self.file(number))]


def divide(start: int, stop: int, *, size: int, batch_size: int) -> list[int]:
    """Ends of shards of about equal length, a few for each of `size` processes; at batches if there are enough."""
    n = stop - start
    if n == 0:
        return []
    step = batch_size if n // batch_size >= EACH * size else 1
    steps = -(-n // step)
    count = min(EACH * size, steps, MOST_SHARDS - 1)
    return [min(stop, start + steps * number // count * step) for number in range(1, count + 1)]


def first_missing(path: Path, order: NDArray[np.int64], data: LabelledData, skipped: set[str]) -> int:
    """Place in `order` of the first image that is neither in the file nor was passed over.

    Raises
    ------
    RunError
        If the file's images are others.
    """
    with StoreReader(path) as store:
        ids, complete = store.ids[: store.n_rows], store.complete
    names = [data.ids[row] for row in order]
    kept = [place for place, name in enumerate(names) if name not in skipped]
    if ids != tuple(names[place] for place in kept[: len(ids)]):
        raise RunError(f"{path} holds other images than the data.", fix="Profile again under another --name.")
    if complete or len(ids) == len(kept):
        return len(order)
    return kept[len(ids)] if ids else 0
