"""Noise that depends on the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import drawn, normal


class ShotNoise(Corruption):
    """Each value a Poisson count of mean `photons` times the value, divided by `photons`."""

    name: ClassVar[str] = "shot_noise"
    label: ClassVar[str] = "Shot noise"
    group: ClassVar[Group] = "noise"
    fields: ClassVar[tuple[str, ...]] = ("photons",)
    table: ClassVar[Table] = {
        32: (500, 250, 100, 75, 50),
        64: (250, 100, 50, 30, 15),
        224: (60, 25, 12, 5, 3),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Count photons; see :meth:`Corruption.corrupt`."""
        photons = parameters["photons"]
        rates = (images * photons).cpu()
        counts = torch.stack([torch.poisson(rate, generator=g) for rate, g in zip(rates, generators, strict=True)])
        return counts.to(images.device) / photons


class ImpulseNoise(Corruption):
    """Each value, with probability `amount`, set to 0 or 1 (salt and pepper, on every channel by itself)."""

    name: ClassVar[str] = "impulse_noise"
    label: ClassVar[str] = "Impulse noise"
    group: ClassVar[Group] = "noise"
    fields: ClassVar[tuple[str, ...]] = ("amount",)
    table: ClassVar[Table] = {
        32: (0.01, 0.02, 0.03, 0.05, 0.07),
        64: (0.01, 0.02, 0.05, 0.08, 0.14),
        224: (0.03, 0.06, 0.09, 0.17, 0.27),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Throw salt and pepper; see :meth:`Corruption.corrupt`."""
        shape = images.shape[1:]
        chance = drawn(generators, lambda g: torch.rand(shape, generator=g)).to(images.device)
        amount = parameters["amount"]
        # One number decides both: the lower half of the amount is pepper, the upper half salt.
        return torch.where(chance < amount, (chance >= amount / 2).float(), images)


class SpeckleNoise(Corruption):
    """Normal noise of standard deviation `sigma` times the value."""

    name: ClassVar[str] = "speckle_noise"
    label: ClassVar[str] = "Speckle noise"
    group: ClassVar[Group] = "extra"
    fields: ClassVar[tuple[str, ...]] = ("sigma",)
    table: ClassVar[Table] = {
        32: (0.06, 0.1, 0.12, 0.16, 0.2),
        64: (0.15, 0.2, 0.25, 0.3, 0.35),
        224: (0.15, 0.2, 0.35, 0.45, 0.6),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Multiply noise; see :meth:`Corruption.corrupt`."""
        return images + images * (parameters["sigma"] * normal(generators, images))
