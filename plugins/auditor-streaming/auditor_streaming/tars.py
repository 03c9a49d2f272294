"""Tar files of samples, as WebDataset writes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from auditor.data.assemble import assemble
from auditor.data.base import DataSource, LabelledData, printable
from auditor.errors import DataError
from auditor_streaming.cache import all_pieces
from auditor_streaming.classes import classes_beside, number_classes, read_classes
from auditor_streaming.request import split_options
from auditor_streaming.shards import Shard, find_shards
from auditor_streaming.tar_index import Rule, TarIndex, index_piece
from auditor_streaming.tar_reader import TarReader, Where

_PREFIX = "wds:"
_OPTIONS = ("image", "label", "held_out", "classes")


class WebDatasetSource(DataSource):
    """``wds:PATTERN``: tars whose samples are an image and a label under one key.

    A first pass lists the samples of every tar, with their labels and where their images lie; it is kept in the cache
    folder. Images are then read on demand, at any place of a local tar without compression, forward only from others.
    """

    name = "wds"

    def claims(self, text: str) -> bool:
        """Tell whether `text` begins with ``wds:``."""
        return text.startswith(_PREFIX)

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the data set; see :meth:`DataSource.load`.

        With the option ``held_out=PATTERN``, the images of `text` are trained on and those of the other pattern are
        divided into select and score.
        """
        self.refuse_root(root)
        pattern, options = split_options(text.removeprefix(_PREFIX), _OPTIONS, "wds:")
        held_out = options.get("held_out")
        trained, shards = _both(pattern, held_out)
        image = options.get("image", "").lower().removeprefix(".")
        rule = Rule(image or None, options.get("label"))
        pieces = [index_piece(shard, rule) for shard in shards]
        found = [TarIndex.from_arrays(arrays) for arrays in all_pieces(pieces)]
        counts = [len(one.keys) for one in found]
        ids = tuple(
            printable(f"{shard.name}/{key}") for shard, one in zip(shards, found, strict=True) for key in one.keys
        )
        _check_unique(ids)
        where = Where(
            np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            *(np.concatenate([getattr(one, field) for one in found]) for field in ("offset", "size", "place")),
        )
        classes, labels = number_classes([one.labels for one in found], _listed(options.get("classes"), shards))
        return assemble(
            name=_data_name(shards[0]),
            origin=f"{len(shards)} tar file{'' if len(shards) == 1 else 's'}: {pattern}"
            + (f" (held out: {held_out})" if held_out else ""),
            classes=classes,
            labels=labels,
            ids=ids,
            read=TarReader(shards, tuple(dict(piece.stamp) for piece in pieces), where, ids),
            fractions=fractions,
            seed=seed,
            n_train=sum(counts[:trained]) if held_out else None,
        )


def _both(pattern: str, held_out: str | None) -> tuple[int, tuple[Shard, ...]]:
    """How many of the shards are trained on if some are held out, and all of them."""
    if held_out is None:
        return 0, find_shards(pattern)
    return len(find_shards(pattern)), find_shards(f"{pattern}::{held_out}")


def _listed(named: str | None, shards: Sequence[Shard]) -> tuple[str, ...] | None:
    """Class names from the file that the user names, or from one beside the tars."""
    if named is not None:
        return read_classes(Path(named).expanduser())
    return classes_beside(next((shard.path.parent for shard in shards if shard.path is not None), None))


def _check_unique(ids: tuple[str, ...]) -> None:
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(f"Two samples have the same key: {twice}.", wanted="every sample under a key of its own")


def _data_name(first: Shard) -> str:
    """The file name without its number: ``imagenet-val``."""
    name = first.name.rsplit("/", 1)[-1]
    return re.sub(r"[-_.]*\d+$", "", name) or name
