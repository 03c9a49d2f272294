"""Frost on the lens, drawn by a formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn


class Pane(NamedTuple):
    """What is kept of one of the authors' photographs: mean colour, and spreads within and between cut-outs."""

    colour: tuple[float, float, float]
    within: float
    between: float


# Measured on the five photographs that the authors' code draws from (the sixth is never drawn), at the scale at which
# it uses them for 32 pixels; the spreads at 64 and 224 pixels differ by at most 0.02. Two of the photographs are equal.
PANES = (
    Pane((0.30, 0.58, 0.65), 0.056, 0.040),
    Pane((0.78, 0.79, 0.83), 0.071, 0.035),
    Pane((0.78, 0.79, 0.83), 0.071, 0.035),
    Pane((0.56, 0.62, 0.67), 0.101, 0.042),
    Pane((0.40, 0.45, 0.49), 0.135, 0.064),
)
# Power falls with frequency f as f ** -SLOPE; mean over the photographs by size of the cut-out in pixels.
SLOPE = {32: 1.0, 64: 1.4, 224: 1.8}


class Frost(Corruption):
    """Image times `image` plus a frost texture times `procedural_texture`.

    **Not the authors' frost.** They blend photographs of frosted panes, which this package does not contain. Here a
    texture is drawn: one of five mean colours, and a fractal with ridges, of the brightness, contrast and spectrum
    that the photographs have. It has no crystals. Accuracies under this frost cannot be compared with published ones.
    """

    name: ClassVar[str] = "frost"
    label: ClassVar[str] = "Frost (procedural)"
    group: ClassVar[Group] = "weather"
    fields: ClassVar[tuple[str, ...]] = ("image", "procedural_texture")
    table: ClassVar[Table] = {
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Freeze; see :meth:`Corruption.corrupt`."""
        height, width = images.shape[-2:]
        slope = SLOPE[self.table_size(min(height, width))]
        frost = drawn(generators, lambda g: frost_texture(height, width, slope, g)).to(images)
        return parameters["image"] * images + parameters["procedural_texture"] * frost


def frost_texture(height: int, width: int, slope: float, generator: torch.Generator) -> Tensor:
    """Frost of shape (3, height, width), pixels in [0, 1]."""
    pane = PANES[int(torch.randint(len(PANES), (), generator=generator))]
    level = pane.between * torch.randn((), generator=generator)
    clouds = fractal(height, width, slope, generator)
    ridges = -fractal(height, width, slope, generator).abs()
    field = standardized(clouds + standardized(ridges))
    colour = torch.tensor(pane.colour)[:, None, None]
    return (colour + level + pane.within * field).clamp(0, 1)


def fractal(height: int, width: int, slope: float, generator: torch.Generator) -> Tensor:
    """Normal field of mean 0 and standard deviation 1 whose power falls as frequency ** -slope."""
    noise = torch.fft.rfft2(torch.randn((height, width), generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    frequency[0, 0] = torch.inf
    return standardized(torch.fft.irfft2(noise * frequency ** (-slope / 2), s=(height, width)))


def standardized(field: Tensor) -> Tensor:
    """Field of mean 0 and standard deviation 1; zero where it is constant."""
    centred = field - field.mean()
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)
