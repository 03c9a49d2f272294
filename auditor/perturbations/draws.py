"""Random numbers from one generator per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def drawn(generators: Sequence[torch.Generator], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Stack what `draw` gives for each image's generator, shape (B, ...), on the CPU."""
    return torch.stack([draw(generator) for generator in generators])


def normal(generators: Sequence[torch.Generator], images: Tensor) -> Tensor:
    """Standard normal numbers of the shape of `images`, on its device."""
    shape = images.shape[1:]
    return drawn(generators, lambda g: torch.randn(shape, generator=g)).to(images.device)


def uniform(generators: Sequence[torch.Generator], low: float, high: float) -> Tensor:
    """One number per image between `low` and `high`, shape (B,), on the CPU."""
    return low + (high - low) * drawn(generators, lambda g: torch.rand((), generator=g))
