"""What a user says about the preprocessing, where the model's own is wrong, unknown or not wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from auditor.errors import OptionError, unknown_name
from auditor.models.preprocessing import Preprocessing

INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")


@dataclass(frozen=True)
class Overrides:
    """Changes to a model's evaluation transform; None keeps what the model says.

    Parameters
    ----------
    input_size : int or sequence of int, optional
        Side of a square input; or height and width; or channels, height and width.
    crop_pct : float, optional
        Side of the crop as a share of the resized picture's, as timm has it: 0.875 resizes to 256 for a crop of 224,
        1 crops nothing off. Default: the model's own share, also at another input size.
    interpolation : str, optional
        One of :data:`INTERPOLATIONS`.
    mean, std : float or sequence of float, optional
        For pixels in [0, 1]: one number for all channels, or one for each.

    Raises
    ------
    OptionError, UnknownNameError
        If a value cannot be meant.
    """

    input_size: int | Sequence[int] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.input_size is not None:
            _check_size(_numbers(self.input_size))
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise OptionError(
                "The crop is a share of the resized picture.",
                wanted="a number above 0, at most 1",
                got=f"{self.crop_pct:g}",
                fix=f"--crop-pct {self.crop_pct / 100:g}" if 1 < self.crop_pct <= 100 else "--crop-pct 0.875",
            )
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS)
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                _check_channels(name, _numbers(getattr(self, name)))

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def image_size(self) -> tuple[int, int] | None:
        """Return height and width, if a size is asked for."""
        if self.input_size is None:
            return None
        sides = [int(side) for side in _numbers(self.input_size)]
        return sides[-1] if len(sides) == 1 else sides[-2], sides[-1]

    def apply(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return `preprocessing` with the changes.

        Raises
        ------
        OptionError
            If the means or deviations are neither one nor as many as the channels.
        """
        size = preprocessing.input_size
        if (sides := self.image_size()) is not None:
            given = _numbers(self.input_size)
            size = (int(given[0]) if len(given) == 3 else size[0], *sides)
        return replace(
            preprocessing,
            input_size=size,
            resize=self._resize(preprocessing, size[1:]),
            interpolation=self.interpolation or preprocessing.interpolation,
            mean=_by_channel("mean", self.mean, preprocessing.mean, size[0]),
            std=_by_channel("std", self.std, preprocessing.std, size[0]),
        )

    def _resize(self, old: Preprocessing, sides: tuple[int, int]) -> tuple[int, ...]:
        if self.crop_pct is not None:
            # timm's own rounding, so that the same words mean the same pixels.
            scaled = [math.floor(side / self.crop_pct) for side in sides]
        elif self.input_size is not None:
            before = old.input_size[1:]
            shares = [old.resize[-1] / min(before)] * 2
            if len(old.resize) == 2:
                shares = [resized / side for resized, side in zip(old.resize, before, strict=True)]
            scaled = [round(side * share) for side, share in zip(sides, shares, strict=True)]
        else:
            return old.resize
        return tuple(scaled[:1] if old.crop_mode == "center" and scaled[0] == scaled[1] else scaled)


def _check_size(sides: tuple[float, ...]) -> None:
    if not 1 <= len(sides) <= 3 or any(side < 1 or side != math.floor(side) for side in sides):
        raise OptionError(
            "The input size cannot be used.",
            wanted="SIZE, or HEIGHT,WIDTH, or CHANNELS,HEIGHT,WIDTH, in pixels",
            got=_shown(sides),
            fix="--input-size 224",
        )


def _check_channels(name: str, numbers: tuple[float, ...]) -> None:
    if numbers and all(0 <= number <= 1 for number in numbers) and (name == "mean" or min(numbers) > 0):
        return
    in_pixels = bool(numbers) and all(1 < number <= 255 for number in numbers)
    raise OptionError(
        f"The {name} is that of pixels in [0, 1].",
        wanted="numbers from 0 to 1" if name == "mean" else "numbers above 0, at most 1",
        got=_shown(numbers),
        fix=f"--{name} {','.join(f'{number:g}/255' for number in numbers)}" if in_pixels else None,
    )


def _by_channel(name: str, given: Any, old: tuple[float, ...], channels: int) -> tuple[float, ...]:
    numbers = old if given is None else _numbers(given)
    if len(set(numbers)) == 1 and (given is None or len(numbers) == 1):
        return numbers[:1] * channels
    if len(numbers) != channels:
        raise OptionError(
            f"The {name} does not fit the model's input.",
            wanted="one number" + (f", or {channels}, one for each channel" if channels > 1 else ""),
            got=_shown(numbers),
            fix=f"Give --{name} for {channels} channels.",
        )
    return numbers


def _numbers(value: Any) -> tuple[float, ...]:
    """One number or several, from whatever holds them."""
    return tuple(float(number) for number in np.ravel(value))


def _shown(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "nothing"
