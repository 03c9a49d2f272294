"""Hugging Face data sets, Parquet files and image folders as data for auditor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.assemble import assemble, relative_ids, row_ids
from auditor.data.base import DataSource, LabelledData, UnreadableImageError, printable
from auditor.data.decode import read_image
from auditor.errors import DataError, OptionError, unknown_name
from auditor.hookspecs import hookimpl

__all__ = ["HuggingFaceSource", "auditor_data_sources"]

_PREFIX = "hf:"
_LOCAL = ("parquet", "imagefolder")
_HELD_OUT = ("validation", "valid", "val", "test", "dev")
_OPTIONS = ("config", "split", "image", "label")


@dataclass(frozen=True)
class _Request:
    """What follows ``--data``: ``hf:NAME?label=...`` or ``hf:parquet:PATH``."""

    builder: str | None
    place: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> _Request:
        rest, _, query = text.removeprefix(_PREFIX).partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        for key in options:
            if key not in _OPTIONS:
                raise unknown_name("option of a Hugging Face data set", key, _OPTIONS)
        builder, colon, place = rest.partition(":")
        if colon and builder in _LOCAL:
            return cls(builder, place, options)
        if not rest or colon:
            raise OptionError(
                "This names no Hugging Face data set.",
                wanted="hf:NAME, hf:parquet:PATH or hf:imagefolder:PATH, and after it ?config=, split=, image=, label=",
                got=repr(text),
            )
        return cls(None, rest, options)

    @property
    def name(self) -> str:
        """The data set's short name."""
        return Path(self.place).resolve().stem if self.builder else self.place.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class _Reader:
    """Decodes images of one or two splits in a row; a class so that worker processes can receive it."""

    splits: tuple[Any, ...]
    column: str
    ids: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        split, place = self.splits[0], index
        if index >= len(split):
            split, place = self.splits[1], index - len(split)
        record = split[place][self.column]
        name = self.ids[index]
        if record is None or not (record.get("bytes") or record.get("path")):
            raise UnreadableImageError(f"The image {name} is missing or empty in the data set.")
        return read_image(record["bytes"] or Path(record["path"]), name)


