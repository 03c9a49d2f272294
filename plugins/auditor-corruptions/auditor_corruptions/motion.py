"""A moving camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import uniform


class MotionBlur(Corruption):
    """Blur along a direction drawn between -45 and 45 degrees.

    The weights are half a Gaussian of standard deviation `sigma` over 2 `radius` + 1 pixels, on whole pixels: what
    ImageMagick's ``MotionBlurImage`` computes, with which the originals were made.
    """

    name: ClassVar[str] = "motion_blur"
    label: ClassVar[str] = "Motion blur"
    group: ClassVar[Group] = "blur"
    fields: ClassVar[tuple[str, ...]] = ("radius", "sigma")
    table: ClassVar[Table] = {
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Blur; see :meth:`Corruption.corrupt`."""
        angles = uniform(generators, -45.0, 45.0)
        return motion_blur(images, parameters["radius"], parameters["sigma"], angles)


def motion_blur(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Blur each image along its own direction; the outermost pixels are repeated beyond the border.

    Parameters
    ----------
    images : Tensor
        Shape (B, C, H, W).
    radius, sigma : float
        In pixels.
    angles : Tensor
        Shape (B,), in degrees.

    Returns
    -------
    Tensor
        Like `images`.
    """
    batch, channels, height, width = images.shape
    taps = torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64)
    weights = torch.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    turned = torch.deg2rad(angles.double())
    down = torch.ceil(taps * torch.sin(turned)[:, None] - 0.5).long().to(images.device)
    right = torch.ceil(taps * torch.cos(turned)[:, None] - 0.5).long().to(images.device)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    flat = images.flatten(2)
    blurred = torch.zeros_like(flat)
    for tap, weight in enumerate(weights.tolist()):
        row = (rows + down[:, tap, None]).clamp(0, height - 1)
        column = (columns + right[:, tap, None]).clamp(0, width - 1)
        places = (row[:, :, None] * width + column[:, None, :]).view(batch, 1, -1)
        blurred += weight * flat.gather(2, places.expand(-1, channels, -1))
    return blurred.view_as(images)
