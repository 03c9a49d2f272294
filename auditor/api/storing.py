"""Where a run's responses are: in one file, in several shards, or in memory only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from auditor.api.settings import StoreSettings
from auditor.api.skips import SKIPPED, read_skipped, write_skipped
from auditor.errors import RunError
from auditor.store.reader import StoreReader
from auditor.store.shards import ShardedReader

STORE = "activations.h5"
SHARDS = "shards"
_SHARD = re.compile(r"(\d+)-of-(\d+)")

Rows = NDArray[np.integer[Any]] | slice | None


class Responses(Protocol):
    """What scoring reads."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class numbers, (N,)."""

    @property
    def splits(self) -> NDArray[np.int8]:
        """Position of each image's split, (N,)."""

    @property
    def logits(self) -> NDArray[np.float32]:
        """The model's outputs, (N, K)."""

    def responses(self, site: str, rows: Rows = None) -> NDArray[np.float32]:
        """Responses of a site's units, (n, U)."""


@dataclass(frozen=True)
class Held:
    """Pooled responses in memory, with what a store says of their images."""

    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    logits: NDArray[np.float32]
    by_site: Mapping[str, NDArray[Any]]

    def responses(self, site: str, rows: Rows = None) -> NDArray[np.float32]:
        """Responses of a site's units."""
        return self.by_site[site][slice(None) if rows is None else rows].astype(np.float32)


def shard_file(folder: Path, settings: StoreSettings) -> Path:
    """Where the rows go that `settings` ask for."""
    number, count = settings.part()
    if settings.shard is None:
        return folder / STORE
    return folder / SHARDS / f"{number}-of-{count}" / STORE


def shard_rows(order: NDArray[np.int64], settings: StoreSettings) -> NDArray[np.int64]:
    """The part of `order` that is the shard's; all of it without shards."""
    number, count = settings.part()
    return order[len(order) * (number - 1) // count : len(order) * number // count]


def missing_shards(folder: Path, settings: StoreSettings | None = None) -> tuple[list[int], int]:
    """Numbers of the shards that are not complete, and how many there are in all (0 without shards).

    Parameters
    ----------
    folder : Path
        The run's.
    settings : StoreSettings, optional
        A shard that is about to be made, which counts as one that was begun.

    Raises
    ------
    RunError
        If the run was begun in different numbers of shards, or in one piece.
    """
    if settings is not None and folder.joinpath(STORE).exists():
        raise RunError(
            f"{folder} was begun in one piece, so it cannot go on in shards.",
            fix="Go on without --shard, or choose another --name.",
        )
    found = [match for path in (folder / SHARDS).glob("*-of-*") if (match := _SHARD.fullmatch(path.name))]
    counts = sorted({int(match[2]) for match in found} | ({settings.part()[1]} if settings else set()))
    if len(counts) > 1:
        raise RunError(
            f"{folder} was begun in different numbers of shards.",
            wanted=f"all of {counts[0]} or all of {counts[-1]}",
            got=", ".join(sorted(match[0] for match in found)) + (f" and now {settings.shard}" if settings else ""),
            fix=f"Go on with one number; delete the folders in {folder / SHARDS} that are of another.",
        )
    if not counts:
        return [], 0
    missing = [
        number
        for number in range(1, counts[0] + 1)
        if not shard_is_complete(shard_file(folder, StoreSettings(shard=f"{number}/{counts[0]}")))
    ]
    return missing, counts[0]


def shard_is_complete(path: Path) -> bool:
    """Whether a shard's file is there, and finished."""
    if not path.exists():
        return False
    with StoreReader(path) as store:
        return store.complete


def store_files(folder: Path) -> list[Path]:
    """Every activation file of a run."""
    return [path for path in (folder / STORE, *sorted(folder.glob(f"{SHARDS}/*/{STORE}"))) if path.exists()]


def open_store(folder: Path) -> StoreReader | ShardedReader:
    """Open a run's stored responses, in one file or in shards."""
    if folder.joinpath(STORE).exists():
        return StoreReader(folder / STORE)
    missing, count = missing_shards(folder)
    if count == 0 or missing:
        return StoreReader(folder / STORE)  # which says that there is none
    return ShardedReader(shard_files(folder))


def shard_files(folder: Path) -> list[Path]:
    """Files of all shards of a run, complete or not, in the order of their images."""
    _, count = missing_shards(folder)
    return [shard_file(folder, StoreSettings(shard=f"{number}/{count}")) for number in range(1, count + 1)]


def join_skipped(folder: Path) -> None:
    """Write what the shards passed over into the run's own list, each image once."""
    found = {one.id: one for file in shard_files(folder) for one in read_skipped(file.with_name(SKIPPED))}
    if found:
        write_skipped(folder / SKIPPED, found.values())
    else:  # what one process noted of images that the shards hold
        folder.joinpath(SKIPPED).unlink(missing_ok=True)
