"""Mean of rank correlations over layers: random-effects meta-analysis on Fisher's z."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit

from auditor.errors import DataError
from auditor.stats import Interval, check_confidence

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """Random-effects mean of correlations.

    Attributes
    ----------
    mean, low, high : float
        Back-transformed mean of z and its interval.
    p : float
        Two-sided, of a mean of 0.
    prediction_low, prediction_high : float
        Where the correlation of another such layer is expected; NaN with fewer than three.
    n_layers, n_units : int
        Of the layers whose correlation is defined.
    z, se : float
        Mean and standard error on Fisher's scale.
    tau2 : float
        Variance of z between layers; NaN with one.
    heterogeneity, heterogeneity_p : float
        Cochran's Q and its chi-squared p value; NaN with one layer.
    i2 : float
        ``max(0, 1 - (n_layers - 1) / Q)``, share of the variance of z that is between layers.
    confidence : float
    """

    mean: float
    low: float
    high: float
    p: float
    prediction_low: float
    prediction_high: float
    n_layers: int
    n_units: int
    z: float
    se: float
    tau2: float
    heterogeneity: float
    heterogeneity_p: float
    i2: float
    confidence: float = 0.95

    def to_dict(self) -> dict[str, float | int]:
        """Plain values."""
        return asdict(self)

    def summary(self) -> str:
        """One line for people."""
        return (
            f"mean correlation {self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] over {self.n_layers} layers with "
            f"{self.n_units} units, p = {self.p:.3g}; I2 = {self.i2:.0%}"
        )


def fisher_z(rho: ArrayLike, n: ArrayLike) -> FloatArray:
    """Fisher's z, with rank correlations of 1 taken as half a step below: ``1 - 6 / (n (n^2 - 1))``.

    The step, ``12 / (n (n^2 - 1))``, is what the swap of two neighbours costs.
    """
    size = np.maximum(np.asarray(n, dtype=np.float64), 2.0)
    most = np.maximum(1 - 6 / (size * (size**2 - 1)), 0.0)
    found: FloatArray = np.arctanh(np.clip(np.asarray(rho, dtype=np.float64), -most, most))
    return found


def fisher_interval(
    rho: float, draws: FloatArray, n: int, confidence: float, *, df: int | None = -1
) -> tuple[float, float]:
    """Interval on Fisher's z from the bootstrap standard error.

    Parameters
    ----------
    rho : float
    draws : ndarray of float64, shape (n_boot,)
        Undefined ones are left out.
    n : int
        Units, which bounds z of correlations of 1.
    confidence : float
    df : int or None
        Degrees of freedom of Student's t, ``n - 2`` unless given; None for the normal distribution.

    Returns
    -------
    low, high : float
        NaN where fewer than two draws or `rho` are defined.
    """
    defined = draws[~np.isnan(draws)]
    if len(defined) < 2 or np.isnan(rho):
        return np.nan, np.nan
    level = (1 + confidence) / 2
    critical = ndtri(level) if df is None else stdtrit(n - 2 if df < 0 else df, level)
    half = critical * float(fisher_z(defined, n).std(ddof=1))
    centre = float(fisher_z(rho, n))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def pool_correlations(
    rho: ArrayLike,
    n_units: ArrayLike,
    *,
    n_covariates: int = 0,
    se: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Pooled:
    """Mean of rank correlations over layers, and how far they differ.

    Parameters
    ----------
    rho : array_like, shape (L,)
        Spearman correlations, plain or partial. Layers where it is NaN are left out.
    n_units : array_like of int, shape (L,)
    n_covariates : int
        Held fixed in partial correlations.
    se : array_like, shape (L,), optional
        Standard errors of z, from a bootstrap, say. By default ``sqrt((1 + rho^2 / 2) / (n_units - 3 - n_covariates))``
        (Bonett & Wright 2000).
    confidence : float

    Returns
    -------
    Pooled
        All NaN if no layer has a correlation.

    Raises
    ------
    DataError
        If lengths differ, or a layer has no positive standard error (three units, say).
    OptionError
        If `confidence` is not within (0, 1).

    Notes
    -----
    The variance between layers is that of Paule & Mandel (1982); the interval that of Hartung & Knapp (2001) and Sidik
    & Jonkman (2002), Student's t with L - 1 degrees of freedom, with a standard error of at least that of layers which
    differ by chance alone (Rover, Knapp & Friede 2015), without which a few layers that happen to agree would have an
    interval of no width; the prediction interval that of Higgins et al. (2009)
    with L - 2. One layer has a normal interval. Layers are taken as a sample of layers with independent errors. They
    were measured on the same images, so part of their error is shared and this interval does not know of it; see
    :func:`pool_draws`.
    """
    tail = (1 + check_confidence(confidence)) / 2
    r, n = np.asarray(rho, dtype=np.float64), np.asarray(n_units, dtype=np.float64)
    if r.ndim != 1 or r.shape != n.shape:
        raise DataError("Correlations and numbers of units do not fit.", got=f"{r.shape} and {n.shape}")
    kept = ~np.isnan(r)
    z, variance = fisher_z(r[kept], n[kept]), _variances(r, n, n_covariates, se)[kept]
    if not (variance > 0).all():
        raise DataError(
            "A layer's correlation has no standard error.",
            wanted=f"more than {3 + n_covariates} units, or positive standard errors",
        )
    layers = len(z)
    mean = se_mean = p = half = spread = tau2 = q = np.nan
    if layers == 1:
        mean, se_mean = _weighted(z, variance)
        half = float(ndtri(tail)) * se_mean
        p = 2 * float(ndtr(-abs(mean) / se_mean))
    elif layers > 1:
        tau2, q = between_variance(z, variance), _generalised_q(0.0, z, variance)
        mean, se_mean = _weighted(z, variance + tau2)
        # Layers that agree better than their errors allow do so by luck.
        se_mean *= max(1.0, _generalised_q(tau2, z, variance) / (layers - 1)) ** 0.5
        half = float(stdtrit(layers - 1, tail)) * se_mean
        p = 2 * float(stdtr(layers - 1, -abs(mean) / se_mean)) if se_mean > 0 else float(mean == 0)
    if layers > 2:
        spread = float(stdtrit(layers - 2, tail)) * (tau2 + se_mean**2) ** 0.5
    return Pooled(
        mean=float(np.tanh(mean)),
        low=float(np.tanh(mean - half)),
        high=float(np.tanh(mean + half)),
        p=p,
        prediction_low=float(np.tanh(mean - spread)),
        prediction_high=float(np.tanh(mean + spread)),
        n_layers=layers,
        n_units=int(n[kept].sum()),
        z=mean,
        se=se_mean,
        tau2=tau2,
        heterogeneity=q,
        heterogeneity_p=float(chdtrc(layers - 1, q)) if layers > 1 else np.nan,
        i2=max(0.0, 1 - (layers - 1) / q) if q > 0 else 0.0 * q,
        confidence=confidence,
    )


def pool_draws(
    draws: ArrayLike, rho: ArrayLike, n_units: ArrayLike, *, n_covariates: int = 0, confidence: float = 0.95
) -> Interval:
    """Interval of the mean of correlations over images, layers and units held fixed.

    Each draw resamples the images of all layers at once, so errors that layers share are kept. The weights of the
    layers are those of :func:`pool_correlations` on `rho`.

    Parameters
    ----------
    draws : array_like, shape (n_boot, L)
        Correlations by resample of the images, as in
        :attr:`auditor.causal.correlation.LayerCorrelations.image_draws`.
    rho, n_units : array_like, shape (L,)
    n_covariates : int
    confidence : float

    Returns
    -------
    Interval
        The estimate is ``pool_correlations(rho, n_units).mean``; the ends are normal on Fisher's scale, from the
        standard deviation over draws. It says how the mean would vary over other sets of as many images, not over other
        layers or units, which is the interval of :func:`pool_correlations`.

    Raises
    ------
    DataError
        If shapes do not fit, or there are no two draws in which every layer with a `rho` has one.
    """
    r, n, drawn = (np.asarray(array, dtype=np.float64) for array in (rho, n_units, draws))
    if drawn.ndim != 2 or drawn.shape[1:] != r.shape:
        raise DataError("Draws do not fit the layers.", wanted=f"(n_boot, {r.size})", got=str(drawn.shape))
    pooled = pool_correlations(r, n, n_covariates=n_covariates, confidence=confidence)
    kept = ~np.isnan(r)
    if not kept.any():
        return Interval(*[np.asarray(np.nan)] * 3)
    variance: FloatArray = _variances(r, n, n_covariates, None)[kept] + np.nan_to_num(pooled.tau2)
    drawn = drawn[:, kept]
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if len(drawn) < 2:
        raise DataError(
            "The draws of the correlations are undefined.", wanted="two complete draws", got=str(len(drawn))
        )
    means = fisher_z(drawn, n[kept]) @ (1 / variance) / (1 / variance).sum()
    half = float(ndtri((1 + confidence) / 2) * means.std(ddof=1))
    return Interval(*(np.asarray(np.tanh(pooled.z + shift)) for shift in (0.0, -half, half)))


def between_variance(effects: FloatArray, variances: FloatArray) -> float:
    """Variance between studies at which the generalised Q is its expectation (Paule & Mandel 1982); 0 if none is.

    Parameters
    ----------
    effects, variances : ndarray of float64, shape (L,)
    """
    target = len(effects) - 1
    if target < 1 or _generalised_q(0.0, effects, variances) <= target:
        return 0.0
    from scipy.optimize import brentq  # slow to import, and only needed here

    high = float(np.ptp(effects) ** 2 + variances.max())
    return float(brentq(lambda tau2: _generalised_q(tau2, effects, variances) - target, 0.0, high, xtol=1e-14))


def _generalised_q(tau2: float, effects: FloatArray, variances: FloatArray) -> float:
    mean, _ = _weighted(effects, variances + tau2)
    return float(((effects - mean) ** 2 / (variances + tau2)).sum())


def _weighted(effects: FloatArray, variances: FloatArray) -> tuple[float, float]:
    total = float((1 / variances).sum())
    return float((effects / variances).sum()) / total, total**-0.5


def _variances(rho: FloatArray, n: FloatArray, n_covariates: int, se: ArrayLike | None) -> FloatArray:
    """Variance of z; NaN where there is none."""
    if se is None:
        left = n - 3 - n_covariates
        return np.where(left > 0, (1 + rho**2 / 2) / np.where(left > 0, left, 1.0), np.nan)
    errors = np.asarray(se, dtype=np.float64)
    if errors.shape != rho.shape:
        raise DataError("Standard errors do not fit.", wanted=str(rho.shape), got=str(errors.shape))
    return errors**2
