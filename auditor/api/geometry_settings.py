"""Settings of the verb ``geometry``, with their defaults and limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auditor.api.settings import at_least
from auditor.errors import OptionError, unknown_name
from auditor.registry import registry

PARTS = ("dimensionality", "gradients", "rotation", "probes", "similarity")
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "brightness", "contrast", "pixelate")
"""Those of the corrupted condition by default, as far as they are installed."""
SHUFFLES, SHUFFLES_OF_SEVERAL = 19, 4

_OF_PART = {
    "dimensionality": ("n_images", "corruptions", "severity", "epsilon", "attack_steps"),
    "gradients": ("units", "gradient_images"),
    "rotation": ("n_images", "starts", "shuffles"),
    "probes": ("probe_images",),
    "similarity": ("similarity_images",),
}


@dataclass(frozen=True)
class GeometrySettings:
    """What is measured, and on how many images.

    Parameters
    ----------
    parts : tuple of str
        Of :data:`PARTS`.
    n_images : int
        Images, stratified by class: of the score split for dimensionality, of the select and of the score split for
        rotations.
    corruptions : tuple of str, optional
        Of the corrupted condition. Default: those of :data:`CORRUPTIONS` that are installed.
    severity : int
        Of the corruptions, 1 to 5.
    epsilon : float
        Largest change of a pixel in [0, 1] under attack.
    attack_steps : int
        Steps of projected gradient descent, each of ``epsilon / 4``.
    layers : tuple of str
        Patterns of site names; none for all sites.
    units : int
        Units of each layer whose input gradient is taken, drawn by the seed.
    gradient_images : int
        Images of the score split on which it is taken.
    starts : int
        Starts of the search for a rotation.
    shuffles : int, optional
        Permutations of the labels, each with its own search. Default: 19 for one network, 4 for several.
    probe_images : int
        Most images of the select split that a linear probe is fitted on, and of the score split that it is tested on.
    similarity_images : int
        Most images of the score split on which two networks are compared.
    seed : int
    """

    parts: tuple[str, ...] = PARTS
    n_images: int = 1000
    corruptions: tuple[str, ...] | None = None
    severity: int = 3
    epsilon: float = 2 / 255
    attack_steps: int = 10
    layers: tuple[str, ...] = ()
    units: int = 32
    gradient_images: int = 128
    starts: int = 4
    shuffles: int | None = None
    probe_images: int = 5000
    similarity_images: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise OptionError("There is nothing to measure.", wanted=", ".join(PARTS), fix="--parts dimensionality")
        for part in self.parts:
            if part not in PARTS:
                raise unknown_name("part", part, PARTS)
        object.__setattr__(self, "parts", tuple(part for part in PARTS if part in self.parts))
        installed = registry().corruptions()
        if self.corruptions is None:
            object.__setattr__(self, "corruptions", tuple(name for name in CORRUPTIONS if name in installed))
        for name in self.corruptions or ():
            if name not in installed:
                raise unknown_name("corruption", name, installed, fix="`auditor plugins` lists what is installed.")
        if self.severity not in range(1, 6):
            raise OptionError("There are five severities.", wanted="1, 2, 3, 4 or 5", got=str(self.severity))
        if not 0 <= self.epsilon <= 1:
            raise OptionError("epsilon is a change of pixels in [0, 1].", got=str(self.epsilon), fix="--epsilon 2/255")
        at_least("n_images", self.n_images, 10, "variances of fewer images mean nothing")
        at_least("gradient_images", self.gradient_images, 2)
        at_least("units", self.units, 2, "variability over units needs them")
        if self.shuffles is not None:
            at_least("shuffles", self.shuffles, 0)
        for name in ("attack_steps", "starts"):
            at_least(name, getattr(self, name), 1)
        for name in ("probe_images", "similarity_images"):
            at_least(name, getattr(self, name), 10)

    def of(self, part: str) -> dict[str, Any]:
        """Settings that decide the numbers of one part, for its manifest."""
        values = self.to_dict()
        return {name: values[name] for name in (*_OF_PART[part], "layers", "seed")}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
