"""Where in the image a unit's activations lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from auditor.units import Site

# Class, distillation and register tokens stand before the patches; more of them are no such tokens.
_MOST_PREFIX = 16


@dataclass(frozen=True)
class Layout:
    """How the positions of a site's output lie on the image.

    Attributes
    ----------
    grid : tuple of int, or None
        Height and width of the map; None where positions do not lie on the image.
    prefix : int
        Tokens before the first patch.
    note : str
    """

    grid: tuple[int, int] | None
    prefix: int
    note: str


def lay_out(site: Site, size: tuple[int, int], module: nn.Module) -> Layout:
    """Tell how a site's positions lie on an image.

    A map of two axes is taken as it is if its sides are in the image's ratio. Tokens are patches row by row: in the
    grid of the model's patch embedding, or that halved, if it has one, else in a grid of the image's ratio. What is
    left over comes first (class and register tokens) and is no part of the map.

    Parameters
    ----------
    site : Site
    size : tuple of int
        Height and width of the image.
    module : torch.nn.Module
    """
    rest = list(site.shape)
    del rest[site.unit_axis % (len(rest) + 1) - 1]
    if math.prod(rest) == 1:
        return Layout(None, 0, "No region: the layer has one number per unit and image.")
    shape = " x ".join(map(str, rest))
    if len(rest) == 2 and _covers(rest[0], rest[1], size):
        return Layout((rest[0], rest[1]), 0, f"Region: the unit's {shape} map, up-sampled bilinearly.")
    if len(rest) == 1:
        (tokens,) = rest
        for grid in _token_grids(tokens, size, module):
            prefix = tokens - math.prod(grid)
            note = f"Region: {math.prod(grid)} tokens as {grid[0]} x {grid[1]} patches, up-sampled bilinearly."
            if prefix:
                first = "the first token" if prefix == 1 else f"the first {prefix} tokens"
                note += f" It leaves out {first}, of no place in the image, which the response counts."
            return Layout(grid, prefix, note)
    return Layout(None, 0, f"No region: the layer's {shape} positions are no grid over the image.")


def _covers(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether one stride explains both sides of a map, which padding may make one longer or shorter."""
    spans = [(full / (side + 1), full / max(side - 1, 1e-9)) for side, full in zip((height, width), size, strict=True)]
    return max(low for low, _ in spans) <= min(high for _, high in spans)


def _token_grids(tokens: int, size: tuple[int, int], module: nn.Module) -> list[tuple[int, int]]:
    """Grids of patches that explain a number of tokens, the likeliest first."""
    known = [
        (int(grid[0]), int(grid[1]))
        for child in module.modules()
        if isinstance(grid := getattr(child, "grid_size", None), tuple | list)
        and len(grid) == 2
        and hasattr(child, "num_patches")
    ]
    if len(set(known)) == 1:
        found = [known[0]] if 0 <= tokens - math.prod(known[0]) <= _MOST_PREFIX else []
        # Hierarchical models merge patches two by two.
        halves = [(known[0][0] >> times, known[0][1] >> times) for times in (1, 2, 3, 4)]
        return found + [grid for grid in halves if math.prod(grid) == tokens > 1]
    divisor = math.gcd(*size)
    unit = (size[0] // divisor, size[1] // divisor)
    grids = []
    for prefix in (0, 1, 2):
        times = math.isqrt(max(tokens - prefix, 0) // math.prod(unit))
        if times * times * math.prod(unit) == tokens - prefix and times * min(unit) >= 2:
            grids.append((times * unit[0], times * unit[1]))
    return grids


def project(values: Tensor, layout: Layout, size: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Up-sample a unit's activations at all positions to the image's height and width."""
    if layout.grid is None:
        return None
    grid = values.flatten()[layout.prefix :].reshape(1, 1, *layout.grid)
    found: NDArray[np.float32] = interpolate(grid, size=size[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    return found
