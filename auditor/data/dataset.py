"""Map-style Python data sets, such as those of PyTorch, torchvision and Hugging Face's ``datasets``."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.assemble import assemble, integer_labels, relative_ids, row_ids
from auditor.data.base import LabelledData, UnreadableImageError, printable
from auditor.data.decode import as_picture
from auditor.data.splits import DEFAULT_FRACTIONS
from auditor.errors import AuditorError, DataError

_WANTED = "a data set with len() whose items are (image, class number)"
_IMAGE_KEYS, _LABEL_KEYS = ("image", "img"), ("label", "labels")
# What PyTorch's data sets call the list of their labels; read in place of decoding every image.
_LABELS = ("targets", "labels", "_labels", "y")
_PROBES = 4


@runtime_checkable
class MapDataset(Protocol):
    """Anything with a length and items."""

    def __len__(self) -> int:
        """Count the images."""

    def __getitem__(self, index: int, /) -> Any:
        """Return ``(image, class number)``, or a mapping with ``image`` and ``label``."""


def from_dataset(
    dataset: MapDataset,
    *,
    held_out: MapDataset | None = None,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    name: str | None = None,
    origin: str | None = None,
    prefixes: tuple[str, str] = ("train", "test"),
) -> LabelledData:
    """Take a map-style data set of ``(image, class number)``.

    Images are PIL images, uint8 arrays or tensors of pixel values (see :mod:`auditor.data.decode`), without random
    transforms and without normalization: the model's own preprocessing is applied to them.

    Labels come from ``targets`` or ``labels``, where the data set has them and its items agree, else from reading
    every item once. Class names come from ``classes``. Ids are the paths below ``root`` where the data set lists its
    ``samples``, else positions; a ``Subset`` keeps the ids of the whole, so an image has one name in both.

    Parameters
    ----------
    dataset : MapDataset
        Divided by `fractions`, or trained on if there is a `held_out` one.
    held_out : MapDataset, optional
        Divided into select and score.
    fractions, seed
        See :func:`auditor.data.splits.stratified_splits`.
    name, origin : str, optional
        Default: the name of the data set's class.
    prefixes : tuple of str
        Begin the ids of `dataset` and of `held_out`, if there are both.

    Raises
    ------
    DataError
        If it is no such data set, its labels or images are unusable, or an item differs from one reading to the next.
    """
    parts: tuple[MapDataset, ...] = (dataset,) if held_out is None else (dataset, held_out)
    for part in parts:
        _check(part)
    labels = [_labels(part) for part in parts]
    ids = [_ids(part) for part in parts]
    found = [_classes(part) for part in parts]
    if len(found) == 2 and found[0] != found[1]:
        raise DataError("The data to train on and the held-out data have different classes.")
    if held_out is not None:
        ids = [tuple(f"{prefix}/{one}" for one in some) for prefix, some in zip(prefixes, ids, strict=True)]
    joined = tuple(one for some in ids for one in some)
    label_array = np.concatenate(labels)
    shown = name or type(dataset).__name__
    return assemble(
        name=shown,
        origin=origin or f"the data set {shown} given from Python",
        classes=found[0],
        labels=label_array,
        ids=joined,
        read=_Reader(parts, label_array, tuple(map(printable, joined))),
        fractions=fractions,
        seed=seed,
        n_train=None if held_out is None else len(dataset),
    )


@dataclass(frozen=True)
class _Reader:
    """Reads from one or two data sets in a row; a class so that worker processes can receive it."""

    parts: tuple[MapDataset, ...]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        part, place = self.parts[0], index
        if index >= len(part):
            part, place = self.parts[1], index - len(part)
        image, label = item(part, place, self.ids[index])
        if label != self.labels[index]:
            raise DataError(
                f"The label of {self.ids[index]} differs from one reading to the next.",
                wanted=str(self.labels[index]),
                got=str(label),
                fix="The data set must give the same item each time.",
            )
        return as_picture(image, self.ids[index])


def item(dataset: MapDataset, index: int, name: str) -> tuple[Any, int]:
    """Read one image and its class number.

    Raises
    ------
    UnreadableImageError
        If its file does not decode.
    DataError
        If the data set fails otherwise, or gives something else.
    """
    try:
        got = dataset[index]
    except AuditorError:
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for broken files
        raise UnreadableImageError(f"The image {name} cannot be read: {printable(str(error))}") from error
    except Exception as error:
        raise DataError(
            f"The data set failed at item {index} ({name}): {type(error).__name__}: {printable(str(error))}"
        ) from error
    if isinstance(got, Mapping):
        image, label = (next((got[k] for k in keys if k in got), None) for keys in (_IMAGE_KEYS, _LABEL_KEYS))
    elif isinstance(got, tuple | list) and len(got) >= 2:
        image, label = got[0], got[1]
    else:
        raise DataError("An item of the data set is no pair of image and label.", wanted=_WANTED, got=_kind(got))
    try:
        return image, _whole(label)
    except (TypeError, ValueError, RuntimeError):
        raise DataError("A label of the data set is no class number.", wanted=_WANTED, got=_kind(label)) from None


def _whole(label: Any) -> int:
    return operator.index(label.item() if hasattr(label, "item") else label)


def _check(dataset: MapDataset) -> None:
    """Read a few items twice: what differs between readings could never be resumed or compared."""
    try:
        size = len(dataset)
    except (TypeError, NotImplementedError):
        raise DataError("The data set has no length.", wanted=_WANTED, got=type(dataset).__name__) from None
    if size == 0:
        raise DataError("The data set is empty.", wanted=_WANTED, got="0 items")
    for index in _probes(size):
        try:
            first, second = (item(dataset, index, f"item {index}") for _ in range(2))
            same = as_picture(first[0], f"item {index}") == as_picture(second[0], f"item {index}")
        except UnreadableImageError:
            continue
        if not same or first[1] != second[1]:
            raise DataError(
                f"Item {index} of the data set differs from one reading to the next.",
                wanted="the same picture and label each time",
                fix="Leave random transforms out of the data set.",
            )


def _probes(size: int) -> list[int]:
    return sorted({i * (size - 1) // max(_PROBES - 1, 1) for i in range(_PROBES)})


def _wraps(dataset: Any) -> bool:
    """Whether this is a ``torch.utils.data.Subset``, or like one."""
    return hasattr(dataset, "dataset") and hasattr(dataset, "indices") and len(dataset.indices) == len(dataset)


def _joins(dataset: Any) -> bool:
    """Whether this is a ``torch.utils.data.ConcatDataset``, or like one."""
    return hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes")


def _labels(dataset: MapDataset) -> NDArray[np.int64]:
    listed = _listed_labels(dataset)
    if listed is not None and all(_agrees(dataset, listed, index) for index in _probes(len(dataset))):
        return listed
    return integer_labels([item(dataset, i, f"item {i}")[1] for i in range(len(dataset))], type(dataset).__name__)


def _agrees(dataset: MapDataset, listed: NDArray[np.int64], index: int) -> bool:
    try:
        return item(dataset, index, f"item {index}")[1] == int(listed[index])
    except UnreadableImageError:
        return True


def _listed_labels(dataset: Any) -> NDArray[np.int64] | None:
    if _wraps(dataset):
        whole = _listed_labels(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices, dtype=np.int64)]
    if _joins(dataset):
        parts = [_listed_labels(part) for part in dataset.datasets]
        return np.concatenate([p for p in parts if p is not None]) if all(p is not None for p in parts) else None
    values = next((v for name in _LABELS if (v := getattr(dataset, name, None)) is not None), None)
    if values is None or callable(values):
        return None
    try:
        found = integer_labels(values, type(dataset).__name__)
    except DataError:
        return None
    return found if len(found) == len(dataset) else None


def _ids(dataset: Any) -> tuple[str, ...]:
    if _wraps(dataset):
        whole = _ids(dataset.dataset)
        return tuple(whole[int(i)] for i in dataset.indices)
    if _joins(dataset):
        return tuple(f"{k}/{one}" for k, part in enumerate(dataset.datasets) for one in _ids(part))
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset) and all(isinstance(s, tuple) for s in samples):
        root = getattr(dataset, "root", None)
        ids = relative_ids([str(s[0]) for s in samples], None if root is None else str(root))
        if ids is not None:
            return ids
    return row_ids(len(dataset), "item")


def _classes(dataset: Any) -> Sequence[Any] | None:
    if _wraps(dataset):
        return _classes(dataset.dataset)
    if _joins(dataset):
        found = [_classes(part) for part in dataset.datasets]
        if any(names != found[0] for names in found):
            raise DataError("The joined data sets have different classes.")
        return found[0]
    for names in (getattr(dataset, "classes", None), getattr(dataset, "categories", None), _features(dataset)):
        if isinstance(names, list | tuple) and names:
            return names
    return None


def _features(dataset: Any) -> Sequence[str] | None:
    """Class names of a data set of Hugging Face's."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None
    return next((getattr(features[key], "names", None) for key in _LABEL_KEYS if key in features), None)


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
