"""Linear centred kernel alignment of two layers' responses to the same images."""

from __future__ import annotations

import numpy as np

from auditor.errors import DataError
from auditor.representations.cca import Layer, Subspace, pair


def linear_cka(x: Layer, y: Layer, *, debiased: bool = False) -> float:
    """Linear CKA, ``|X'Y|^2 / (|X'X| |Y'Y|)`` in Frobenius norms of centred responses.

    Parameters
    ----------
    x, y : array_like, shape (N, U) and (N, V), or Subspace
        Responses to the same images in the same order; centred here.
    debiased : bool
        Estimate each norm without bias (Song et al. 2012, equation 5). The plain measure tends to 1 as units outnumber
        images; this one averages about 0 for independent layers whatever their width, and may be negative.

    Returns
    -------
    float
        1 for a copy that was rotated, reflected, shifted or scaled as a whole. NaN where the debiased norm of a layer
        is not positive.

    Raises
    ------
    DataError
        If the numbers of images differ, a layer does not vary, or there are fewer than 4 images to debias with.

    References
    ----------
    Kornblith et al. (2019), "Similarity of neural network representations revisited"; Song et al. (2012), "Feature
    selection via dependence maximization"; Nguyen, Raghu & Kornblith (2021), "Do wide and deep networks learn the same
    things?", for the debiased form.
    """
    first, second = pair(x, y)
    if not debiased:
        # Of unit size, squares of singular values neither overflow nor vanish.
        a, b = first.values / first.values[0], second.values / second.values[0]
        cross = a[:, None] * (first.left.T @ second.left) * b
        return float(np.sum(cross**2) / np.sqrt(np.sum(a**4) * np.sum(b**4)))
    if first.n < 4:
        raise DataError("Debiased CKA needs at least 4 images.", got=str(first.n))
    own, other = _unbiased_hsic(first, first), _unbiased_hsic(second, second)
    if own <= 0 or other <= 0:
        return float("nan")
    return _unbiased_hsic(first, second) / float(np.sqrt(own * other))


def _unbiased_hsic(first: Subspace, second: Subspace) -> float:
    """Hilbert-Schmidt independence criterion of two linear kernels, without bias, up to the layers' scale."""
    n = first.n
    a, b = first.left * (first.values / first.values[0]), second.left * (second.values / second.values[0])
    # Rows of a centred kernel sum to 0, so with its diagonal taken out they sum to minus the diagonal.
    own, other = np.sum(a**2, axis=1), np.sum(b**2, axis=1)
    shared = float(own @ other)
    whole = float(np.sum((a.T @ b) ** 2)) - shared
    whole += float(own.sum() * other.sum()) / ((n - 1) * (n - 2)) - 2 * shared / (n - 2)
    return whole / (n * (n - 3))
