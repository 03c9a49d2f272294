"""Saturation of hue, saturation and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table


class Saturate(Corruption):
    """Saturation times `factor` plus `added`, clipped to [0, 1]; hue and value stay.

    Severities 1 and 2 take colour away, 3 to 5 add it. As in the original, grey pixels count as red of saturation 0, so
    that an `added` saturation turns them reddish.
    """

    name: ClassVar[str] = "saturate"
    label: ClassVar[str] = "Saturate"
    group: ClassVar[Group] = "extra"
    fields: ClassVar[tuple[str, ...]] = ("factor", "added")
    table: ClassVar[Table] = {
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Change the saturation; see :meth:`Corruption.corrupt`."""
        value = images.amax(dim=1, keepdim=True)
        spread = value - images.amin(dim=1, keepdim=True)
        saturation = spread / value.clamp(min=1e-12)
        wanted = (saturation * parameters["factor"] + parameters["added"]).clamp(0, 1)
        # At fixed hue and value a channel's distance from the value is proportional to the saturation.
        coloured = value - (value - images) * (wanted / saturation.clamp(min=1e-12))
        red = torch.tensor([1.0, 0.0, 0.0], device=images.device)[None, :, None, None]
        grey = value * (1 - wanted * (1 - red))
        return torch.where(spread > 0, coloured, grey)
