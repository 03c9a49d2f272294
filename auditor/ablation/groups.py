"""Joint ablation: many units silenced at once, at any number of sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.hooks import silence
from auditor.units import Site

Group = Mapping[str, Sequence[int] | NDArray[np.int64]]


def group_logits(
    model: nn.Module,
    images: Tensor,
    sites: Sequence[Site],
    groups: Sequence[Group],
    *,
    advance: Callable[[float], None] | None = None,
) -> Tensor:
    """Logits with each group of units silenced.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    images : Tensor
        Shape (B, C, H, W).
    sites : sequence of Site
        The model's sites.
    groups : sequence of mapping
        Each maps site names to unit indices; an empty mapping leaves the network intact.
    advance : callable, optional
        Called with 1 after each group.

    Returns
    -------
    Tensor
        Shape (len(groups), B, outputs), float32, on the CPU.
    """
    found = []
    with torch.no_grad():
        for group in groups:
            with silence(model, sites, {name: [int(u) for u in units] for name, units in group.items()}):
                found.append(model(images).float().cpu())
            if advance is not None:
                advance(1)
    return torch.stack(found)
