"""Fog as a fractal height map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn


class Fog(Corruption):
    """A light fractal added `density` times, whose roughness falls by `decay` per octave; then the range restored."""

    name: ClassVar[str] = "fog"
    label: ClassVar[str] = "Fog"
    group: ClassVar[Group] = "weather"
    fields: ClassVar[tuple[str, ...]] = ("density", "decay")
    table: ClassVar[Table] = {
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Add fog; see :meth:`Corruption.corrupt`."""
        height, width = images.shape[-2:]
        size = 1 << (max(height, width) - 1).bit_length()
        draws = drawn(generators, lambda g: torch.rand(size * size, generator=g, dtype=torch.float64))
        fog = plasma(2 * draws - 1, size, parameters["decay"])[:, None, :height, :width].to(images)
        brightest = images.amax(dim=(1, 2, 3), keepdim=True)
        density = parameters["density"]
        return (images + density * fog) * (brightest / (brightest + density))


def plasma(draws: Tensor, size: int, decay: float) -> Tensor:
    """Diamond-square fractals with wrapped borders, each from 0 to 1.

    Parameters
    ----------
    draws : Tensor
        Shape (B, size ** 2), between -1 and 1; the last of each row is not used.
    size : int
        A power of 2.
    decay : float
        By which the random part shrinks from each scale to the next; its square counts, as in the original.

    Returns
    -------
    Tensor
        Shape (B, size, size).
    """
    grid = draws.new_zeros(len(draws), size, size)
    step, wibble, used = size, 100.0, 0

    def wibbled(total: Tensor) -> Tensor:
        nonlocal used
        count = total[0].numel()
        noise = draws[:, used : used + count].view_as(total)
        used += count
        return total / 4 + wibble**2 * noise

    while step >= 2:
        half = step // 2
        corners = grid[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        grid[:, half::step, half::step] = wibbled(pairs + pairs.roll(-1, 2))
        middles = grid[:, half::step, half::step]
        above = middles + middles.roll(1, 1)
        beside = corners + corners.roll(-1, 2)
        grid[:, ::step, half::step] = wibbled(above + beside)
        before = middles + middles.roll(1, 2)
        along = corners + corners.roll(-1, 1)
        grid[:, half::step, ::step] = wibbled(before + along)
        step, wibble = half, wibble / decay
    grid = grid - grid.amin(dim=(1, 2), keepdim=True)
    return grid / grid.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
