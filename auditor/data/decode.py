"""From files, arrays and tensors of many kinds to RGB pictures of 8 bits a channel.

What is converted, and how:

- grey, palette, 1-bit, CMYK and YCbCr pictures: by Pillow's ``convert("RGB")``, without colour profiles;
- transparency (RGBA, LA, a palette's): dropped, as torchvision's and timm's own loaders do, so that accuracy can be
  compared with theirs. The colours under transparent pixels are what the network sees;
- 16 bits a channel: scaled (divided by 257 and rounded). Pillow itself reads 16-bit colour PNG files by the high byte;
- several frames: the first. EXIF orientation is left alone;
- floating-point files, whose range is not known, and whatever does not decode: :class:`UnreadableImageError`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from auditor.data.base import UnreadableImageError, printable
from auditor.errors import AuditorError, DataError

_DEEP = 65535
_KINDS = "a PIL image, a uint8 array (H, W), (H, W, 1) or (H, W, 3), or a tensor (C, H, W), uint8 or float from 0 to 1"


def read_image(source: Path | bytes, name: str | None = None) -> Image.Image:
    """Decode one image file as RGB.

    Parameters
    ----------
    source : Path or bytes
        The file, or what is in it.
    name : str, optional
        For messages; default: the path.

    Raises
    ------
    UnreadableImageError
        Naming the file, if it cannot be decoded.
    """
    shown = printable(str(name if name is not None else source if isinstance(source, Path) else "(bytes)"))
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return as_rgb(image, shown)
    except AuditorError:
        raise
    except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, ...
        reason = type(error).__name__ if not str(error) else f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):
            empty = len(source) == 0 if isinstance(source, bytes) else source.stat().st_size == 0
            reason = "the file is empty" if empty else "it is no image file that Pillow knows"
        raise UnreadableImageError(
            f"The image {shown} cannot be read: {printable(reason)}", fix="Replace the file or remove it."
        ) from error


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a picture in memory.

    Raises
    ------
    UnreadableImageError
        If its values have no known range.
    """
    if image.mode == "F":
        raise UnreadableImageError(f"{name} holds floating-point values, of which the range is not known.")
    if image.mode == "I" or image.mode.startswith("I;"):
        # Pillow would clip everything above 255 to white.
        return _deep(np.asarray(image), name).convert("RGB")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def as_picture(value: Any, name: str) -> Image.Image:
    """Convert one image of a Python data set.

    Tensors have their channels first, arrays last. Values are pixels, not yet normalized.

    Parameters
    ----------
    value : PIL image, ndarray or torch.Tensor
    name : str
        For messages.

    Raises
    ------
    UnreadableImageError
        If a lazily opened file does not decode.
    DataError
        If the value is no image, or its range is not that of pixels; that is the same for all images.
    """
    if isinstance(value, Image.Image):
        try:
            return as_rgb(value, name)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(f"The image {name} cannot be read: {printable(str(error))}") from error
    if hasattr(value, "detach"):  # a tensor, without a need for torch here
        tensor = value.detach().cpu()
        if "float" in str(tensor.dtype):
            tensor = tensor.float()  # bfloat16 is unknown to NumPy
        array = tensor.numpy()
        if array.ndim == 3:
            array = np.moveaxis(array, 0, -1)
    elif isinstance(value, np.ndarray):
        array = value
    else:
        raise DataError(f"{name} is not an image.", wanted=_KINDS, got=type(value).__name__)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        shape = tuple(getattr(value, "shape", ()))
        raise DataError(f"{name} does not have the shape of an image.", wanted=_KINDS, got=f"shape {shape}")
    return _from_array(array, name)


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
    if array.dtype == np.bool_:
        return Image.fromarray(array.astype(np.uint8) * 255).convert("RGB")
    if array.dtype == np.uint16:
        return _deep(array, name).convert("RGB")
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{name} holds values of an unexpected type.", wanted=_KINDS, got=str(array.dtype))
    if not np.isfinite(array).all():
        raise DataError(
            f"The image {name} holds NaN or infinite values.", wanted="values from 0 to 1", fix="Mend the data set."
        )
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise DataError(
            f"The image {name} holds values outside 0 to 1.",
            wanted=_KINDS,
            got=f"{low:.4g} to {high:.4g}",
            fix="Leave normalization out of the data set's transform: auditor applies the model's own preprocessing. "
            "Values from 0 to 255 must be uint8.",
        )
    return Image.fromarray(np.rint(array * np.float32(255)).astype(np.uint8)).convert("RGB")


def _deep(values: NDArray[Any], name: str) -> Image.Image:
    if values.size and (int(values.min()) < 0 or int(values.max()) > _DEEP):
        raise UnreadableImageError(
            f"{name} holds values outside 16 bits, of which the range is not known.",
            wanted=f"0 to {_DEEP}",
            got=f"{values.min()} to {values.max()}",
        )
    return Image.fromarray(np.rint(values.astype(np.float64) / 257).astype(np.uint8))
