"""Dimensionality with its uncertainty over images: a jackknife over groups of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.special import stdtrit

from auditor.errors import DataError, OptionError
from auditor.representations.dimensionality import ROUNDING, Spectrum, SpectrumAccumulator, checked_responses
from auditor.stats import Interval, check_confidence

FloatArray = NDArray[np.float64]

SHARES = (0.9, 0.95, 0.99)
RATIOS = ("participation_ratio", "participation_ratio_corrected")


@dataclass(frozen=True, eq=False)
class Dimensionality:
    """Measures of dimensionality of one layer, with intervals over images.

    Attributes
    ----------
    spectrum : Spectrum
        Of all images.
    names : tuple of str
        ``components_90`` and so on for each share of variance, ``participation_ratio`` and
        ``participation_ratio_corrected``.
    estimate, low, high : ndarray of float64, shape (S,)
        In the order of `names`; NaN where undefined.
    pseudovalues : ndarray of float64, shape (G, S)
        Of the jackknife; see :meth:`minus`.
    confidence : float
    """

    spectrum: Spectrum
    names: tuple[str, ...]
    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    pseudovalues: FloatArray
    confidence: float

    def to_dict(self) -> dict[str, dict[str, float]]:
        """``{name: {"estimate", "low", "high"}}``."""
        return _as_dict(self.names, Interval(self.estimate, self.low, self.high))

    def minus(self, other: Dimensionality) -> dict[str, dict[str, float]]:
        """Difference of two layers or conditions on the same images, paired by group of images.

        Returns
        -------
        dict
            As :meth:`to_dict`, this minus `other`.

        Raises
        ------
        DataError
            If the two do not come from as many images and groups, or have other measures.
        """
        same = self.names == other.names and self.pseudovalues.shape == other.pseudovalues.shape
        if not same or self.spectrum.n != other.spectrum.n:
            raise DataError(
                "Dimensionalities are paired over the same images.",
                wanted=f"{self.spectrum.n} images in {len(self.pseudovalues)} groups",
                got=f"{other.spectrum.n} images in {len(other.pseudovalues)} groups",
                fix="Measure both on the same images with the same seed and number of groups.",
            )
        half = _half_width(self.pseudovalues - other.pseudovalues, self.confidence)
        apart = self.estimate - other.estimate
        return _as_dict(self.names, Interval(apart, apart - half, apart + half))


def dimensionality_interval(
    responses: ArrayLike,
    *,
    shares: Sequence[float] = SHARES,
    n_groups: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
) -> Dimensionality:
    """Components for each share of variance and participation ratio, with intervals over images.

    Parameters
    ----------
    responses : array_like, shape (N, U)
    shares : sequence of float
    n_groups : int
        Groups of the jackknife; images are dealt to them at random.
    confidence : float
    seed : int

    Returns
    -------
    Dimensionality

    Raises
    ------
    DataError
        If there are fewer than two images for each group, or a response is not finite.
    OptionError
        If `n_groups` is below 2.

    Notes
    -----
    Each group is left out in turn (Shao & Wu 1989, the delete-d jackknife in its grouped form), and the interval is
    ``estimate +- t s`` with the jackknife's standard error and ``n_groups - 1`` degrees of freedom. A bootstrap would
    draw images twice, which takes dimensions away. For the standard error the number of components is read off between
    integers. The interval describes how the estimate varies over sets of N images; it does not contain the bias from
    small N, which is downward for the components and the plain ratio. It is symmetric but does not go below 0.
    """
    values = checked_responses(responses)
    if n_groups < 2:
        raise OptionError("A jackknife needs groups.", wanted="n_groups of 2 or more", got=repr(n_groups))
    if len(values) < 2 * n_groups:
        raise DataError(
            "There are too few images for the jackknife.",
            wanted=f"at least {2 * n_groups} images",
            got=str(len(values)),
            fix="Use more images, or fewer groups.",
        )
    n_units = values.shape[1]
    place = np.random.default_rng([seed, 20]).permutation(len(values)) % n_groups
    values = _coordinates(values)
    groups = []
    for g in range(n_groups):
        groups.append(SpectrumAccumulator(values.shape[1]))
        groups[-1].update(values[place == g])
    return jackknife(groups, shares=shares, confidence=confidence, n_units=n_units)


def jackknife(
    groups: Sequence[SpectrumAccumulator],
    *,
    shares: Sequence[float] = SHARES,
    confidence: float = 0.95,
    n_units: int | None = None,
) -> Dimensionality:
    """Dimensionality of images that were streamed into several accumulators; see :func:`dimensionality_interval`.

    Parameters
    ----------
    groups : sequence of SpectrumAccumulator
        Of disjoint random groups of images, two or more, of about equal size.
    shares : sequence of float
    confidence : float
    n_units : int, optional
        Units of the layer, if the accumulators saw other coordinates.

    Returns
    -------
    Dimensionality
    """
    check_confidence(confidence)
    if len(groups) < 2:
        raise OptionError("A jackknife needs groups.", wanted="two or more", got=repr(len(groups)))
    whole = SpectrumAccumulator(len(groups[0].mean))
    for group in groups:
        whole.merge(group)
    total = whole.spectrum()
    if n_units is not None:
        total = Spectrum(total.eigenvalues, total.n, n_units, total.variance, total.fourth)
    left_out = np.array([_measures(whole.without(group).spectrum(), shares) for group in groups])
    pseudovalues = len(groups) * _measures(total, shares) - (len(groups) - 1) * left_out
    estimate = np.array([*(total.components(share) for share in shares), *_ratios(total)], dtype=np.float64)
    half = _half_width(pseudovalues, confidence)
    names = (*(f"components_{100 * share:g}" for share in shares), *RATIOS)
    return Dimensionality(
        total, names, estimate, np.maximum(estimate - half, 0.0), estimate + half, pseudovalues, confidence
    )


def _coordinates(values: FloatArray) -> FloatArray:
    """The same points in no more dimensions than there are points."""
    n, n_units = values.shape
    if n_units <= n:
        return values
    centred: FloatArray = values - values.mean(axis=0)
    squares, axes = linalg.eigh(centred @ centred.T, check_finite=False)
    kept = squares > ROUNDING * max(squares[-1], 0.0)
    if not kept.any():
        return centred[:, :1]
    result: FloatArray = axes[:, kept] * np.sqrt(squares[kept])
    return result


def _measures(found: Spectrum, shares: Sequence[float]) -> FloatArray:
    return np.array([*(_between(found, share) for share in shares), *_ratios(found)])


def _ratios(found: Spectrum) -> tuple[float, float]:
    return found.participation_ratio(), found.participation_ratio(corrected=True)


def _between(found: Spectrum, share: float) -> float:
    """Components for `share`, interpolated between integers."""
    last = found.components(share)
    if last == 0:
        return 0.0
    held = np.concatenate([[0.0], found.shares()])
    step = held[last] - held[last - 1]
    return last - 1 + float(np.clip((share - held[last - 1]) / step, 0.0, 1.0)) if step > 0 else float(last)


def _half_width(pseudovalues: FloatArray, confidence: float) -> FloatArray:
    n = len(pseudovalues)
    half: FloatArray = stdtrit(n - 1, (1 + confidence) / 2) * pseudovalues.std(axis=0, ddof=1) / np.sqrt(n)
    return half


def _as_dict(names: Sequence[str], interval: Interval) -> dict[str, dict[str, float]]:
    columns = zip(names, *(part.tolist() for part in interval), strict=True)
    return {name: {"estimate": estimate, "low": low, "high": high} for name, estimate, low, high in columns}
