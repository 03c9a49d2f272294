"""Images of a streamed Hugging Face data set: forward only, one file at a time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from auditor.data.base import UnreadableImageError, printable
from auditor.data.decode import read_image
from auditor.errors import DataError
from auditor_streaming.cursor import Cursor
from auditor_streaming.hub import Named, failure, part_of

_AT_ONCE = 16


@dataclass(frozen=True)
class Parts:
    """Opens parts of splits by their number.

    Parameters
    ----------
    named : Named
        For messages.
    splits : tuple of datasets.IterableDataset
    places : tuple of (int, int)
        Which of the splits, and which of its parts.
    image, label : str
        The columns.
    """

    named: Named
    splits: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]
    image: str
    label: str

    def __call__(self, number: int) -> Generator[tuple[Any, Any], None, None]:
        """Yield the images as they are in the file, and their labels.

        Raises
        ------
        DataError
            If the file or the network fails.
        """
        split, part = self.places[number]
        try:
            # Not iter(stream): in a worker process, that leaves out what it takes to be another worker's.
            for rows in part_of(self.splits[split], part).iter(batch_size=_AT_ONCE):
                yield from zip(rows[self.image], rows[self.label], strict=True)
        except Exception as error:  # many kinds, as in opening
            raise failure(self.named, error) from error


class StreamReader:
    """Reads images by their position; picklable, and each process has a stream of its own.

    Parameters
    ----------
    parts : Parts
    counts : sequence of int
        How many images each part has.
    labels : ndarray of int64, shape (N,)
    classes : sequence of str, optional
        Where labels are text in the file: what their numbers stand for.
    ids : tuple of str
    """

    def __init__(
        self,
        parts: Parts,
        counts: Sequence[int],
        labels: NDArray[np.int64],
        classes: Sequence[str] | None,
        ids: tuple[str, ...],
    ) -> None:
        self._cursor = Cursor(parts)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._labels, self._classes, self._ids = labels, classes, ids

    def __call__(self, index: int) -> Image:
        """Read the image at this position.

        Raises
        ------
        UnreadableImageError
            If it is missing or does not decode.
        DataError
            If the data set is no longer what its labels were read from.
        """
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        record, label = self._cursor.read(part, index - int(self._starts[part]))
        number = int(self._labels[index])
        wanted = number if self._classes is None else self._classes[number]
        if label != wanted:
            raise DataError(
                f"The label of {self._ids[index]} has changed since the labels were read.",
                wanted=printable(str(wanted)),
                got=printable(str(label)),
                fix="Start again: they will be read anew where the files have changed.",
            )
        return _decoded(record, self._ids[index])


def _decoded(record: Any, name: str) -> Image:
    from datasets.utils.file_utils import xopen

    if record is None or not (record.get("bytes") or record.get("path")):
        raise UnreadableImageError(f"The image {name} is missing or empty in the data set.")
    if record["bytes"] or Path(record["path"]).is_file():
        return read_image(record["bytes"] or Path(record["path"]), name)
    try:
        with xopen(record["path"], "rb") as file:
            content: bytes = file.read()
    except Exception as error:  # of the network, of an archive, of the file system
        raise UnreadableImageError(
            f"The image {name} cannot be read: {type(error).__name__}: {printable(str(error))}"
        ) from error
    return read_image(content, name)
