"""A lens out of focus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from scipy.ndimage import correlate1d
from torch import Tensor
from torch.nn.functional import conv2d

from auditor.perturbations.base import Corruption, Group, Table


class DefocusBlur(Corruption):
    """Blur by a disk of `radius` pixels whose edge is softened by a Gaussian of `alias_blur` pixels.

    Pixels beyond the border mirror those within, the outermost not repeated, as in OpenCV.
    """

    name: ClassVar[str] = "defocus_blur"
    label: ClassVar[str] = "Defocus blur"
    group: ClassVar[Group] = "blur"
    fields: ClassVar[tuple[str, ...]] = ("radius", "alias_blur")
    table: ClassVar[Table] = {
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Blur; see :meth:`Corruption.corrupt`."""
        kernel = disk(parameters["radius"], parameters["alias_blur"]).to(images)
        margin = kernel.shape[0] // 2
        height, width = images.shape[-2:]
        rows, columns = mirrored(height, margin), mirrored(width, margin)
        padded = images[:, :, rows.to(images.device)][..., columns.to(images.device)]
        blurred = conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])
        return blurred.view_as(images)


@lru_cache(maxsize=32)
def disk(radius: float, alias_blur: float) -> Tensor:
    """Kernel of a disk with a softened edge, shape (K, K), K odd.

    The softening Gaussian spans 3 pixels, 5 for a radius above 8. The sum is 1 but for the radii 8 and 10, whose disks
    reach the border of the kernel: there, as in the original, softening mirrors weight back, and the image becomes
    brighter by 1 percent.
    """
    reach = max(8, int(np.ceil(radius)))
    across = np.arange(-reach, reach + 1)
    kernel = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-(taps**2) / (2 * alias_blur**2))
    for axis in (0, 1):
        kernel = correlate1d(kernel, soft / soft.sum(), axis=axis, mode="mirror")
    used = np.flatnonzero(kernel.any(axis=0))
    margin = reach - used[0] if len(used) else 0
    return torch.from_numpy(kernel[reach - margin : reach + margin + 1, reach - margin : reach + margin + 1].copy())


def mirrored(size: int, margin: int) -> Tensor:
    """Places within `size` pixels of those from -margin to size + margin, mirrored at the outermost pixels."""
    if size == 1:
        return torch.zeros(1 + 2 * margin, dtype=torch.long)
    period = 2 * (size - 1)
    places = torch.arange(-margin, size + margin) % period
    return torch.minimum(places, period - places)
