"""Falling snow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn, uniform
from auditor.perturbations.filters import separable
from auditor_corruptions.motion import motion_blur
from auditor_corruptions.zoom import zoom_matrix


class Snow(Corruption):
    """Flakes drawn as normal noise, enlarged, cut and blurred along their fall, over an image whitened to match.

    Noise of mean `mean` and standard deviation `spread` is enlarged `zoom` times; what lies below `threshold` is
    no flake. `kept` is the share of the image that is not whitened. The flakes are added twice, once turned by half a
    circle.
    """

    name: ClassVar[str] = "snow"
    label: ClassVar[str] = "Snow"
    group: ClassVar[Group] = "weather"
    fields: ClassVar[tuple[str, ...]] = ("mean", "spread", "zoom", "threshold", "radius", "sigma", "kept")
    table: ClassVar[Table] = {
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Let it snow; see :meth:`Corruption.corrupt`."""
        shape = images.shape[-2:]
        noise = drawn(generators, lambda g: torch.randn(shape, generator=g, dtype=torch.float64))
        flakes = snow_layer(noise, parameters, uniform(generators, -135.0, -45.0)).to(images)
        whitened = torch.maximum(images, luma(images) * 1.5 + 0.5)
        kept = parameters["kept"]
        return kept * images + (1 - kept) * whitened + flakes + flakes.flip(2, 3)


def luma(images: Tensor) -> Tensor:
    """Brightness as of ITU-R BT.601, shape (B, 1, H, W)."""
    weights = torch.tensor([0.299, 0.587, 0.114]).to(images)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def snow_layer(noise: Tensor, parameters: dict[str, float], angles: Tensor) -> Tensor:
    """Flakes of shape (B, 1, H, W), multiples of 1/255, from standard normal noise of shape (B, H, W)."""
    height, width = noise.shape[-2:]
    zoom = parameters["zoom"]
    layer = parameters["mean"] + parameters["spread"] * noise
    layer = separable(layer, zoom_matrix(height, zoom), zoom_matrix(width, zoom))
    layer = torch.where(layer < parameters["threshold"], 0.0, layer)
    layer = torch.floor(layer.clamp(0, 1) * 255)[:, None]
    return motion_blur(layer, parameters["radius"], parameters["sigma"], angles).round() / 255
