"""What a labelled data set is, and what a source of one must do."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditor.errors import DataError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "select", "score")
"""Trained on; units chosen on; claims scored on. No image is in two of them."""

# Control characters, line separators and lone surrogates: they break terminals, tables and UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UnreadableImageError(DataError):
    """One image cannot be decoded. A profile skips it, counts it and names it."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that is left out because it cannot be read.

    Parameters
    ----------
    id : str
    split : str
        Where it would belong.
    reason : str
        One line.
    """

    id: str
    split: str
    reason: str


@dataclass(frozen=True, eq=False)
class LabelledData:
    r"""Images with one label each, divided into three splits. The images are read on demand.

    Parameters
    ----------
    name : str
        Short name for tables and folders (``"digits"``).
    origin : str
        Where the data come from, for the report (a path, a package).
    classes : tuple of str
        Class names; a label is an index into them. Control characters and broken text, here and in `ids`, are
        replaced by escapes such as ``\n``; everything else is kept.
    labels : ndarray of int64, shape (N,)
        Label of every image.
    ids : tuple of str
        Unique names of the images, the same whenever and wherever the data are loaded.
    splits : mapping of str to ndarray of int64
        Sorted indices of the images in each of :data:`SPLITS`.
    read : callable
        Takes an index and returns the image. Must be picklable to be read by several workers. Raises
        :class:`UnreadableImageError` for a broken image, so that a profile can pass over it.
    skipped : tuple of Skipped
        Images that belong to a split and are left out of it; see :meth:`without`.

    Raises
    ------
    DataError
        If the parts do not fit together.
    """

    name: str
    origin: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    splits: Mapping[str, NDArray[np.int64]]
    read: Callable[[int], Image]
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "classes", tuple(map(printable, self.classes)))
        object.__setattr__(self, "ids", tuple(map(printable, self.ids)))
        self._check_images()
        unknown = sorted(set(self.splits) ^ set(SPLITS))
        if unknown:
            raise DataError(
                f"The data set {self.name!r} has the wrong splits.",
                wanted=", ".join(SPLITS),
                got=", ".join(self.splits),
            )
        splits = {split: np.sort(np.array(self.splits[split], dtype=np.int64)) for split in SPLITS}
        for rows in splits.values():
            rows.setflags(write=False)
        object.__setattr__(self, "splits", MappingProxyType(splits))
        self._check_splits()

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, object]:
        # A mapping proxy does not pickle, and workers need the data set.
        return {**self.__dict__, "splits": dict(self.splits)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    def fingerprint(self) -> str:
        """SHA-256 over classes, ids and labels. The pixels are not read."""
        fields = (self.classes, self.ids, [str(label) for label in self.labels.tolist()])
        return _digest(text for field in fields for text in (str(len(field)), *field))

    def split_fingerprint(self) -> str:
        """SHA-256 over which image is in which split, whether or not it can be read."""
        announced = self._announced()
        return _digest(
            text
            for split in SPLITS
            for text in (split, str(len(announced[split])), *(self.ids[row] for row in announced[split]))
        )

    def summary(self) -> dict[str, object]:
        """Plain values for the manifest: name, origin, sizes and fingerprints."""
        return {
            "name": self.name,
            "origin": self.origin,
            "n_classes": len(self.classes),
            "n_per_split": {split: len(rows) for split, rows in self._announced().items()},
            "fingerprint": self.fingerprint(),
            "split_fingerprint": self.split_fingerprint(),
        }

    def limited(self, n: int) -> LabelledData:
        """Keep at most `n` images of every split, each class by its share.

        Every class of a split keeps at least one image as long as `n` is not below the number of classes. Which images
        of a class are kept is decided by a hash of their ids, so it depends on neither file order nor seed.

        Raises
        ------
        OptionError
            If `n` is below 1.
        """
        if n < 1:
            raise OptionError("The limit on images must be at least 1.", wanted="an integer >= 1", got=str(n))
        limited = {split: self._limited_rows(rows, n) for split, rows in self.splits.items()}
        return replace(self, splits=limited, skipped=())

    def without(self, skipped: Sequence[Skipped]) -> LabelledData:
        """Leave out images that cannot be read. Fingerprints and summary stay those of the whole.

        Raises
        ------
        DataError
            If an image is not in the split that it is said to be in.
        """
        new = [one for one in skipped if one not in self.skipped]
        if not new:
            return self
        row_of = {name: row for row, name in enumerate(self.ids)}
        gone: dict[str, set[int]] = {split: set() for split in SPLITS}
        for one in new:
            row = row_of.get(one.id, -1)
            if one.split not in SPLITS or row not in self.splits[one.split]:
                raise DataError(f"The image {one.id!r} is not in the {one.split} split of {self.name!r}.")
            gone[one.split].add(row)
        splits = {split: rows[~np.isin(rows, list(gone[split]))] for split, rows in self.splits.items()}
        return replace(self, splits=splits, skipped=(*self.skipped, *new))

    def _announced(self) -> dict[str, NDArray[np.int64]]:
        """Rows of every split with those that are left out."""
        if not self.skipped:
            return dict(self.splits)
        row_of = {name: row for row, name in enumerate(self.ids)}
        gone = {split: [row_of[one.id] for one in self.skipped if one.split == split] for split in SPLITS}
        return {split: np.union1d(rows, np.array(gone[split], np.int64)) for split, rows in self.splits.items()}

    def _limited_rows(self, rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        if len(rows) <= n:
            return rows
        labels = self.labels[rows]
        present, counts = np.unique(labels, return_counts=True)
        kept = [
            row
            for label, share in zip(present, _shares(counts, n), strict=True)
            for row in sorted(rows[labels == label].tolist(), key=lambda row: _digest(("limit", self.ids[row])))[:share]
        ]
        return np.array(sorted(kept), dtype=np.int64)

    def _check_images(self) -> None:
        if not self.classes or not self.ids:
            got = f"{len(self.classes)} classes, {len(self)} images"
            raise DataError(f"The data set {self.name!r} is empty.", got=got)
        if self.labels.shape != (len(self),):
            raise DataError(
                f"The data set {self.name!r} needs one label for each image.",
                wanted=f"{len(self)} labels",
                got=f"an array of shape {self.labels.shape}",
            )
        if len(set(self.ids)) != len(self):
            raise DataError(f"The data set {self.name!r} has images with the same id.")
        if len(set(self.classes)) != len(self.classes):
            raise DataError(f"The data set {self.name!r} has classes of the same name.")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(
                f"The data set {self.name!r} has labels that name no class.",
                wanted=f"0 to {len(self.classes) - 1}",
                got=f"{self.labels.min()} to {self.labels.max()}",
            )

    def _check_splits(self) -> None:
        rows = np.concatenate([self.splits[split] for split in SPLITS])
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise DataError(f"A split of the data set {self.name!r} names images that do not exist.")
        if len(np.unique(rows)) != len(rows):
            raise DataError(f"The splits of the data set {self.name!r} share images.")


class DataSource(ABC):
    """Loads data sets of one kind. Plugins provide instances through ``auditor_data_sources``.

    Attributes
    ----------
    name : str
        Short unique name, shown by ``auditor plugins``.
    """

    name: str

    @abstractmethod
    def claims(self, text: str) -> bool:
        """Tell whether this source loads what the user wrote after ``--data``. Cheap, and never raises."""

    @abstractmethod
    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the data set named by `text`.

        Parameters
        ----------
        text : str
            What the user wrote after ``--data``.
        seed : int
            Decides the splits, and nothing else.
        fractions : tuple of float
            Shares of the splits, in the order of :data:`SPLITS`. A source with splits of its own may keep them.
        root : str, optional
            What the user wrote after ``--root``: where the data lie. It is passed only if the user gave it, so a
            source that has no use for it may leave it out of its signature.

        Raises
        ------
        DataError
            If the data are missing or unusable.
        """

    def refuse_root(self, root: str | None) -> None:
        """For sources that are named by their place alone.

        Raises
        ------
        OptionError
            If a `root` is given.
        """
        if root is not None:
            raise OptionError(
                f"The data source {self.name!r} takes no --root.",
                got=f"--root {root}",
                fix="Leave --root out; --data says where these data are.",
            )


def printable(text: str) -> str:
    r"""Replace what a terminal, a table or UTF-8 cannot carry by escapes such as ``\x1b``."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _shares(counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Divide `n` among classes of size `counts` by largest remainder, none left out if `n` allows."""
    floor = np.ones_like(counts) if n >= len(counts) else np.zeros_like(counts)
    exact = counts * (n / counts.sum())
    shares: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), floor)
    # A class that was raised to one image takes it from the class that is most above its share.
    while shares.sum() > n:
        shares[np.argmax(np.where(shares > floor, shares - exact, -np.inf))] -= 1
    while shares.sum() < n:
        shares[np.argmax(np.where(shares < counts, exact - shares, -np.inf))] += 1
    return shares


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
