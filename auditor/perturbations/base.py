"""What a natural corruption is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from auditor.errors import DataError, OptionError

SEVERITIES = (1, 2, 3, 4, 5)
Group: TypeAlias = Literal["noise", "blur", "weather", "digital", "extra"]
GROUPS: tuple[Group, ...] = get_args(Group)
Table: TypeAlias = Mapping[int, Sequence[float | tuple[float, ...]]]
"""Size in pixels to one entry per severity: a number, or as many as there are fields."""


class Corruption(ABC):
    """A corruption of images at five severities; a function of pixels, severity and one seed per image.

    Every random draw comes from the image's own seed, on the CPU: the result depends neither on which images meet in
    a batch nor on the device, but for the last bits of floating-point arithmetic.

    Attributes
    ----------
    name : str
        Such as ``gaussian_noise``.
    label : str
        For figures.
    group : str
        ``noise``, ``blur``, ``weather``, ``digital`` or ``extra``.
    fields : tuple of str
        Names of the parameters.
    table : mapping
        Parameters of each severity for each size for which they were published.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    group: ClassVar[Group]
    fields: ClassVar[tuple[str, ...]] = ()
    table: ClassVar[Table] = {}

    def table_size(self, size: int) -> int:
        """Return the size whose parameters apply to images of `size` pixels: the nearest by ratio.

        Nothing is scaled: images of 96 pixels are corrupted by the parameters for 64 as they stand.
        """
        return min(self.table, key=lambda known: (abs(math.log(known / max(size, 1))), known))

    def parameters(self, severity: int, size: int) -> dict[str, float]:
        """Parameters at `severity` for images whose shorter side is `size` pixels."""
        if not self.table:
            return {}
        row = self.table[self.table_size(size)][severity - 1]
        return dict(zip(self.fields, row if isinstance(row, tuple) else (row,), strict=True))

    @abstractmethod
    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Corrupt a batch, shape (B, 3, H, W), float32 pixels in [0, 1]; one CPU generator per image.

        The result may leave [0, 1]: it is clipped afterwards.
        """

    def __call__(self, images: Tensor, severity: int, *, seeds: Sequence[int]) -> Tensor:
        """Corrupt images, without a gradient and in single precision.

        Parameters
        ----------
        images : Tensor
            Shape (B, 3, H, W), float, pixels in [0, 1].
        severity : int
            1 to 5.
        seeds : sequence of int
            One per image; see :func:`auditor.perturbations.seeds.corruption_seeds`.

        Returns
        -------
        Tensor
            Shape, type and device of `images`, clipped to [0, 1].

        Raises
        ------
        OptionError
            If the severity is not one of the five.
        DataError
            If these are no such images, or the seeds do not fit.
        """
        if severity not in SEVERITIES:
            raise OptionError("There are five severities.", wanted="1, 2, 3, 4 or 5", got=str(severity))
        images = images.detach()
        self._check(images)
        if len(seeds) != len(images):
            raise DataError("Every image needs a seed.", wanted=f"{len(images)}", got=f"{len(seeds)}")
        if not len(images):
            return images.clone()
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        parameters = self.parameters(severity, min(images.shape[-2:]))
        with torch.no_grad():
            corrupted = self.corrupt(images.float(), parameters, generators)
            return corrupted.clamp(0, 1).to(images)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or 0 in images.shape[2:]:
            raise DataError(
                f"The corruption {self.name} cannot be applied.",
                wanted="a float tensor of shape (B, 3, H, W) with pixels in [0, 1]",
                got=f"{images.dtype} of shape {tuple(images.shape)}",
            )
        if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):
            raise DataError(
                f"The corruption {self.name} cannot be applied.", wanted="pixels in [0, 1]",
                got=f"{float(images.min()):.3g} to {float(images.max()):.3g}",
                fix="Corrupt before the model's normalisation.",
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
