"""Images and labels as arrays in one ``.npz`` file."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.data.assemble import assemble, integer_labels, row_ids
from auditor.data.base import DataSource, LabelledData, printable
from auditor.errors import DataError

_PREFIX = "npz:"
_WANTED = (
    "images uint8 (N, H, W, 3), (N, H, W, 1) or (N, H, W) and labels int (N,); "
    "if you like classes str (C,) and ids or filenames str (N,)"
)


@dataclass(frozen=True)
class _ArrayReader:
    """Turns rows of an array into pictures; a class so that worker processes can receive it."""

    images: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index]).convert("RGB")


class NpzSource(DataSource):
    """One ``.npz`` file with the arrays ``images`` and ``labels``.

    Optional arrays are ``classes`` (names in the order of the labels; classes without images may be among them) and
    ``ids`` or ``filenames`` (unique; without them an image's id is its place in the file). Further arrays are ignored.
    Pickled objects are refused, because loading them runs code.
    """

    name = "npz"

    def claims(self, text: str) -> bool:
        """Tell whether `text` ends in ``.npz`` or begins with ``npz:``; a folder of that name is a folder."""
        return text.startswith(_PREFIX) or (text.lower().endswith(".npz") and not Path(text).expanduser().is_dir())

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the file; see :meth:`DataSource.load`. All pixels are held in memory."""
        self.refuse_root(root)
        path = Path(text.removeprefix(_PREFIX)).expanduser()
        arrays = _read(path)
        images = _images(arrays["images"], path)
        labels = integer_labels(arrays["labels"], str(path))
        for key, values in arrays.items():
            if key != "classes" and len(values) != len(images):
                raise DataError(
                    f"{path} needs one entry of {key!r} for each image.", wanted=str(len(images)), got=str(len(values))
                )
        ids = next((_texts(arrays[k], k, path) for k in ("ids", "filenames") if k in arrays), None)
        classes = _texts(arrays["classes"], "classes", path) if "classes" in arrays else None
        return assemble(
            name=path.stem,
            origin=str(path.resolve()),
            classes=classes,
            labels=labels,
            ids=row_ids(len(images), "npz") if ids is None else ids,
            read=_ArrayReader(images),
            fractions=fractions,
            seed=seed,
        )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Load the arrays that are used."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds a single array.", wanted=f"a .npz file with {_WANTED}")
        with loaded as file:
            missing = [key for key in ("images", "labels") if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} has no array {missing[0]!r}.",
                    wanted=_WANTED,
                    got=printable(", ".join(sorted(file.files))) or "an empty file",
                    fix="numpy.savez(FILE, images=..., labels=..., classes=...)",
                )
            found: dict[str, NDArray[Any]] = {}
            for key in ("images", "labels", "classes", "ids", "filenames"):
                if key in file.files and not (key == "filenames" and "ids" in file.files):
                    found[key] = _member(file, key, path)
            return found
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.npz"))[:3] if path.parent.is_dir() else []
        raise DataError(f"There is no file {str(path)!r}.", wanted="a .npz file", closest=near) from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read as a .npz file: {printable(str(error).splitlines()[0] if str(error) else '')}",
            wanted=_WANTED,
        ) from error


def _member(file: Any, key: str, path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error) and "Object arrays" not in str(error):
            raise
        raise DataError(
            f"The array {key!r} of {path} holds pickled Python objects, which are refused: loading them runs code.",
            wanted="numbers or fixed-length text",
            fix="Save text with numpy.array(names, dtype=str), and images of one size with numpy.stack.",
        ) from error
    if array.ndim == 0:
        raise DataError(f"The array {key!r} of {path} is a single value.", wanted=_WANTED)
    return array


def _images(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    shape = tuple(images.shape)
    channels_first = images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
    if images.ndim not in (3, 4) or (images.ndim == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"The images of {path} have an unexpected shape.",
            wanted="(N, H, W, 3), (N, H, W, 1) or (N, H, W)",
            got=str(shape),
            fix="Move the channels last: images.transpose(0, 2, 3, 1)." if channels_first else None,
        )
    if images.dtype != np.uint8:
        unit = np.issubdtype(images.dtype, np.floating)
        raise DataError(
            f"The images of {path} have an unexpected type.",
            wanted="uint8, 0 to 255",
            got=str(images.dtype),
            fix="(images * 255).round().astype('uint8'), if the values lie between 0 and 1." if unit else None,
        )
    if 0 in shape[1:]:
        raise DataError(f"The images of {path} have no pixels.", got=str(shape))
    return images[..., 0] if images.ndim == 4 and shape[3] == 1 else images


def _texts(values: NDArray[Any], key: str, path: Path) -> tuple[str, ...]:
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise DataError(
            f"The array {key!r} of {path} is not a list of names.",
            wanted="text or integers, one axis",
            got=f"{values.dtype} of shape {tuple(values.shape)}",
        )
    if values.dtype.kind == "S":
        return tuple(value.decode("utf-8", "surrogateescape") for value in values.tolist())
    return tuple(str(value) for value in values.tolist())
