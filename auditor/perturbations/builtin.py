"""The built-in corruptions, registered like a plugin's."""

from __future__ import annotations

from auditor.hookspecs import hookimpl
from auditor.perturbations.base import Corruption
from auditor.perturbations.basic import Brightness, Contrast, GaussianBlur, GaussianNoise, Pixelate


@hookimpl
def auditor_corruptions() -> list[Corruption]:
    """Every corruption that comes with the package."""
    return [GaussianNoise(), GaussianBlur(), Brightness(), Contrast(), Pixelate()]
