"""Maximize the class selectivity of rotated responses over orthogonal matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor, nn
from torch.nn.utils import parametrizations

FloatArray = NDArray[np.float64]

# Iterations between two looks at the selection images.
STEP = 20
# Of the responses' root mean square, added to the index's denominator in a climb: without it the climb runs to
# directions that fire on a handful of fit images, perfectly selective there and nowhere else.
FLOOR = 0.01
# Random rotations, of which the most selective is climbed from.
DRAWS = 10
# A smaller gain than this in as many iterations ends a climb.
ENOUGH = 1e-4


class _Rotation(nn.Module):
    weight: Tensor

    def __init__(self, start: FloatArray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(np.ascontiguousarray(start), dtype=torch.float32))
        # Around the start (trivialization), so reflections among the starts stay what they are.
        parametrizations.orthogonal(self, "weight", orthogonal_map="cayley")


def selectivity(responses: Tensor, averaging: Tensor, floor: float = 0.0) -> Tensor:
    """Class selectivity index of rectified responses, differentiable.

    Parameters
    ----------
    responses : Tensor, shape (N, K)
    averaging : Tensor, shape (C, N)
        Takes class means; every class has images.
    floor : float
        Added to the denominator.

    Returns
    -------
    Tensor
        Shape (K,). Columns that are never positive count as 0.
    """
    means = averaging @ torch.relu(responses)
    top = means.amax(0)
    rest = (means.sum(0) - top) / (len(means) - 1)
    total = top + rest
    silent = total <= 0
    return torch.where(silent, 0.0, (top - rest) / (torch.where(silent, 1.0, total) + floor))


def climb(
    points: FloatArray,
    labels: NDArray[np.int64],
    start: FloatArray,
    judge: Callable[[FloatArray], float],
    *,
    max_iterations: int,
) -> tuple[FloatArray, float, float]:
    """Follow the selectivity uphill from one start.

    Parameters
    ----------
    points : ndarray, shape (N, K)
        Fit images.
    labels : ndarray of int, shape (N,)
        From 0; each class has images.
    start : ndarray, shape (K, K)
        Orthogonal.
    judge : callable
        Selectivity of a rotation on other images. The best rotation by it is kept, the start included, so a climb that
        only learns the noise of the fit images is stopped early.
    max_iterations : int
        Of L-BFGS with a strong Wolfe line search, on the Cayley parametrization of the orthogonal group, begun anew
        every :data:`STEP` iterations.

    Returns
    -------
    rotation : ndarray of float64, shape (K, K)
    fitted : float
        Its selectivity on the fit images, where a maximum was taken, with :data:`FLOOR`.
    judged : float
    """
    values, weights = _tensors(points, labels)
    floor = FLOOR * float(values.square().mean().sqrt())
    model = _Rotation(start)

    def ascend(iterations: int) -> None:
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            result = -selectivity(values @ model.weight, weights, floor).mean()
            result.backward()
            return result

        optimizer.step(loss)

    def now() -> tuple[FloatArray, float, float]:
        """Turn round the directions that are more selective the other way: a silent one has no gradient."""
        with torch.no_grad():
            responses = values @ model.weight
            ahead, behind = selectivity(responses, weights, floor), selectivity(-responses, weights, floor)
            if (behind > ahead).any():
                model.weight = torch.where(behind > ahead, -model.weight, model.weight)
            rotation = model.weight.double().numpy().copy()
            return rotation, float(torch.maximum(ahead, behind).mean()), judge(rotation)

    best = found = now()
    for done in range(0, max_iterations, STEP):
        before = found[1]
        ascend(min(STEP, max_iterations - done))
        found = now()
        if found[2] > best[2]:
            best = found
        if found[1] - before < ENOUGH:
            break
    return best


def starting_points(
    points: FloatArray, labels: NDArray[np.int64], basis: FloatArray, n: int, rng: np.random.Generator
) -> dict[str, FloatArray]:
    """Rotations to climb from.

    Parameters
    ----------
    points : ndarray, shape (N, K)
        Fit images, in the coordinates of `basis`.
    labels : ndarray of int, shape (N,)
        From 0; each class has images.
    basis : ndarray, shape (U, K)
        Orthonormal columns; the units' axes in these coordinates are its rows.
    n : int
        How many, in the order below.
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to ndarray, shape (K, K)
        ``axes``: the units' own axes (of the K units most inside the basis where K < U). ``class_means``: the
        orthonormal frame nearest to the class means, completed at right angles to them. ``pca``: principal axes.
        ``random_1``, ...: the most selective of ten uniform ones.
    """
    k = points.shape[1]
    starts: dict[str, FloatArray] = {}
    makers: dict[str, Callable[[], FloatArray]] = {
        "axes": lambda: _nearest(basis[np.sort(np.argsort(-np.sum(basis**2, axis=1), kind="stable")[:k])].T),
        "class_means": lambda: _completed(np.stack([points[labels == c].mean(axis=0) for c in np.unique(labels)])[:k]),
        "pca": lambda: linalg.eigh(np.cov(points, rowvar=False).reshape(k, k))[1][:, ::-1],
    }
    for i in range(n):
        name = list(makers)[i] if i < len(makers) else f"random_{i - len(makers) + 1}"
        starts[name] = makers[name]() if name in makers else _best_random(points, labels, rng)
    return starts


def random_rotation(k: int, rng: np.random.Generator) -> FloatArray:
    """Orthogonal matrix, uniform by Haar measure (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((k, k)))
    result: FloatArray = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return result


def _best_random(points: FloatArray, labels: NDArray[np.int64], rng: np.random.Generator) -> FloatArray:
    values, weights = _tensors(points, labels)
    drawn = [random_rotation(points.shape[1], rng) for _ in range(DRAWS)]
    found = [selectivity(values @ torch.tensor(q, dtype=torch.float32), weights).mean() for q in drawn]
    return drawn[int(torch.stack(found).argmax())]


def _tensors(points: FloatArray, labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Points, and the matrix (C, N) that takes class means, in single precision."""
    averaging = np.eye(int(labels.max()) + 1)[:, labels]
    averaging /= averaging.sum(axis=1, keepdims=True)
    return torch.tensor(points, dtype=torch.float32), torch.tensor(averaging, dtype=torch.float32)


def _nearest(matrix: FloatArray) -> FloatArray:
    """Orthogonal matrix nearest to a square one (its polar factor)."""
    left, _, right = linalg.svd(matrix)
    result: FloatArray = left @ right
    return result


def _completed(rows: FloatArray) -> FloatArray:
    """Orthogonal matrix whose first columns are the orthonormal frame nearest to `rows`, shape (C, K)."""
    left, _, right = linalg.svd(rows.T)
    return np.hstack([left[:, : len(rows)] @ right, left[:, len(rows) :]])
