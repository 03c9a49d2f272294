"""Images of tar files: at any place of local ones, forward only from the others."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from auditor.data.base import UnreadableImageError
from auditor.data.decode import read_image
from auditor.errors import DataError
from auditor_streaming.cursor import Cursor
from auditor_streaming.members import members
from auditor_streaming.shards import Shard
from auditor_streaming.tar_index import split_name

OPEN_FILES = 16


@dataclass(frozen=True)
class Where:
    """Where the images are; arrays of shape (N,), see :class:`~auditor_streaming.tar_index.TarIndex`."""

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    place: NDArray[np.int64]


@dataclass(frozen=True)
class _Streams:
    """The members of a tar by its number: their names, and what reads them."""

    shards: tuple[Shard, ...]

    def __call__(self, number: int) -> Generator[tuple[str, Callable[[], bytes]], None, None]:
        for member in members(self.shards[number]):
            yield member.name, member.read


class TarReader:
    """Reads images of tars by their index; picklable, and each process opens files of its own.

    Parameters
    ----------
    shards : tuple of Shard
    stamps : tuple of dict
        What the shards looked like when they were indexed.
    where : Where
    ids : tuple of str
        Names of the images; each ends in the sample's key.
    """

    def __init__(
        self, shards: tuple[Shard, ...], stamps: tuple[dict[str, int], ...], where: Where, ids: tuple[str, ...]
    ) -> None:
        self.shards, self.stamps, self.where, self.ids = shards, stamps, where, ids
        self._cursor: Cursor[tuple[str, Callable[[], bytes]]] = Cursor(_Streams(shards))
        self._begin()

    def __call__(self, index: int) -> Image:
        """Read the image at this position.

        Raises
        ------
        UnreadableImageError
            If the sample has no image, or it does not decode.
        DataError
            If the tar is gone, or no longer what was indexed.
        """
        if self.where.place[index] < 0:
            raise UnreadableImageError(
                f"The sample {self.ids[index]} has no image.", fix="Add it or remove the sample."
            )
        number = int(self.where.shard[index])
        content = self._at_place(number, index) if self.where.offset[index] >= 0 else self._forward(number, index)
        return read_image(content, self.ids[index])

    def _at_place(self, number: int, index: int) -> bytes:
        if self._process != os.getpid():
            self._begin()
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = self._opened(number)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(number)
        size = int(self.where.size[index])
        file.seek(int(self.where.offset[index]))
        content = file.read(size)
        if len(content) < size:
            raise self._changed(number)
        return content

    def _opened(self, number: int) -> IO[bytes]:
        self._check(number)
        return Path(self.shards[number].place).open("rb")

    def _check(self, number: int) -> None:
        if self.shards[number].stamp() != self.stamps[number]:
            raise self._changed(number)

    def _forward(self, number: int, index: int) -> bytes:
        if self._cursor.part != number:
            self._check(number)
        name, read = self._cursor.read(number, int(self.where.place[index]))
        parts = split_name(name)
        if parts is None or not self.ids[index].endswith(f"/{parts[0]}"):
            raise self._changed(number)
        return read()

    def _changed(self, number: int) -> DataError:
        return DataError(
            f"The tar {self.shards[number]} has changed since it was indexed.",
            wanted="the same file as long as it is in use",
            fix="Start again: the index will be made anew."
            if self.shards[number].path is not None
            else "Give the new file another name: of a URL, the index is kept by name.",
        )

    def _begin(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[int, IO[bytes]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_files", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
