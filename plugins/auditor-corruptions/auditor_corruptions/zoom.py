"""Zooming in while the shutter is open."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.filters import separable


class ZoomBlur(Corruption):
    """Mean of the image and its centre enlarged 1 to (but without) `end` times, in steps of `step`."""

    name: ClassVar[str] = "zoom_blur"
    label: ClassVar[str] = "Zoom blur"
    group: ClassVar[Group] = "blur"
    fields: ClassVar[tuple[str, ...]] = ("end", "step")
    table: ClassVar[Table] = {
        32: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        64: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Blur; see :meth:`Corruption.corrupt`."""
        height, width = images.shape[-2:]
        factors = np.arange(1, parameters["end"], parameters["step"])
        total = images.clone()
        for factor in factors:
            total += separable(images, zoom_matrix(height, float(factor)), zoom_matrix(width, float(factor)))
        return total / (len(factors) + 1)


@lru_cache(maxsize=256)
def zoom_matrix(size: int, factor: float) -> Tensor:
    """Linear interpolation that enlarges the middle of `size` pixels `factor` times, shape (size, size).

    The part cut out, its rounding and the border are those of ``clipped_zoom`` and ``scipy.ndimage.zoom``.
    """
    kept = int(np.ceil(size / factor))
    start = (size - kept) // 2
    enlarged = zoom(np.eye(kept), (factor, 1), order=1)
    trim = (len(enlarged) - size) // 2
    matrix = np.zeros((size, size))
    matrix[:, start : start + kept] = enlarged[trim : trim + size]
    return torch.from_numpy(matrix)
