"""Edits: what a unit's response is replaced by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from auditor.errors import OptionError


@dataclass(frozen=True)
class EditContext:
    """What an edit may use besides the responses themselves.

    Attributes
    ----------
    mean, std : Tensor, shape (U,)
        Mean and standard deviation of the units' pooled responses over the images that chose them.
    donors : Tensor or None, shape (B, U, *positions)
        Responses of the same units to another image for each image, if the edit asks for donors.
    noise : callable or None
        Draws standard normal numbers of shape (B, U, *positions), the same ones for a unit and an image whatever else
        is in the batch, if the edit asks for noise.
    """

    mean: Tensor
    std: Tensor
    donors: Tensor | None = None
    noise: Callable[[], Tensor] | None = None


class Edit(ABC):
    """One way to intervene on a unit.

    Subclasses are frozen dataclasses whose fields are the edit's parameters; ``repr`` is what the manifest records.

    Attributes
    ----------
    name : str
        As ``--edit`` takes it.
    donors : str
        ``any`` or ``class`` if every image needs another one (of any class, or of its own), else empty.
    noisy : bool
        Whether noise is needed.
    """

    name: ClassVar[str]
    donors: ClassVar[str] = ""
    noisy: ClassVar[bool] = False

    @abstractmethod
    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        """Return what takes the place of responses.

        Parameters
        ----------
        maps : Tensor, shape (B, U, *positions)
            Responses of U units to B images; not to be changed.
        context : EditContext

        Returns
        -------
        Tensor
            Of the same shape.
        """

    def with_value(self, text: str) -> Edit:
        """Return this edit with its parameter read from ``NAME=VALUE``.

        Raises
        ------
        OptionError
            If the edit takes none, or it is no number.
        """
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        if not names:
            raise OptionError(f"The edit {self.name!r} takes no value.", got=repr(text), fix=f"--edit {self.name}")
        try:
            value = float(text)
            if not abs(value) < float("inf"):
                raise ValueError(text)
        except ValueError:
            raise OptionError(
                f"The value of the edit {self.name!r} is no number.", wanted=f"{self.name}=NUMBER", got=repr(text)
            ) from None
        return replace(self, **{names[0]: value})  # type: ignore[type-var]


def _column(values: Tensor, maps: Tensor) -> Tensor:
    """Shape (U,) to (1, U, 1, ...), in the type of `maps`."""
    return values.to(maps).view(1, -1, *[1] * (maps.ndim - 2))


@dataclass(frozen=True)
class Zero(Edit):
    """Silence the unit: zero at every position."""

    name: ClassVar[str] = "zero"

    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(maps)


@dataclass(frozen=True)
class Mean(Edit):
    """Hold the unit at its mean response over the images that chose it, at every position (Morcos et al. 2018)."""

    name: ClassVar[str] = "mean"

    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        """Return each unit's mean."""
        return _column(context.mean, maps).expand_as(maps)


@dataclass(frozen=True)
class Resample(Edit):
    """Replace the unit's map by the one it has for another image, drawn once and for all by the seed."""

    name: ClassVar[str] = "resample"
    donors: ClassVar[str] = "any"

    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        """Return the donors' responses."""
        assert context.donors is not None
        return context.donors


@dataclass(frozen=True)
class ResampleClass(Resample):
    """Replace the unit's map by the one it has for another image of the same class.

    What the unit says about the class stays, what it says about the image goes.
    """

    name: ClassVar[str] = "resample-class"
    donors: ClassVar[str] = "class"


@dataclass(frozen=True)
class Noise(Edit):
    """Add Gaussian noise at every position.

    Parameters
    ----------
    scale : float
        Its standard deviation, in standard deviations of the unit's pooled response over images.
    """

    name: ClassVar[str] = "noise"
    noisy: ClassVar[bool] = True
    scale: float = 1.0

    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        """Return the responses with noise."""
        assert context.noise is not None
        return maps + self.scale * _column(context.std, maps) * context.noise().to(maps)


@dataclass(frozen=True)
class Clamp(Edit):
    """Hold the unit at one value, at every position.

    Parameters
    ----------
    value : float
        In the response's own units.
    """

    name: ClassVar[str] = "clamp"
    value: float = 0.0

    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        """Return the value."""
        return torch.full_like(maps, self.value)
