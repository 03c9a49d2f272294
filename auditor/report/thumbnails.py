"""Images small enough to lie inside a page, and the region of an image that drives a unit."""

from __future__ import annotations

import io
from base64 import b64encode

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from auditor.errors import DataError
from auditor.report.style import INK, ORANGE

THRESHOLD = 0.5
_QUALITY = 82
# Palette of the overlay: inside (clear), outside (a grey that shows on black and on white), the two lines of its edge.
_CLEAR, _VEIL, _LINE, _HALO = range(4)
_COLOURS = ((0, 0, 0), (128, 128, 128), *(tuple(bytes.fromhex(colour[1:])) for colour in (ORANGE, INK)))
_ALPHA = (0, 150, 255, 255)


def thumbnail(image: ArrayLike, size: int = 96) -> str:
    """Shrink or enlarge an image so that its longer side has about `size` pixels.

    Images of at most half that size are enlarged by a whole factor with nearest neighbours, so that every pixel can be
    seen, and kept as PNG; all others are resampled (Lanczos) and kept as JPEG.

    Parameters
    ----------
    image : (H, W, 3) or (H, W) uint8 array
        As the network sees it: cropped and resized, not normalised.
    size : int
        Pixels of the longer side.

    Returns
    -------
    str
        A ``data:`` URI; the same bytes for the same image.

    Raises
    ------
    DataError
        If `image` is no such array.
    """
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    shape = _shape(height, width, size)
    buffer = io.BytesIO()
    if _is_tiny(height, width, size):
        picture.resize(shape, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
        return _uri(buffer, "png")
    picture.resize(shape, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return _uri(buffer, "jpeg")


def region(image: ArrayLike, activation_map: ArrayLike, size: int = 96) -> str:
    """Mark where a unit responds: a transparent overlay for the :func:`thumbnail` of the same image and size.

    The map is up-sampled bilinearly. Where it is at least half of its maximum the overlay is clear, with an orange
    edge that has a dark outline; everything else lies under a grey veil. Half of the maximum is a convention, not a
    test: it says where the response is strongest, not that the rest does not count, and it has no uncertainty. A map
    without a positive value marks nothing.

    Parameters
    ----------
    image : (H, W, 3) or (H, W) uint8 array
        Only its shape is used.
    activation_map : (h, w) array
        Response at each place of the image, in any unit; it covers the whole image.
    size : int
        Pixels of the longer side.

    Returns
    -------
    str
        A ``data:`` URI of a PNG, a few hundred bytes.

    Raises
    ------
    DataError
        If `image` is no image, or `activation_map` is not two-dimensional, empty or not finite.
    """
    height, width = _pixels(image).shape[:2]
    inside = _inside(activation_map, _shape(height, width, size))
    index = np.where(inside, _CLEAR, _VEIL).astype(np.uint8)
    edge = inside & ~_shrink(inside)
    index[edge] = _LINE
    index[~_shrink(~edge) & ~inside] = _HALO
    picture = Image.fromarray(index)
    picture.putpalette(np.array(_COLOURS, dtype=np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, bits=2, transparency=bytes(_ALPHA))
    return _uri(buffer, "png")


def _inside(activation_map: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the up-sampled map is at least half of its maximum; `shape` is (width, height)."""
    values = np.asarray(activation_map, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        got = f"shape {values.shape}" + ("" if np.isfinite(values).all() else " with values that are not finite")
        raise DataError("This is no activation map.", wanted="a finite array of shape (h, w)", got=got)
    grown = np.asarray(Image.fromarray(values).resize(shape, Image.Resampling.BILINEAR))
    top = grown.max()
    return grown >= THRESHOLD * top if top > 0 else np.zeros(grown.shape, dtype=bool)


def _shrink(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop the pixels of `mask` that have a neighbour (of four) outside it; the frame of the image is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _is_tiny(height: int, width: int, size: int) -> bool:
    return max(height, width) * 2 <= size


def _shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Width and height of a thumbnail."""
    if size < 1:
        raise DataError("A thumbnail needs pixels.", wanted="a size of at least 1", got=str(size))
    longer = max(height, width)
    if _is_tiny(height, width, size):
        return width * (size // longer), height * (size // longer)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def _pixels(image: ArrayLike) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shaped or not pixels.size:
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise DataError("This is no image.", wanted="uint8 of shape (H, W, 3) or (H, W)", got=got)
    return pixels


def _uri(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode('ascii')}"
