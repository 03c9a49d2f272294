"""Whether silencing a unit damages the class that it prefers more than the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from auditor.errors import DataError, OptionError
from auditor.selectivity.ranks import Ranks
from auditor.stats import bh_qvalues, check_confidence, empirical_p, paired_mean_interval

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK = 1 << 20  # effects, or draws of the null, at once; each takes some 60 bytes on the way
MEASURES = ("difference", "excess")


@dataclass(frozen=True, eq=False)
class OwnClassResult:
    """Damage to the preferred class against that to other classes.

    Attributes
    ----------
    units : DataFrame
        One row per unit, in the order given, all NaN where no image, or every image, is of the preferred class:
        `own`, `others` (mean effect on images of the preferred class, and on all other images); `difference` with
        Welch's interval `low`, `high`, its two-sided `p` and Benjamini-Hochberg `q`; `superiority`, the chance that
        an image of the preferred class is damaged more than another one, ties half; and `above_layer`, that minus its
        mean for the same class over units of the layer that prefer other classes (NaN where there are none).
    layers : DataFrame
        One row per layer: `site`, `n_units`; means over units `own`, `others`, `difference` and `excess` (of
        `superiority` over 0.5), each with `_low`, `_high` (over units); for the last two also `_low_images`,
        `_high_images` (over images), `_null_mean`, `_null_low`, `_null_high` (the middle of the null, as wide as the
        confidence level), `_p` (one-sided, greater) and `_q` (Benjamini-Hochberg over layers).
    overall : dict of str to float
        The same over all units, without `site` and `_q`.
    null : dict of str to ndarray of float64, shape (n_null,)
        Draws of the overall `difference` and `excess` under the null.
    confidence : float
    """

    units: pd.DataFrame
    layers: pd.DataFrame
    overall: dict[str, float]
    null: dict[str, FloatArray]
    confidence: float

    def to_dict(self) -> dict[str, float]:
        """Plain overall values."""
        return self.overall | {"confidence": self.confidence}

    def summary(self) -> str:
        """One line for people."""
        o = self.overall
        return (
            f"preferred class damaged more on {0.5 + o['excess']:.1%} of pairs of images "
            f"[{0.5 + o['excess_low']:.1%}, {0.5 + o['excess_high']:.1%}], {0.5 + o['excess_null_mean']:.1%} with "
            f"preferred classes permuted, p = {o['excess_p']:.3g}; difference of means {o['difference']:.4g} "
            f"[{o['difference_low']:.4g}, {o['difference_high']:.4g}], {int(o['n_units'])} units"
        )


def own_class_damage(
    effects: NDArray[np.floating],
    labels: ArrayLike,
    preferred: ArrayLike,
    site_codes: ArrayLike,
    *,
    n_null: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> OwnClassResult:
    """Compare the damage to images of each unit's preferred class with that to other images.

    Parameters
    ----------
    effects : ndarray of float, shape (U, N)
        Damage by silencing each unit, on each image; larger is worse. May be a memory map: rows are read in blocks.
    labels : array_like of int, shape (N,)
    preferred : array_like of int, shape (U,)
        Found on other images. Units whose class has no image (-1, say) are left out.
    site_codes : array_like of int, shape (U,)
    n_null : int
    confidence : float
    seed : int

    Returns
    -------
    OwnClassResult

    Raises
    ------
    DataError
        If shapes do not fit, an effect is not finite, or no unit is left.
    OptionError
        If `n_null` is not positive or `confidence` not within (0, 1).

    Notes
    -----
    A class that is hard for the network is damaged more by silencing any unit, so a `difference` of one unit may be
    that of its class: p and q of units say that the class suffers more, not that it does because the unit prefers it.
    The null settles that. It permutes preferred classes among the units of a layer, which keeps how fragile each class
    is, how popular it is, and how much each unit matters: what exceeds it is due to who prefers what. A layer whose
    units all prefer one class has no null but the observed value, and p = 1.

    Intervals over units are Student's t of the mean. Over images they are normal, with images resampled within
    classes: the means are linear in the images of a class, `excess` to first order (DeLong et al. 1988), so that the
    variance a bootstrap would estimate is known: ``sum_c n_c / (n_c - 1) sum_i (h_i - mean_c h)^2``, h the share of
    image i. Classes of one image add nothing to it.
    """
    tail = (1 + check_confidence(confidence)) / 2
    if n_null < 1:
        raise OptionError("The null needs draws.", wanted="a positive n_null", got=repr(n_null))
    classes, order, own_class, codes = _checked(effects, labels, preferred, site_codes)
    names = ("own", "others", "difference", "low", "high", "p", "superiority", "above_layer")
    units = {name: np.full(len(codes), np.nan) for name in names}
    sites, counted = np.unique(codes), np.flatnonzero(own_class >= 0)
    shares, null = np.zeros((2, len(sites), len(classes))), np.zeros((2, len(sites), n_null))
    for row, code in enumerate(sites):
        members = counted[codes[counted] == code]
        if len(members):
            by_class, shares[:, row] = _measure(effects, members, order, classes, own_class, tail, units)
            rng = np.random.default_rng([seed, 13, int(code)])
            null[:, row] = _permuted(by_class, own_class[members], n_null, rng)
    layers = []
    for row, code in enumerate(sites):
        members = counted[codes[counted] == code]
        layers.append({"site": int(code)} | _means(units, members, shares[:, row], null[:, row], classes, tail))
    weight = np.bincount(np.searchsorted(sites, codes[counted]), minlength=len(sites)) / len(counted)
    pooled = np.einsum("l,mln->mn", weight, null)
    overall = _means(units, counted, np.einsum("l,mln->mn", weight, shares), pooled, classes, tail)
    import pandas as pd  # slow to import, and only needed here

    table, by_unit = pd.DataFrame(layers), pd.DataFrame(units)
    for name in MEASURES:
        table[f"{name}_q"] = bh_qvalues(table[f"{name}_p"])
    by_unit.insert(list(by_unit).index("p") + 1, "q", bh_qvalues(by_unit["p"]))
    drawn = dict(zip(MEASURES, pooled, strict=True))
    return OwnClassResult(units=by_unit, layers=table, overall=overall, null=drawn, confidence=confidence)


def _measure(
    effects: NDArray[np.floating],
    members: IntArray,
    order: IntArray,
    classes: IntArray,
    own_class: IntArray,
    tail: float,
    units: dict[str, FloatArray],
) -> tuple[FloatArray, FloatArray]:
    """Fill in the units of a layer; difference and excess for every class, and each image's share in their means.

    Images are in the order of their class. Shapes (2, n, C) and (2, N).
    """
    n_images, starts = len(classes), np.flatnonzero(np.diff(classes, prepend=-1))
    sizes = np.bincount(classes)
    by_class, shares = np.empty((2, len(members), len(sizes))), np.zeros((2, n_images))
    step = max(BLOCK // n_images, 1)
    for start in range(0, len(members), step):
        which = members[start : start + step]
        values = np.asarray(effects[which], dtype=np.float64)[:, order]
        if not np.isfinite(values).all():
            raise DataError("An effect is not finite.", fix="Leave out images whose loss overflows.")
        inside = classes == own_class[which, None]
        n_in = sizes[own_class[which]]
        n_out = n_images - n_in
        sums = np.add.reduceat(values, starts, axis=1)
        total = sums.sum(axis=1, keepdims=True)
        by_class[0, start : start + step] = sums / sizes - (total - sums) / (n_images - sizes)
        _welch(values, inside, n_in, tail, which, units)
        ranks = Ranks(values.T)
        average = n_images - (ranks.more.astype(np.float64) + ranks.at_least - 1) / 2
        found = np.add.reduceat(average, starts, axis=1)
        areas = (found - sizes * (sizes + 1) / 2) / (sizes * (n_images - sizes))
        by_class[1, start : start + step] = areas - 0.5
        units["superiority"][which] = areas[np.arange(len(which)), own_class[which]]
        weights = np.where(inside, 1 / n_in[:, None], -1 / n_out[:, None])
        shares[0] += (values * weights).sum(axis=0)
        shares[1] += _placements(ranks, inside, n_in)
    own = own_class[members]
    for c in np.unique(own):
        same = own == c
        expected = by_class[1][~same, c].mean() if not same.all() else np.nan
        units["above_layer"][members[same]] = by_class[1][same, c] - expected
    return by_class, shares / len(members)


def _welch(
    values: FloatArray,
    inside: NDArray[np.bool_],
    n_in: IntArray,
    tail: float,
    which: IntArray,
    units: dict[str, FloatArray],
) -> None:
    """Difference of means with Welch's interval and two-sided p; NaN with one image, or without any variance."""
    n = np.stack([n_in, values.shape[1] - n_in])
    own, others = values.sum(axis=1, where=inside) / n[0], values.sum(axis=1, where=~inside) / n[1]
    squares = np.square(values - np.where(inside, own[:, None], others[:, None]))
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.stack([squares.sum(axis=1, where=inside), squares.sum(axis=1, where=~inside)]) / (n - 1) / n
        error = np.sqrt(variance.sum(axis=0))
        df = variance.sum(axis=0) ** 2 / (variance**2 / (n - 1)).sum(axis=0)
        difference = own - others
        half = np.where(error > 0, stdtrit(df, tail) * error, np.nan)
        p = np.where(error > 0, 2 * stdtr(df, -np.abs(difference) / error), np.nan)
    for name, found in zip(
        ("own", "others", "difference", "low", "high", "p"),
        (own, others, difference, difference - half, difference + half, p),
        strict=True,
    ):
        units[name][which] = found


