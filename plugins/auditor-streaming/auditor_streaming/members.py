"""The members of a tar file in their order, from a file or from a stream."""

from __future__ import annotations

import lzma
import os
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from auditor.data.base import printable
from auditor.errors import DataError
from auditor_streaming.reachable import check_reachable
from auditor_streaming.shards import Shard

_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_PATIENCE_S = 5.0
_BROKEN = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Attributes
    ----------
    name : str
    size : int
        Bytes.
    offset : int or None
        Where its bytes begin, if the tar can be read at any place.
    read : callable
        Reads it whole; only before the next member is asked for.
    """

    name: str
    size: int
    offset: int | None
    read: Callable[[], bytes]


def members(shard: Shard) -> Generator[Member, None, None]:
    """Yield the plain files of a tar.

    A local tar without compression is passed through by its headers; any other is read from its beginning, by the
    opener of WebDataset where it is a URL.

    Raises
    ------
    DataError
        If the tar is missing, incomplete or damaged, or what opens it fails.
    """
    with closing(_Source(shard)) as source:
        try:
            mode: Any = "r:" if source.at_any_place else "r|*"
            with tarfile.open(fileobj=source.stream, mode=mode, tarinfo=_Strict) as tar:
                while (info := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # or it would remember them all
                    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) and not info.issparse():
                        offset = info.offset_data if source.at_any_place else None
                        yield Member(info.name.removeprefix("./"), info.size, offset, _Content(source, tar, info))
        except _BROKEN as error:
            raise source.failure(error) from error


class _Strict(tarfile.TarInfo):
    """Refuses the headers at which `tarfile` would end as if the file were whole."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Strict:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the mark that ends a whole file
                raise
            missing = type(error).__name__ in ("EmptyHeaderError", "TruncatedHeaderError")
            reason = "it ends without the mark that ends a tar" if missing else str(error)
            raise tarfile.ReadError(f"{reason}, after {tar.offset} bytes") from error


@dataclass(frozen=True)
class _Content:
    source: _Source
    tar: tarfile.TarFile
    info: tarfile.TarInfo

    def __call__(self) -> bytes:
        try:
            file = self.tar.extractfile(self.info)
            content = b"" if file is None else file.read()
            if len(content) < self.info.size:
                raise tarfile.ReadError("unexpected end of data")
        except _BROKEN as error:
            raise self.source.failure(error) from error
        return content


class _Source:
    """The bytes of a tar; a program that delivers them is ended with it."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._process = os.getpid()
        self.at_any_place = False
        self.stream: Any = None
        try:
            if shard.path is None:
                self.stream = _open_url(shard.place)
            else:
                self.stream = shard.path.open("rb")
                self.at_any_place = not self.stream.read(6).startswith(_MAGIC)
                self.stream.seek(0)
        except DataError:
            raise
        except Exception as error:  # many kinds: of the hub, of what is started, of the file system
            raise self.failure(error) from error

    def failure(self, error: Exception) -> DataError:
        """Say what is wrong with the tar, or with the program that reads it."""
        if isinstance(error, DataError):
            return error
        reason = printable(str(error).strip().split("\n")[0]) or type(error).__name__
        program = getattr(self.stream, "proc", None)
        if program is not None:
            with suppress(subprocess.TimeoutExpired):
                program.wait(_PATIENCE_S)
            if program.returncode:
                reason = f"the program that reads it ended with status {program.returncode}"
        elif self._shard.path is not None and not self._shard.path.exists():
            reason = "the file is gone"
        return DataError(
            f"The tar {self._shard} cannot be read: {reason}.",
            wanted="a whole tar file, compressed or not",
            fix="Make or fetch the file again.",
        )

    def close(self) -> None:
        """Close the stream, without waiting for a program that has more to write."""
        if os.getpid() != self._process:
            return  # a copy in another process: the program is not its own
        program = getattr(self.stream, "proc", None)
        if program is not None and program.poll() is None:
            program.terminate()
        with suppress(OSError, subprocess.TimeoutExpired):
            self.stream.close()


def _open_url(url: str) -> Any:
    from webdataset.gopen import gopen

    check_reachable(url)
    return gopen(url, "rb")
