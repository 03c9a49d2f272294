"""Fourteen natural corruptions for auditor, after Hendrycks & Dietterich (2019).

With the five that come with `auditor` they are the 15 standard types (noise, blur, weather, digital) and the 4 extra
ones (speckle noise, Gaussian blur, spatter, saturate). Parameters are those of the authors' code
(github.com/hendrycks/robustness, ImageNet-C/create_c): ``make_cifar_c.py`` for 32 pixels, ``make_tinyimagenet_c.py``
for 64 and ``make_imagenet_c.py`` for 224.
"""

from __future__ import annotations

from auditor.hookspecs import hookimpl
from auditor.perturbations.base import Corruption
from auditor_corruptions.colour import Saturate
from auditor_corruptions.elastic import ElasticTransform
from auditor_corruptions.focus import DefocusBlur
from auditor_corruptions.fog import Fog
from auditor_corruptions.frost import Frost
from auditor_corruptions.glass import GlassBlur
from auditor_corruptions.jpeg import JpegCompression
from auditor_corruptions.motion import MotionBlur
from auditor_corruptions.noise import ImpulseNoise, ShotNoise, SpeckleNoise
from auditor_corruptions.snow import Snow
from auditor_corruptions.spatter import Spatter
from auditor_corruptions.zoom import ZoomBlur

__all__ = [
    "DefocusBlur",
    "ElasticTransform",
    "Fog",
    "Frost",
    "GlassBlur",
    "ImpulseNoise",
    "JpegCompression",
    "MotionBlur",
    "Saturate",
    "ShotNoise",
    "Snow",
    "Spatter",
    "SpeckleNoise",
    "ZoomBlur",
    "auditor_corruptions",
]


@hookimpl
def auditor_corruptions() -> list[Corruption]:
    """Return the corruptions of this plugin."""
    return [
        ShotNoise(),
        ImpulseNoise(),
        SpeckleNoise(),
        DefocusBlur(),
        GlassBlur(),
        MotionBlur(),
        ZoomBlur(),
        Snow(),
        Frost(),
        Fog(),
        ElasticTransform(),
        JpegCompression(),
        Spatter(),
        Saturate(),
    ]