class HuggingFaceSource(DataSource):
    """``hf:NAME``, ``hf:parquet:PATH`` and ``hf:imagefolder:PATH``."""

    name = "hf"

    def claims(self, text: str) -> bool:
        """Tell whether `text` begins with ``hf:``."""
        return text.startswith(_PREFIX)

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the data set; see :meth:`DataSource.load`. `root` is the cache folder of ``datasets``."""
        request = _Request.parse(text)
        found = _fetch(request, root)
        first = next(iter(found.values()))
        label = _label_column(first.features, request.options.get("label"), text)
        image = _image_column(first.features, request.options.get("image"), text)
        known = {name: _labels(split, label) for name, split in found.items()}
        chosen = _division(known, request.options.get("split"), text)
        classes, labels = _classes(first.features[label], [known[name] for name in chosen])
        splits = tuple(_undecoded(found[name], image) for name in chosen)
        ids = tuple(
            one for name, split in zip(chosen, splits, strict=True) for one in _ids(request, name, split, image)
        )
        return assemble(
            name=request.name,
            origin=f"Hugging Face data set {text.removeprefix(_PREFIX)} ({' and '.join(chosen)})",
            classes=classes,
            labels=labels,
            ids=ids,
            read=_Reader(splits, image, tuple(map(printable, ids))),
            fractions=fractions,
            seed=seed,
            n_train=len(splits[0]) if len(splits) == 2 else None,
        )


@hookimpl
def auditor_data_sources() -> list[DataSource]:
    """Return the one source of this plugin."""
    return [HuggingFaceSource()]


def _fetch(request: _Request, root: str | None) -> dict[str, Any]:
    """Load every split."""
    import datasets

    options: dict[str, Any] = {"cache_dir": root}
    if request.builder is not None:
        path = Path(request.place).expanduser()
        if not path.exists():
            raise DataError(f"There is no file or folder {str(path)!r}.", wanted=f"hf:{request.builder}:PATH")
        if path.is_dir():
            options["data_dir"] = str(path)
        else:
            options["data_files"] = str(path)
    try:
        loaded = datasets.load_dataset(request.builder or request.place, request.options.get("config"), **options)
    except Exception as error:  # many kinds: of the hub, of Arrow, of the file system
        first_line = printable(str(error).strip().splitlines()[0] if str(error).strip() else "")
        raise DataError(
            f"Hugging Face's datasets could not load {request.place!r}: {type(error).__name__}: {first_line}",
            fix="Check the name and the network (HF_HUB_OFFLINE=1 uses the cache only)."
            if request.builder is None
            else f"Check that the {request.builder} data are whole.",
        ) from error
    if not isinstance(loaded, Mapping):
        loaded = {"train": loaded}
    found = {str(name): split for name, split in loaded.items() if len(split)}
    if not found:
        raise DataError(f"The data set {request.place!r} is empty.")
    return found


def _image_column(features: Mapping[str, Any], asked: str | None, text: str) -> str:
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    # Parquet files that other tools wrote hold the same structure without saying that it is an image.
    images += [
        name for name, kind in features.items() if isinstance(kind, Mapping) and {"bytes", "path"} == set(kind.keys())
    ]
    return _choose("image", asked, images, [n for n in ("image", "img") if n in images], features, text)


def _label_column(features: Mapping[str, Any], asked: str | None, text: str) -> str:
    import datasets

    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    plain = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and (kind.dtype in ("string", "large_string") or "int" in kind.dtype)
    ]
    usual = [name for name in ("label", "labels", "class") if name in (*classes, *plain)]
    if asked is None and len(classes) == 1:
        return classes[0]
    return _choose("label", asked, [*classes, *plain], [n for n in usual if n in classes] or usual, features, text)


def _choose(
    kind: str, asked: str | None, usable: Sequence[str], usual: Sequence[str], features: Mapping[str, Any], text: str
) -> str:
    if asked is not None:
        if asked not in usable:
            raise unknown_name(f"column of {kind}s", asked, usable)
        return asked
    found = usable if len(usable) == 1 else usual
    if len(found) != 1:
        columns = ", ".join(f"{name} ({type(value).__name__})" for name, value in features.items())
        base = text.partition("?")[0]
        raise DataError(
            f"Which column holds the {kind}s?" if usable else f"No column holds {kind}s.",
            wanted=f"one of {', '.join(usable)}" if usable else f"a column of {kind}s",
            got=printable(columns),
            fix=f"--data '{base}?{kind}={usable[0]}'" if usable else None,
        )
    return found[0]


def _labels(split: Any, column: str) -> NDArray[Any]:
    """Read one column without decoding an image."""
    values = split.select_columns([column]).with_format(None)[:][column]
    if any(value is None for value in values):
        raise DataError(f"The column {column!r} has rows without a label.", fix="Leave them out of the data set.")
    return np.asarray(values)


def _division(labels: Mapping[str, NDArray[Any]], asked: str | None, text: str) -> tuple[str, ...]:
    """Names of the training and the held-out split, or of the only one."""
    if asked is not None:
        if asked not in labels:
            raise unknown_name("split", asked, labels)
        return (asked,)
    # Held-out labels that are kept secret are written -1.
    known = [name for name, values in labels.items() if values.dtype.kind not in "iu" or values.min() >= 0]
    held_out = next((name for name in _HELD_OUT if name in known), None)
    if "train" in known and held_out is not None:
        return "train", held_out
    if len(known) == 1:
        return (known[0],)
    raise DataError(
        "It is not clear how the data set is divided.",
        wanted=f"one split, or train and one of {', '.join(_HELD_OUT)}",
        got=printable(", ".join(labels)),
        fix=f"--data '{text}{'&' if '?' in text else '?'}split={next(iter(labels))}'",
    )


def _classes(feature: Any, parts: Sequence[NDArray[Any]]) -> tuple[Sequence[str] | None, NDArray[np.int64]]:
    """Class names (None: the numbers themselves) and the labels of all parts in a row."""
    values = np.concatenate(parts)
    if values.dtype.kind in "iu":
        names = getattr(feature, "names", None)
        return names, values.astype(np.int64)
    classes, labels = np.unique(values.astype(str), return_inverse=True)
    return classes.tolist(), labels.astype(np.int64)


def _undecoded(split: Any, column: str) -> Any:
    """Hand out what is in the file: auditor decodes it, and tells a broken image from a broken data set."""
    import datasets

    plain = split.select_columns([column]).with_format(None)
    return plain.cast_column(column, datasets.Image(decode=False))


def _ids(request: _Request, name: str, split: Any, column: str) -> tuple[str, ...]:
    if request.builder == "imagefolder":
        paths = [str(record["path"]) for record in split[:][column]]
        ids = relative_ids(paths, os.fspath(Path(request.place).expanduser()))
        ids = ids if ids is not None else relative_ids(paths, os.fspath(Path(request.place).expanduser().resolve()))
        if ids is not None:
            return ids
    return row_ids(len(split), name)
