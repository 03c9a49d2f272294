"""Distances between two layers by every measure of similarity."""

from __future__ import annotations

from collections.abc import Callable

from auditor.errors import DataError
from auditor.representations.cca import Layer, cca, pair, pwcca, svcca
from auditor.representations.cka import linear_cka

MEASURES = {
    "cca": "mean canonical correlation",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
    "cka": "linear CKA",
    "cka_debiased": "linear CKA, debiased",
}
"""Names of the measures, and how they are written."""


def distances(x: Layer, y: Layer, *, share: float = 0.99) -> dict[str, float]:
    """One minus the similarity of two layers.

    Parameters
    ----------
    x, y : array_like, shape (N, U) and (N, V), or Subspace
        Responses to the same images in the same order. `x` is the reference of PWCCA.
    share : float
        Of variance, for SVCCA.

    Returns
    -------
    dict of str to float
        One distance for each of :data:`MEASURES`; ``cca`` is 1 minus the mean canonical correlation. NaN where a
        measure is not defined: too few images for the layers' ranks, or a layer that does not vary.

    Raises
    ------
    DataError
        If the numbers of images differ or a response is not finite.
    OptionError
        If `share` is not in (0, 1].

    Notes
    -----
    From n images the distances of unrelated layers are below 1 (:func:`auditor.representations.cca.cca`); compare them
    only on the same number of images and with the distance between equally trained networks.
    """
    first, second = pair(x, y, constant=True)
    first.leading(share)  # says what is wrong with the share, whatever the layers are
    measured: dict[str, Callable[[], float]] = {
        "cca": lambda: float(cca(first, second).mean()),
        "svcca": lambda: svcca(first, second, share),
        "pwcca": lambda: pwcca(first, second),
        "cka": lambda: linear_cka(first, second),
        "cka_debiased": lambda: linear_cka(first, second, debiased=True),
    }
    result = {}
    for name, similarity in measured.items():
        try:
            result[name] = 1 - similarity()
        except DataError:
            result[name] = float("nan")
    return result
