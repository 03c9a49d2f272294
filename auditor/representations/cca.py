"""Canonical correlations of two layers' responses to the same images: CCA, SVCCA, PWCCA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from auditor.errors import DataError, OptionError
from auditor.representations.dimensionality import checked_responses

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subspace:
    """Singular value decomposition of a layer's centred responses, ``X - mean = left * values @ right``.

    All comparisons of layers need it, and nothing else; compute it once for each layer that is compared often.

    Attributes
    ----------
    left : ndarray of float64, shape (N, R)
    values : ndarray of float64, shape (R,)
        Positive, descending. R is the numerical rank: what rounding of the responses could have made is left out, so
        dead units and copies of others do no harm.
    right : ndarray of float64, shape (R, U)
    """

    left: FloatArray
    values: FloatArray
    right: FloatArray

    @property
    def n(self) -> int:
        """Images."""
        return len(self.left)

    @property
    def rank(self) -> int:
        """Dimensions in which the responses vary."""
        return len(self.values)

    def leading(self, share: float) -> Subspace:
        """Fewest components that hold `share` of the variance.

        Raises
        ------
        OptionError
            If `share` is not in (0, 1].
        """
        if not 0 < share <= 1:
            raise OptionError("A share of variance lies in (0, 1].", wanted="a number such as 0.99", got=repr(share))
        squares = np.cumsum(self.values**2)
        kept = self.rank and min(int(np.searchsorted(squares, share * squares[-1] * (1 - 1e-12))) + 1, self.rank)
        return Subspace(self.left[:, :kept], self.values[:kept], self.right[:kept])


Layer = Subspace | ArrayLike


def subspace(responses: ArrayLike) -> Subspace:
    """Decompose a layer's responses for :func:`cca` and its kin.

    Parameters
    ----------
    responses : array_like, shape (N, U)
        Single precision sets the numerical rank by single precision.

    Returns
    -------
    Subspace

    Raises
    ------
    DataError
        If there are fewer than 2 images or a response is not finite.
    """
    given = np.asarray(responses)
    precision = given.dtype if given.dtype in (np.float16, np.float32) else np.float64
    values = checked_responses(given)
    size = float(linalg.norm(values))
    left, singular, right = linalg.svd(values - values.mean(axis=0), full_matrices=False, check_finite=False)
    kept = singular > 10 * float(np.finfo(precision).eps) * size
    return Subspace(left[:, kept], singular[kept], right[kept])


def cca(x: Layer, y: Layer) -> FloatArray:
    """Canonical correlations, by the method of Björck & Golub (1973).

    Parameters
    ----------
    x, y : array_like, shape (N, U) and (N, V), or Subspace
        Responses to the same images in the same order; centred here.

    Returns
    -------
    ndarray of float64, shape (min(rank x, rank y),)
        Descending, in [0, 1]. All 1 for a copy under an invertible linear map.

    Raises
    ------
    DataError
        If the numbers of images differ, a layer does not vary, or there are no more images than the ranks of both
        layers together: some correlations are then 1 whatever the data are.

    Notes
    -----
    Biased upward: independent layers of ranks p and q have a mean squared correlation of ``max(p, q) / (n - 1)``.
    """
    first, second = pair(x, y)
    return _correlations(first, second)[1]


def svcca(x: Layer, y: Layer, share: float = 0.99) -> float:
    """Mean canonical correlation of the components that hold `share` of each layer's variance.

    Raises
    ------
    DataError
        As :func:`cca`, for the components kept.

    References
    ----------
    Raghu et al. (2017), "SVCCA: singular vector canonical correlation analysis for deep learning dynamics and
    interpretability".
    """
    first, second = pair(x, y)
    return float(cca(first.leading(share), second.leading(share)).mean())


def pwcca(x: Layer, y: Layer) -> float:
    """Mean canonical correlation, weighted by how much of `x` each canonical variate accounts for.

    The weight of variate ``h_i`` of `x` is ``sum_j |<h_i, x_j>|`` over the centred units of `x`. The measure is not
    symmetric: `x` is the reference.

    Raises
    ------
    DataError
        As :func:`cca`.

    References
    ----------
    Morcos, Raghu & Bengio (2018), "Insights on representational similarity in neural networks with canonical
    correlation", equation 2.
    """
    first, second = pair(x, y)
    directions, found = _correlations(first, second)
    weights = np.abs((directions.T * first.values) @ first.right).sum(axis=1)
    return float(weights @ found / weights.sum())


def pair(x: Layer, y: Layer, *, constant: bool = False) -> tuple[Subspace, Subspace]:
    """Both layers as subspaces.

    Raises
    ------
    DataError
        If the numbers of images differ or, unless `constant`, a layer does not vary.
    """
    first, second = (layer if isinstance(layer, Subspace) else subspace(layer) for layer in (x, y))
    if first.n != second.n:
        raise DataError("Layers are compared on the same images.", wanted=f"{first.n} images", got=f"{second.n} images")
    if not constant and not (first.rank and second.rank):
        raise DataError("A layer that responds alike to all images cannot be compared.", got="no variance")
    return first, second


def _correlations(first: Subspace, second: Subspace) -> tuple[FloatArray, FloatArray]:
    """Directions within the first subspace, as columns, and their correlations."""
    together = first.rank + second.rank
    if first.n - 1 <= together:
        raise DataError(
            "There are too few images for canonical correlations.",
            wanted=f"more than {together + 1} images, for {first.rank} and {second.rank} dimensions; better ten times",
            got=str(first.n),
            fix="Use more images, SVCCA with a smaller share of variance, or linear CKA.",
        )
    directions, found, _ = linalg.svd(first.left.T @ second.left, full_matrices=False, check_finite=False)
    return directions, np.clip(found, 0.0, 1.0)
