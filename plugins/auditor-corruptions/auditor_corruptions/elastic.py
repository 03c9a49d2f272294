"""Stretched and shifted locally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn
from auditor.perturbations.filters import gaussian_blur


class ElasticTransform(Corruption):
    """A random affine map, then displacements smoothed over `smoothing` pixels.

    Three corners of a square of two thirds of the side are moved by up to `corner` pixels each way. Displacements
    are uniform in [-1, 1], blurred by a Gaussian and multiplied by `strength`.
    """

    name: ClassVar[str] = "elastic_transform"
    label: ClassVar[str] = "Elastic transform"
    group: ClassVar[Group] = "digital"
    fields: ClassVar[tuple[str, ...]] = ("strength", "smoothing", "corner")
    table: ClassVar[Table] = {
        32: (
            (32 * 0, 32 * 0, 32 * 0.08),
            (32 * 0.05, 32 * 0.2, 32 * 0.07),
            (32 * 0.08, 32 * 0.06, 32 * 0.06),
            (32 * 0.1, 32 * 0.04, 32 * 0.05),
            (32 * 0.1, 32 * 0.03, 32 * 0.03),
        ),
        64: (
            (64 * 0, 64 * 0, 64 * 0.08),
            (64 * 0.05, 64 * 0.3, 64 * 0.06),
            (64 * 0.1, 64 * 0.08, 64 * 0.06),
            (64 * 0.1, 64 * 0.03, 64 * 0.03),
            (64 * 0.16, 64 * 0.03, 64 * 0.02),
        ),
        # 244, not 224, is the authors'.
        224: (
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Deform; see :meth:`Corruption.corrupt`."""
        shape = images.shape[-2:]
        corners = drawn(generators, lambda g: torch.rand((3, 2), generator=g, dtype=torch.float64))
        shifts = drawn(generators, lambda g: torch.rand((2, *shape), generator=g)).to(images.device)
        moved = parameters["corner"] * (2 * corners - 1)
        smooth = gaussian_blur(2 * shifts - 1, parameters["smoothing"], mode="reflect", truncate=3.0)
        return displaced(affine(images, moved), parameters["strength"] * smooth)


def affine(images: Tensor, moved: Tensor) -> Tensor:
    """Warp each image by the affine map that moves three corners of its central square.

    Parameters
    ----------
    images : Tensor
        Shape (B, C, H, W).
    moved : Tensor
        Shape (B, 3, 2): pixels right and down, for the lower right, upper right and upper left corner.

    Returns
    -------
    Tensor
        Like `images`; mirrored beyond the border, the outermost pixels not repeated.
    """
    height, width = images.shape[-2:]
    side = max(min(height, width) // 3, 1)
    centre = torch.tensor([width // 2, height // 2], dtype=torch.float64)
    before = centre + side * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    after = before + moved.cpu().double()
    # Where each pixel comes from: the inverse map, fixed by what the three moved corners were.
    ones = torch.ones(len(after), 3, 1, dtype=torch.float64)
    inverse = torch.linalg.solve(torch.cat([after, ones], dim=2), before.expand_as(after)).to(images)
    rows = torch.arange(height, device=images.device, dtype=images.dtype)
    columns = torch.arange(width, device=images.device, dtype=images.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3) @ inverse
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=images.device, dtype=images.dtype)
    grid = (points * scale - 1).view(-1, height, width, 2)
    return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def displaced(images: Tensor, shifts: Tensor) -> Tensor:
    """Take each pixel from `shifts` (B, 2, H, W) pixels right and down; mirrored beyond the border, outermost twice."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device, dtype=images.dtype)[:, None]
    columns = torch.arange(width, device=images.device, dtype=images.dtype)
    x = (2 * (columns + shifts[:, 0]) + 1) / width - 1
    y = (2 * (rows + shifts[:, 1]) + 1) / height - 1
    grid = torch.stack([x, y], dim=-1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
