"""Which columns of a Hugging Face data set hold images and labels, and how it is divided."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from auditor.data.base import printable
from auditor.errors import DataError, unknown_name

HELD_OUT = ("validation", "valid", "val", "test", "dev")
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "class")


def image_column(features: Mapping[str, Any], asked: str | None = None) -> str:
    """Name the column of images.

    Raises
    ------
    DataError
        If there is none, or it is not clear which.
    """
    return _column("image", features, [name for name, kind in features.items() if _is_image(kind)], _IMAGES, asked)


def label_column(features: Mapping[str, Any], asked: str | None = None) -> str:
    """Name the column of labels: the one whose type is that of classes, else one with a usual name.

    Raises
    ------
    DataError
        If there is none, or it is not clear which.
    """
    classes = [name for name, kind in features.items() if hasattr(kind, "names")]
    if asked is None and len(classes) == 1:
        return classes[0]
    plain = [name for name, kind in features.items() if _is_plain(kind)]
    usual = _LABELS if not set(_LABELS) & set(classes) else [name for name in _LABELS if name in classes]
    return _column("label", features, [*classes, *plain], usual, asked)


def chosen_splits(present: Collection[str], asked: str | None = None) -> tuple[str, ...]:
    """Names of the training and of the first held-out split that is there, or of the only one.

    Raises
    ------
    DataError
        If it is not clear which is which.
    """
    if asked is not None:
        if asked not in present:
            raise unknown_name("split", asked, present)
        return (asked,)
    held_out = next((name for name in HELD_OUT if name in present), None)
    if "train" in present and held_out is not None:
        return "train", held_out
    if len(present) == 1:
        return tuple(present)
    raise DataError(
        "It is not clear how the data set is divided.",
        wanted=f"one split, or train and one of {', '.join(HELD_OUT)}",
        got=printable(", ".join(present)),
        fix=f"Choose one: --data 'hfs:...?split={next(iter(present))}'",
    )


def _is_image(kind: Any) -> bool:
    # Parquet files that other tools wrote hold the same structure without saying that it is an image.
    return type(kind).__name__ == "Image" or (isinstance(kind, Mapping) and {"bytes", "path"} == set(kind))


def _is_plain(kind: Any) -> bool:
    dtype = str(getattr(kind, "dtype", ""))
    return type(kind).__name__ == "Value" and ("int" in dtype or dtype in ("string", "large_string"))


def _column(
    what: str, features: Mapping[str, Any], usable: list[str], usual: Collection[str], asked: str | None
) -> str:
    if asked is not None:
        if asked not in usable:
            raise unknown_name(f"column of {what}s", asked, usable)
        return asked
    found = usable if len(usable) == 1 else [name for name in usual if name in usable]
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"It is not clear which column holds the {what}s." if usable else f"No column holds {what}s.",
        wanted=f"one of {', '.join(usable)}" if usable else f"a column of {what}s",
        got=printable(", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())),
        fix=f"Name it: --data 'hfs:...?{what}={usable[0]}'" if usable else None,
    )
