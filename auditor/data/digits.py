"""The embedded default: scikit-learn's handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.base import DataSource, LabelledData
from auditor.data.splits import stratified_splits

_BRIGHTEST = 16  # the images hold counts of 0 to 16


@dataclass(frozen=True)
class _ArrayReader:
    """Turns rows of an array into pictures; a class so that worker processes can receive it."""

    images: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])


class DigitsSource(DataSource):
    """1,797 real handwritten digits of 8 x 8 grey pixels, which come with scikit-learn.

    A part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin & Kaynak, 1998).
    """

    name = "digits"

    def claims(self, text: str) -> bool:
        """Tell whether `text` is ``digits``."""
        return text == self.name

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the digits; see :meth:`DataSource.load`."""
        self.refuse_root(root)
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / _BRIGHTEST)).astype(np.uint8)
        labels = np.asarray(bunch.target, dtype=np.int64)
        classes = tuple(str(name) for name in bunch.target_names)
        ids = tuple(f"digits/{row:04d}" for row in range(len(labels)))
        return LabelledData(
            name=self.name,
            origin="scikit-learn's handwritten digits (8 x 8 pixels)",
            classes=classes,
            labels=labels,
            ids=ids,
            splits=stratified_splits(labels, ids, fractions=fractions, seed=seed, classes=classes),
            read=_ArrayReader(images),
        )
