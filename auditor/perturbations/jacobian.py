"""How strongly the logits of a network answer to its pixels, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.errors import DataError, OptionError

MOST_EXACT = 32
PROJECTIONS = 16


class JacobianNorm(NamedTuple):
    """Squared Frobenius norm of each image's Jacobian, and the standard error of its estimate; 0 where it is exact.

    Each of shape (B,).
    """

    squared: NDArray[np.float64]
    se: NDArray[np.float64]


def jacobian_norm(
    model: nn.Module, pixels: Tensor, *, seeds: Sequence[int] | None = None, projections: int | None = None
) -> JacobianNorm:
    """Squared Frobenius norm of d logits / d pixels.

    Exact, with one backward pass for each logit; or estimated without bias from random unit vectors v, as
    ``outputs * mean of |v' J|^2`` (Hoffman, Roberts & Yaida 2019, arXiv:1908.02729, equation 9).

    Parameters
    ----------
    model : nn.Module
        From pixels to logits, shape (B, outputs); images do not influence each other (evaluation mode).
    pixels : Tensor
        Shape (B, C, H, W).
    seeds : sequence of int, optional
        One per image, for the random vectors.
    projections : int, optional
        Number of random vectors per image, at least 2. Default: exact.

    Returns
    -------
    JacobianNorm

    Raises
    ------
    OptionError
        If there are fewer than 2 projections.
    DataError
        If there is not one seed for each image.
    """
    leaf = pixels.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
    directions = _directions(logits, seeds, projections)
    squares = []
    for number, vectors in enumerate(directions):
        last = number == len(directions) - 1
        (slope,) = torch.autograd.grad(logits, leaf, vectors.to(logits), retain_graph=not last)
        squares.append(slope.flatten(1).double().square().sum(dim=1).cpu().numpy())
    found = np.stack(squares)
    if projections is None:
        return JacobianNorm(found.sum(axis=0), np.zeros(len(pixels)))
    scaled = found * logits.shape[1]
    return JacobianNorm(scaled.mean(axis=0), scaled.std(axis=0, ddof=1) / np.sqrt(projections))


def _directions(logits: Tensor, seeds: Sequence[int] | None, projections: int | None) -> Tensor:
    """Vectors of logits to pull back, shape (directions, B, outputs)."""
    n_images, outputs = logits.shape
    if projections is None:
        return torch.eye(outputs)[:, None].expand(-1, n_images, -1)
    if projections < 2:
        raise OptionError("The estimate needs two projections for its standard error.", got=str(projections))
    if seeds is None or len(seeds) != n_images:
        got = "none" if seeds is None else str(len(seeds))
        raise DataError("Every image needs a seed.", wanted=str(n_images), got=got)
    drawn = [torch.randn(projections, outputs, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.nn.functional.normalize(torch.stack(drawn, dim=1), dim=2)
