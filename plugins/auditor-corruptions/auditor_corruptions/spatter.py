"""Drops of water or mud on the lens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn
from auditor_corruptions.water import glints

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)


class Spatter(Corruption):
    """Normal noise of mean `mean` and deviation `spread`, blurred by `sigma`: drops where it exceeds `threshold`.

    Severities 1 to 3 are water (`mud` 0), added `amount` times at most and brightest where light would break; 4 and
    5 are mud (`mud` 1), whose patches are blurred by `amount` pixels.
    """

    name: ClassVar[str] = "spatter"
    label: ClassVar[str] = "Spatter"
    group: ClassVar[Group] = "extra"
    fields: ClassVar[tuple[str, ...]] = ("mean", "spread", "sigma", "threshold", "amount", "mud")
    table: ClassVar[Table] = {
        32: (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        64: (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        224: (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Spatter; see :meth:`Corruption.corrupt`."""
        shape = images.shape[-2:]
        noise = drawn(generators, lambda g: torch.randn(shape, generator=g, dtype=torch.float64)).numpy()
        liquid = liquid_layer(noise, parameters)
        amount = parameters["amount"]
        if not parameters["mud"]:
            # Depths above 1, which are rare, wrap around in the original's 8 bits, and here.
            depth = (liquid * 255).astype(np.int64).astype(np.uint8)
            mask = torch.from_numpy(amount * glints(depth)).to(images)
            return images + mask[:, None] * torch.tensor(WATER).to(images)[:, None, None]
        covered = gaussian_filter(
            (liquid > parameters["threshold"]).astype(np.float64), (0, amount, amount), mode="nearest"
        )
        covered[covered < 0.8] = 0
        mask = torch.from_numpy(covered).to(images)[:, None]
        return images * (1 - mask) + mask * torch.tensor(MUD).to(images)[:, None, None]


def liquid_layer(noise: NDArray[np.float64], parameters: dict[str, float]) -> NDArray[np.float64]:
    """Depth of the liquid, 0 below the threshold, from standard normal noise; both of shape (B, H, W)."""
    sigma = parameters["sigma"]
    layer = parameters["mean"] + parameters["spread"] * noise
    layer = gaussian_filter(layer, (0, sigma, sigma), mode="nearest")
    layer[layer < parameters["threshold"]] = 0
    return layer
