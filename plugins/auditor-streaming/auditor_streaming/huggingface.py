"""Hugging Face data sets that are streamed, not downloaded."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.assemble import assemble, row_ids
from auditor.data.base import DataSource, LabelledData
from auditor.errors import DataError
from auditor_streaming.cache import Arrays, Piece, all_pieces, pack, unpack
from auditor_streaming.classes import number_classes
from auditor_streaming.columns import chosen_splits, image_column, label_column
from auditor_streaming.hub import Named, Streams, failure, n_parts, open_streams, part_of
from auditor_streaming.request import split_options
from auditor_streaming.stream_reader import Parts, StreamReader

_PREFIX = "hfs:"
_OPTIONS = ("config", "split", "image", "label")
_AT_ONCE = 1000

Labels = list[NDArray[Any]]


class HuggingFaceStreamSource(DataSource):
    """``hfs:NAME``, ``hfs:parquet:PATH`` and ``hfs:imagefolder:PATH``.

    The options and the division of ``hf:`` in auditor-huggingface, but nothing is copied to a cache: a first pass reads
    the labels, and every further one goes through the files from front to back.
    """

    name = "hfs"

    def claims(self, text: str) -> bool:
        """Tell whether `text` begins with ``hfs:``."""
        return text.startswith(_PREFIX)

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the data set; see :meth:`DataSource.load`."""
        self.refuse_root(root)
        place, options = split_options(text.removeprefix(_PREFIX), _OPTIONS, "hfs:")
        named = Named.parse(place, options.get("config"))
        features = _features(named, open_streams(named))
        image, label = image_column(features, options.get("image")), label_column(features, options.get("label"))
        found = _labels(named, label, options.get("split"))
        sizes = [sum(map(len, parts)) for parts in found.values()]
        if 0 in sizes:
            raise DataError(f"The data set {named.place!r} has an empty split.", got=", ".join(found))
        parts = [part for several in found.values() for part in several]
        classes, labels = number_classes([part for part in parts if len(part)], getattr(features[label], "names", None))
        is_text = any(part.dtype.kind == "U" for part in parts)
        ids = tuple(one for name, size in zip(found, sizes, strict=True) for one in row_ids(size, name))
        streams = _images(named, image, label)
        return assemble(
            name=named.short_name,
            origin=f"Hugging Face data set {text.removeprefix(_PREFIX)} ({' and '.join(found)}), streamed",
            classes=classes,
            labels=labels,
            ids=ids,
            read=StreamReader(
                Parts(
                    named,
                    splits=tuple(streams[name] for name in found),
                    places=tuple((i, part) for i, several in enumerate(found.values()) for part in range(len(several))),
                    image=image,
                    label=label,
                ),
                [len(part) for part in parts],
                labels,
                classes if is_text else None,
                ids,
            ),
            fractions=fractions,
            seed=seed,
            n_train=sizes[0] if len(sizes) == 2 else None,
        )


def _features(named: Named, streams: Streams) -> dict[str, Any]:
    features = next(iter(streams.by_split.values())).features
    if not features:
        raise DataError(f"The data set {named.place!r} does not say which columns it has.", wanted="columns with types")
    return dict(features)


def _labels(named: Named, column: str, asked: str | None) -> dict[str, Labels]:
    """Labels of the parts of the splits that are used."""
    streams = open_streams(named)
    if streams.columns:
        streams = open_streams(named, [column])
    present = dict(streams.by_split)
    while True:
        found = {}
        for name in chosen_splits(present, asked):
            stream = present[name].select_columns([column])
            pieces = [_piece(named, streams, name, column, stream, part) for part in range(n_parts(stream))]
            found[name] = [_from_arrays(arrays) for arrays in all_pieces(pieces)]
        # Held-out labels that are kept secret are written -1.
        secret = [name for name, parts in found.items() if any(p.dtype.kind in "iu" and (p < 0).any() for p in parts)]
        if asked is not None or not secret or len(secret) == len(present):
            return found
        for name in secret:
            del present[name]


def _images(named: Named, image: str, label: str) -> dict[str, Any]:
    """The splits with their images not decoded: auditor does that, and tells a broken image from a broken data set."""
    import datasets

    streams = open_streams(named)
    if streams.columns:
        streams = open_streams(named, [image, label])
    return {
        name: stream.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        for name, stream in streams.by_split.items()
    }


def _piece(named: Named, streams: Streams, split: str, column: str, stream: Any, part: int) -> Piece:
    name = ("hf", named.builder or "", named.place, named.config or "", split, column, f"{part} of {n_parts(stream)}")
    return Piece(name, {"origin": streams.origin.get(split)}, partial(_read_labels, named, stream, column, part))


def _read_labels(named: Named, stream: Any, column: str, part: int) -> Arrays:
    values: list[Any] = []
    try:
        for rows in part_of(stream, part).iter(batch_size=_AT_ONCE):
            values += rows[column]
    except Exception as error:  # many kinds: of the network, of Arrow, of the file system
        raise failure(named, error) from error
    if any(value is None for value in values):
        raise DataError(f"The column {column!r} has rows without a label.", fix="Leave them out of the data set.")
    n = np.array(len(values))
    if values and isinstance(values[0], str):
        return {"n": n, "text": pack(values)}
    return {"n": n, "number": np.array(values, dtype=np.int64)}


def _from_arrays(arrays: Arrays) -> NDArray[Any]:
    return np.array(unpack(arrays["text"], int(arrays["n"])), dtype=str) if "text" in arrays else arrays["number"]
