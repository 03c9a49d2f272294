"""Light in drops of water: the edges of the drops, and how far each pixel is from one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate, correlate1d, label, uniform_filter

FARTHEST = 20
STEPS = {(0, 1): 1.0, (1, 0): 1.0, (1, 1): 1.4, (1, 2): 2.1969, (2, 1): 2.1969}
RELIEF = np.array([[[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]])
LOW, HIGH = 50, 150


def glints(liquid: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Brightness of water, from 0 to 1, from its depth; both of shape (B, H, W).

    Distances from the edges of the drops are equalized, drawn as a relief and multiplied by the depth, as the original
    does it with OpenCV.
    """
    smooth = uniform_filter(distances(edges(liquid)), (1, 3, 3), mode="mirror")
    # The small number keeps a whole number that comes out a little short from being cut to the one below.
    equalized = equalize((smooth + 1e-4).astype(np.uint8))
    relief = np.clip(correlate(equalized.astype(np.int64), RELIEF, mode="mirror"), 0, 255)
    bright = liquid * np.rint(uniform_filter(relief.astype(np.float64), (1, 3, 3), mode="mirror"))
    brightest = bright.max(axis=(1, 2), keepdims=True)
    result: NDArray[np.float64] = bright / np.where(brightest > 0, brightest, 1)
    return result


def edges(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Edges by Canny (1986), with Sobel gradients and the sum of their sizes, as in ``cv2.Canny(image, 50, 150)``.

    Parameters
    ----------
    images : ndarray of uint8
        Shape (B, H, W).

    Returns
    -------
    ndarray of bool
        Shape (B, H, W).
    """
    values = images.astype(np.int64)
    smooth, differ = np.array([1, 2, 1]), np.array([-1, 0, 1])
    dx = correlate1d(correlate1d(values, differ, axis=2, mode="nearest"), smooth, axis=1, mode="nearest")
    dy = correlate1d(correlate1d(values, differ, axis=1, mode="nearest"), smooth, axis=2, mode="nearest")
    size = np.abs(dx) + np.abs(dy)
    padded = np.pad(size, ((0, 0), (1, 1), (1, 1)))
    height, width = size.shape[1:]

    def neighbour(down: int, right: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        return found

    # The gradient's direction in eighths of a circle, by the tangent of 22.5 degrees in 15 bits.
    flat = np.abs(dx) * 13573
    steep = np.abs(dy) << 15
    across, upright = steep < flat, steep > flat + (np.abs(dx) << 16)
    falling = (dx ^ dy) < 0
    rising_ridge = (size > neighbour(-1, -1)) & (size > neighbour(1, 1))
    falling_ridge = (size > neighbour(-1, 1)) & (size > neighbour(1, -1))
    ridge = np.where(falling, falling_ridge, rising_ridge)
    ridge = np.where(upright, (size > neighbour(-1, 0)) & (size >= neighbour(1, 0)), ridge)
    ridge = np.where(across, (size > neighbour(0, -1)) & (size >= neighbour(0, 1)), ridge)
    ridge &= size > LOW
    touching = np.zeros((3, 3, 3), dtype=bool)
    touching[1] = True
    parts, count = label(ridge, structure=touching)
    strong = np.zeros(count + 1, dtype=bool)
    strong[parts[ridge & (size > HIGH)]] = True
    strong[0] = False
    kept: NDArray[np.bool_] = strong[parts]
    return kept


def distances(edge: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of each pixel from the nearest edge, at most 20; both of shape (B, H, W).

    Length of the shortest path of steps to neighbours (1), across corners (1.4) and of a knight (2.1969): Borgefors
    (1986), Distance transformations in digital images, with the weights of ``cv2.distanceTransform(..., DIST_L2, 5)``.
    """
    height, width = edge.shape[1:]
    moves = [(down * v, right * h, cost) for (down, right), cost in STEPS.items() for v in (1, -1) for h in (1, -1)]
    padded = np.full((len(edge), height + 4, width + 4), float(FARTHEST))
    inside = padded[:, 2 : 2 + height, 2 : 2 + width]
    inside[edge] = 0
    for _ in range(FARTHEST):  # no step is shorter than 1
        before = inside.copy()
        for down, right, cost in moves:
            shifted = padded[:, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
            np.minimum(inside, shifted + cost, out=inside)
        if np.array_equal(before, inside):
            break
    return inside.copy()


def equalize(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread each image's histogram over 0 to 255, as ``cv2.equalizeHist`` does."""
    result = np.empty_like(images)
    for one, image in zip(result, images, strict=True):
        histogram = np.bincount(image.ravel(), minlength=256)
        first = int(image.min())
        rest = image.size - histogram[first]
        if rest == 0:
            one[:] = first
            continue
        levels = np.cumsum(histogram) - histogram[first]
        one[:] = np.rint(np.clip(levels * (255.0 / rest), 0, 255)).astype(np.uint8)[image]
    return result
