"""Random changes of training pictures: whole batches of preprocessed tensors, drawn from one generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from auditor.errors import unknown_name

Augment = Callable[[Tensor, torch.Generator], Tensor]
PRESETS = ("none", "shift", "flip-shift", "resized-crop")
_SHARE = 8
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Change:
    """A random change whose draws are made for a whole batch, so that a part of the batch can be changed alone.

    Parameters
    ----------
    widths : tuple of int
        Numbers from [0, 1) that each image needs, by draw.
    function : callable
        Gets images (B, C, H, W) and one tensor (B, width) for each draw, on the CPU; gives the changed images.
    """

    widths: tuple[int, ...]
    function: Callable[..., Tensor]

    def draw(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Draw for `n` images."""
        return [torch.rand(n, width, generator=generator) for width in self.widths]

    def apply(self, images: Tensor, drawn: Sequence[Tensor]) -> Tensor:
        """Change images by what was drawn for them."""
        return self.function(images, *drawn)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and change."""
        return self.apply(images, self.draw(len(images), generator))

    def after(self, first: Change) -> Change:
        """Make `first` and then this one change."""
        n = len(first.widths)
        return Change(
            first.widths + self.widths,
            lambda images, *drawn: self.function(first.function(images, *drawn[:n]), *drawn[n:]),
        )


def augmentation(name: str) -> Change | None:
    """Build a preset: a function of a batch (B, C, H, W) and a CPU generator; None for ``none``.

    Parameters
    ----------
    name : str
        ``shift``: moved by up to an eighth of each side, edges repeated. ``flip-shift``: mirrored half of the time,
        and so moved (4 of 32 pixels: the usual choice for CIFAR, He et al. 2016, whose edges are black).
        ``resized-crop``: a rectangle of 8 to 100 % of the area, between 3:4 and 4:3 of the picture's own shape,
        enlarged to the whole picture and mirrored half of the time (Szegedy et al. 2015).

    Raises
    ------
    UnknownNameError
        If there is no such preset.
    """
    if name == "none":
        return None
    if name == "shift":
        return shift
    if name == "flip-shift":
        return shift.after(flip)
    if name == "resized-crop":
        return resized_crop.after(flip)
    raise unknown_name("augmentation", name, PRESETS)


def _flip(images: Tensor, drawn: Tensor) -> Tensor:
    mirrored = drawn[:, 0] < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


def _shift(images: Tensor, drawn: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    reach = torch.tensor([max(1, height // _SHARE), max(1, width // _SHARE)])
    offset = ((2 * reach + 1) * drawn).long() - reach
    offset = offset.to(images.device)
    rows = (torch.arange(height, device=images.device) + offset[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + offset[:, 1:]).clamp(0, width - 1)
    moved = images.gather(2, rows[:, None, :, None].expand_as(images))
    return moved.gather(3, columns[:, None, None, :].expand_as(images))


def _resized_crop(images: Tensor, area: Tensor, aspect: Tensor, place: Tensor) -> Tensor:
    n = len(images)
    area, aspect = area[:, 0], aspect[:, 0]
    area = _AREA[0] + (_AREA[1] - _AREA[0]) * area
    low, high = (math.log(value) for value in _ASPECT)
    aspect = (low + (high - low) * aspect).exp()
    # Sides as shares of the picture's own; one that would not fit is cut to the whole side.
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1.0)
    place = (2 * place - 1) * (1 - sides)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = sides[:, 0], sides[:, 1], place
    grid = functional.affine_grid(theta.to(images.device, images.dtype), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


flip = Change((1,), _flip)
"""Mirror each image left to right with probability one half."""
shift = Change((2,), _shift)
"""Move each image by up to an eighth of its sides, edges repeated."""
resized_crop = Change((1, 1, 2), _resized_crop)
"""Enlarge a random rectangle of each image to the whole, bilinearly."""
