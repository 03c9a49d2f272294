"""The corruptions that come with the package, after Hendrycks & Dietterich (2019).

Parameters are those of the authors' code (github.com/hendrycks/robustness, ImageNet-C/create_c):
``make_cifar_c.py`` for 32 pixels, ``make_tinyimagenet_c.py`` for 64 and ``make_imagenet_c.py`` for 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.draws import normal
from auditor.perturbations.filters import gaussian_blur
from auditor.perturbations.pictures import through_pillow


class GaussianNoise(Corruption):
    """Normal noise of standard deviation `sigma` on every value."""

    name: ClassVar[str] = "gaussian_noise"
    label: ClassVar[str] = "Gaussian noise"
    group: ClassVar[Group] = "noise"
    fields: ClassVar[tuple[str, ...]] = ("sigma",)
    table: ClassVar[Table] = {
        32: (0.04, 0.06, 0.08, 0.09, 0.10),
        64: (0.04, 0.08, 0.12, 0.15, 0.18),
        224: (0.08, 0.12, 0.18, 0.26, 0.38),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Add noise; see :meth:`Corruption.corrupt`."""
        return images + parameters["sigma"] * normal(generators, images)


class GaussianBlur(Corruption):
    """Blur by a Gaussian of `sigma` pixels."""

    name: ClassVar[str] = "gaussian_blur"
    label: ClassVar[str] = "Gaussian blur"
    group: ClassVar[Group] = "extra"
    fields: ClassVar[tuple[str, ...]] = ("sigma",)
    table: ClassVar[Table] = {
        32: (0.4, 0.6, 0.7, 0.8, 1.0),
        64: (0.5, 0.75, 1.0, 1.25, 1.5),
        224: (1.0, 2.0, 3.0, 4.0, 6.0),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Blur; see :meth:`Corruption.corrupt`."""
        return gaussian_blur(images, parameters["sigma"])


class Brightness(Corruption):
    """`added` to the value of hue, saturation and value, clipped at 1."""

    name: ClassVar[str] = "brightness"
    label: ClassVar[str] = "Brightness"
    group: ClassVar[Group] = "weather"
    fields: ClassVar[tuple[str, ...]] = ("added",)
    table: ClassVar[Table] = {
        32: (0.05, 0.1, 0.15, 0.2, 0.3),
        64: (0.1, 0.2, 0.3, 0.4, 0.5),
        224: (0.1, 0.2, 0.3, 0.4, 0.5),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Brighten; see :meth:`Corruption.corrupt`."""
        value = images.amax(dim=1, keepdim=True)
        brighter = (value + parameters["added"]).clamp(max=1)
        # Hue and saturation stay where all three channels grow by one factor; black has neither and becomes grey.
        return torch.where(value > 0, images * (brighter / value.clamp(min=1e-12)), brighter)


class Contrast(Corruption):
    """Distances from each channel's mean times `factor`."""

    name: ClassVar[str] = "contrast"
    label: ClassVar[str] = "Contrast"
    group: ClassVar[Group] = "digital"
    fields: ClassVar[tuple[str, ...]] = ("factor",)
    table: ClassVar[Table] = {
        32: (0.75, 0.5, 0.4, 0.3, 0.15),
        64: (0.4, 0.3, 0.2, 0.1, 0.05),
        224: (0.4, 0.3, 0.2, 0.1, 0.05),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Flatten; see :meth:`Corruption.corrupt`."""
        mean = images.mean(dim=(2, 3), keepdim=True)
        return mean + parameters["factor"] * (images - mean)


class Pixelate(Corruption):
    """Resized to `scale` of the side by box averages, and back."""

    name: ClassVar[str] = "pixelate"
    label: ClassVar[str] = "Pixelate"
    group: ClassVar[Group] = "digital"
    fields: ClassVar[tuple[str, ...]] = ("scale",)
    table: ClassVar[Table] = {
        32: (0.95, 0.9, 0.85, 0.75, 0.65),
        64: (0.9, 0.8, 0.7, 0.6, 0.5),
        224: (0.6, 0.5, 0.4, 0.3, 0.25),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Resize twice; see :meth:`Corruption.corrupt`."""
        height, width = images.shape[-2:]
        small = (max(int(width * parameters["scale"]), 1), max(int(height * parameters["scale"]), 1))

        def twice(picture: Image.Image) -> Image.Image:
            return picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)

        return through_pillow(images, twice)
