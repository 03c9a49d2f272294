"""Frosted glass: pixels taken from nearby."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn
from auditor.perturbations.filters import gaussian_blur


class GlassBlur(Corruption):
    """Blur by a Gaussian of `sigma`, move pixels by up to `reach`, `rounds` times over, and blur again.

    The original goes through the pixels one by one, from the last to the first, and means to swap each with a
    neighbour. NumPy's views make that a copy: the neighbour keeps its colour. The published sets were made so, and so
    is this.
    """

    name: ClassVar[str] = "glass_blur"
    label: ClassVar[str] = "Glass blur"
    group: ClassVar[Group] = "blur"
    fields: ClassVar[tuple[str, ...]] = ("sigma", "reach", "rounds")
    table: ClassVar[Table] = {
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Blur, move, blur; see :meth:`Corruption.corrupt`."""
        height, width = images.shape[-2:]
        reach = int(parameters["reach"])
        blurred = gaussian_blur(images, parameters["sigma"])
        # Cut to 8 bits as in the original; the small number keeps a whole level from falling to the one below.
        flat = (torch.floor(blurred * 255 + 1e-3) / 255).flatten(2)
        for _ in range(int(parameters["rounds"])):
            moves = drawn(generators, lambda g: torch.randint(-reach, reach, (2, height, width), generator=g))
            places = copied_from(moves.to(images.device), reach)
            flat = flat.gather(2, places[:, None].expand(-1, 3, -1))
        return gaussian_blur(flat.view_as(images), parameters["sigma"])


def copied_from(moves: Tensor, reach: int) -> Tensor:
    """Where each pixel's colour comes from after all copies were made one by one.

    The pixels are visited from the last row and column to the first, but for a margin. Each becomes what its neighbour
    is at that moment: the neighbour's own colour, or, if that was visited before, what the neighbour became. Following
    these links twice as far in every step gives all of them at once.

    Parameters
    ----------
    moves : Tensor of int64
        Shape (B, 2, H, W): how far right and how far down each pixel's neighbour is, from -reach to reach - 1.
    reach : int
        Width of the margin.

    Returns
    -------
    Tensor of int64
        Shape (B, H * W): places in the flat image.
    """
    batch, _, height, width = moves.shape
    device = moves.device
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    visited = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    own = rows * width + columns
    right, down = moves.unbind(1)
    source = torch.where(visited, own + down * width + right, own).view(batch, -1)
    visited, own = visited.expand(batch, -1, -1).reshape(batch, -1), own.view(-1)
    linked = visited & (source > own) & visited.gather(1, source)
    while bool(linked.any()):
        source, linked = (
            torch.where(linked, source.gather(1, source), source),
            linked & linked.gather(1, source),
        )
    return source