def _placements(ranks: Ranks, inside: NDArray[np.bool_], n_in: IntArray) -> FloatArray:
    """Share of each image in the sum over units of the probability of superiority, shape (N,)."""
    n_units, n_images = inside.shape
    n_out = n_images - n_in
    row = np.arange(n_units)[:, None] * (n_images + 1)
    passed = np.bincount((row + ranks.at_least)[inside], minlength=n_units * (n_images + 1)).reshape(n_units, -1)
    np.cumsum(passed, axis=1, out=passed)  # images of the class among the so many most damaged
    above = (np.take_along_axis(passed, ranks.more, axis=1) + np.take_along_axis(passed, ranks.at_least, axis=1)) / 2
    others_above = (ranks.more + ranks.at_least) / 2 - above
    pairs = (n_in * n_out)[:, None]
    found: FloatArray = (np.where(inside, n_out[:, None] - others_above, above) / pairs).sum(axis=0)
    return found


def _permuted(by_class: FloatArray, own_class: IntArray, n_null: int, rng: np.random.Generator) -> FloatArray:
    """Mean of both measures with preferred classes permuted among units, shape (2, n_null)."""
    n = len(own_class)
    null = np.empty((2, n_null))
    step = max(BLOCK // n, 1)
    for start in range(0, n_null, step):
        drawn = rng.permuted(np.broadcast_to(own_class, (min(step, n_null - start), n)), axis=1)
        null[:, start : start + step] = by_class[:, np.arange(n), drawn].mean(axis=2)
    return null


def _means(
    units: dict[str, FloatArray],
    members: IntArray,
    shares: FloatArray,
    null: FloatArray,
    classes: IntArray,
    tail: float,
) -> dict[str, float]:
    """Means over units with intervals and null; NaN without units."""
    values: dict[str, float] = {"n_units": len(members)}
    excess = units["superiority"][members] - 0.5
    each = {name: units[name][members] for name in ("own", "others", "difference")} | {"excess": excess}
    for name, column in each.items():
        mean, low, high = (float(x) for x in paired_mean_interval(column, 2 * tail - 1))
        values |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    sizes = np.bincount(classes)
    factor = sizes / np.maximum(sizes - 1, 1)
    for name, share, draws in zip(MEASURES, shares, null, strict=True):
        centred = share - (np.bincount(classes, weights=share) / sizes)[classes]
        half = float(ndtri(tail) * np.sqrt((factor[classes] * centred**2).sum()))
        low, high = np.quantile(draws, [1 - tail, tail])
        values |= {
            f"{name}_low_images": values[name] - half,
            f"{name}_high_images": values[name] + half,
            f"{name}_null_mean": float(draws.mean()) if len(members) else np.nan,
            f"{name}_null_low": float(low) if len(members) else np.nan,
            f"{name}_null_high": float(high) if len(members) else np.nan,
            # The observed value is a permutation too: rounding must not tell equal sums apart.
            f"{name}_p": float(empirical_p(values[name] - 1e-12 * max(abs(draws).max(), 1e-300), draws)),
        }
    return values


def _checked(
    effects: NDArray[np.floating], labels: ArrayLike, preferred: ArrayLike, site_codes: ArrayLike
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Sorted class of each image, the order that sorts them, class of each unit (-1 where none), site codes.

    Classes are numbered anew, in order, among those that have images.
    """
    found, own, codes = np.asarray(labels), np.asarray(preferred), np.asarray(site_codes)
    if effects.ndim != 2 or (own.shape, codes.shape, found.shape) != (effects.shape[:1],) * 2 + (effects.shape[1:],):
        raise DataError(
            "Effects, labels, preferred classes and layers do not fit.",
            wanted="(U, N), (N,), (U,) and (U,)",
            got=f"{effects.shape}, {found.shape}, {own.shape} and {codes.shape}",
        )
    if not all(np.issubdtype(array.dtype, np.integer) for array in (found, own, codes)):
        raise DataError("Labels, preferred classes and layers must be whole numbers.")
    present, renumbered = np.unique(found, return_inverse=True)
    own_class = np.full(len(own), -1)
    if len(present) > 1:
        places = np.minimum(np.searchsorted(present, own), len(present) - 1)
        own_class = np.where(present[places] == own, places, -1)
    if not (own_class >= 0).any():
        raise DataError("No unit prefers a class that has images, besides other classes.")
    order = np.argsort(renumbered, kind="stable")
    return renumbered[order].astype(np.int64), order, own_class.astype(np.int64), codes.astype(np.int64)
