"""Separable linear filters, borders included, as one matrix per axis.

A filter along an axis of n pixels is an (n, n) matrix; SciPy applied to the identity gives it, so that borders are
SciPy's own. Two matrix products then filter a whole batch on any device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


@lru_cache(maxsize=128)
def gaussian_matrix(size: int, sigma: float, mode: Literal["nearest", "reflect"], truncate: float) -> Tensor:
    """Gaussian filter along `size` pixels, shape (size, size); a `sigma` of 0 leaves everything as it is."""
    identity = np.eye(size)
    filtered = gaussian_filter1d(identity, sigma, axis=0, mode=mode, truncate=truncate) if sigma > 0 else identity
    return torch.from_numpy(np.ascontiguousarray(filtered))


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one matrix along the height and one along the width.

    Parameters
    ----------
    images : Tensor
        Shape (..., H, W).
    rows : Tensor
        Shape (H', H).
    columns : Tensor
        Shape (W', W).

    Returns
    -------
    Tensor
        Shape (..., H', W').
    """
    return rows.to(images) @ (images @ columns.to(images).T)


def gaussian_blur(
    images: Tensor, sigma: float, *, mode: Literal["nearest", "reflect"] = "nearest", truncate: float = 4.0
) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, cut at `truncate` standard deviations.

    The defaults are those of ``skimage.filters.gaussian``: the outermost pixels are repeated beyond the border.
    """
    height, width = images.shape[-2:]
    rows = gaussian_matrix(height, float(sigma), mode, truncate)
    columns = gaussian_matrix(width, float(sigma), mode, truncate)
    return separable(images, rows, columns)
