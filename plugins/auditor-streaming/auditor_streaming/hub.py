"""Opening Hugging Face data sets as streams."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.data.base import printable
from auditor.errors import DataError, OptionError
from auditor_streaming.reachable import check_reachable

LOCAL = ("parquet", "imagefolder")
# Of a folder of images every file is a part; so many are opened as one that there are no more than this.
MOST_PARTS = 512


@dataclass(frozen=True)
class Named:
    """A data set as the user names it.

    Parameters
    ----------
    builder : str or None
        One of :data:`LOCAL`; None for a name on the hub or a folder that describes itself.
    place : str
        A path, or the name.
    config : str, optional
        Which configuration.
    """

    builder: str | None
    place: str
    config: str | None = None

    @classmethod
    def parse(cls, text: str, config: str | None) -> Named:
        """Read ``NAME`` or ``parquet:PATH``.

        Raises
        ------
        OptionError
            If it names nothing.
        DataError
            If there is nothing at the path.
        """
        builder, colon, place = text.partition(":")
        if not text or (colon and (builder not in LOCAL or not place)):
            raise OptionError(
                "This names no Hugging Face data set.",
                wanted="hfs:NAME, hfs:parquet:PATH or hfs:imagefolder:PATH, then ?config=, split=, image=, label=",
                got=repr(text),
            )
        if not colon:
            return cls(None, text, config)
        path = Path(place).expanduser()
        if not path.exists():
            raise DataError(f"There is no file or folder {printable(str(path))!r}.", wanted=f"hfs:{builder}:PATH")
        if builder == "imagefolder" and not path.is_dir():
            raise DataError(
                "Archives of class folders are not streamed by Hugging Face's datasets.",
                wanted="hfs:imagefolder:FOLDER",
                got=printable(str(path)),
                fix="A tar can be read with --data 'wds:FILE.tar?label=folder'.",
            )
        return cls(builder, str(path.absolute()), config)

    @property
    def short_name(self) -> str:
        """For tables and folders."""
        return Path(self.place).stem if self.builder else self.place.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Streams:
    """The splits of a data set.

    Attributes
    ----------
    by_split : dict of str to datasets.IterableDataset
    origin : dict of str to str
        A hash over the files of a split and their times of change or revisions.
    columns : bool
        Whether the files can be read by column.
    """

    by_split: dict[str, Any]
    origin: dict[str, str]
    columns: bool


def open_streams(named: Named, columns: Sequence[str] | None = None) -> Streams:
    """Open every split; no row is read.

    Parameters
    ----------
    named : Named
    columns : sequence of str, optional
        Only these, by what the files can be read by.

    Raises
    ------
    DataError
        If the data set cannot be opened, or the hub not be reached.
    """
    import datasets

    options: dict[str, Any] = {} if columns is None else {"columns": list(columns)}
    if named.builder is not None:
        options["data_dir" if Path(named.place).is_dir() else "data_files"] = named.place
    elif not Path(named.place).exists() and not datasets.config.HF_HUB_OFFLINE:
        check_reachable("hf:")
    try:
        builder = datasets.load_dataset_builder(named.builder or named.place, named.config, **options)
        found = builder.as_streaming_dataset()
        files = builder.config.data_files or {}
        return Streams(
            by_split={str(name): split for name, split in found.items()},
            origin={str(name): _digest(split) for name, split in files.items()},
            columns=hasattr(builder.config, "columns"),
        )
    except Exception as error:  # many kinds: of the hub, of Arrow, of the file system
        raise failure(named, error) from error


def part_of(stream: Any, number: int) -> Any:
    """One of the parts of a split that are read from their beginning: a file, or some files in a row."""
    return stream.shard(num_shards=n_parts(stream), index=number)


def n_parts(stream: Any) -> int:
    """How many parts a split has."""
    return min(int(stream.num_shards), MOST_PARTS)


def failure(named: Named, error: Exception) -> DataError:
    """Say that the data set cannot be read."""
    lines = str(error).strip().splitlines() or [""]
    return DataError(
        f"Hugging Face's datasets could not read {printable(named.place)!r}: {type(error).__name__}: "
        f"{printable(lines[0])}",
        fix="Check the name and the network."
        if named.builder is None
        else f"Check that the {named.builder} data are whole.",
    )


def _digest(files: Any) -> str:
    seen: Mapping[str, Any] = {"files": list(map(str, files)), "origin": getattr(files, "origin_metadata", None)}
    return hashlib.sha256(repr(sorted(seen.items())).encode("utf-8", "surrogateescape")).hexdigest()
