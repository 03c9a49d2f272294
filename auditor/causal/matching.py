"""Control sets: random units matched to the selected ones on site and on a covariate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Neighbours of a selected unit, in rank of the covariate, among which its replacement is drawn: fewer match better,
# more make the sets differ.
NEIGHBOURS = 10


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """Random control sets.

    Attributes
    ----------
    sets : ndarray of int64, shape (n_sets, K)
        Indices into the list of units. Column j stands in for selected unit j and is of the same site.
    overlap : ndarray of float64, shape (n_sets,)
        Share of each set that is itself selected; 0 wherever enough other units are left.
    pool_sizes : dict of int to int
        For each site code with selected units, the number of units drawn from.
    smd : float
        Standardised mean difference of the covariate, all drawn minus selected, in standard deviations of the
        covariate over eligible and selected units of the sites involved. Below 0.1 in size is a good match.
    distinct : float
        One minus the mean share of units that two sets have in common: 1 if none ever is, 0 if all sets are equal.
    """

    sets: IntArray
    overlap: FloatArray
    pool_sizes: dict[int, int]
    smd: float
    distinct: float

    def to_dict(self) -> dict[str, object]:
        """Plain summary, without the sets themselves."""
        return {
            "n_sets": len(self.sets),
            "n_units": int(self.sets.shape[1]),
            "overlap_mean": float(self.overlap.mean()),
            "overlap_max": float(self.overlap.max()),
            "pool_sizes": {str(site): size for site, size in self.pool_sizes.items()},
            "smd": self.smd,
            "distinct": self.distinct,
        }


def matched_sets(
    selected: ArrayLike,
    site_codes: ArrayLike,
    covariate: ArrayLike,
    eligible: ArrayLike,
    *,
    n_sets: int,
    seed: int,
) -> MatchedSets:
    """Draw fixed control sets with as many units of each site as the selection, matched on rank of the covariate.

    Within a site each selected unit, in random order, is replaced by one drawn at random among its 10 nearest units
    still left, in rank of the covariate and without replacement. Units of the selection are drawn from only where
    fewer than twice as many eligible others as selected are left in a site. Where the selected units are the extreme
    ones of a site, no close match exists: `smd` shows what is left of the difference.

    Parameters
    ----------
    selected : array_like of int, shape (K,)
        Distinct indices into the list of units.
    site_codes : array_like of int, shape (U,)
    covariate : array_like of float, shape (U,)
        Mean response, say: what confounds selection and effect.
    eligible : array_like of bool, shape (U,)
        Which units may be drawn (alive ones). Selected units need not be eligible to be matched.
    n_sets : int
    seed : int

    Returns
    -------
    MatchedSets

    Raises
    ------
    DataError
        If a site has fewer eligible units than selected ones, indices repeat or are out of range, lengths differ, or
        the covariate of a unit that is selected or may be drawn is not finite.
    OptionError
        If `n_sets` is not positive.
    """
    chosen, sites, values, allowed = _checked(selected, site_codes, covariate, eligible, n_sets)
    rng = np.random.default_rng([seed, 2])
    sets = np.empty((n_sets, len(chosen)), dtype=np.int64)
    is_selected = np.zeros(len(sites), dtype=bool)
    is_selected[chosen] = True
    pool_sizes: dict[int, int] = {}
    for code in np.unique(sites[chosen]):
        columns = np.flatnonzero(sites[chosen] == code)
        pool = np.flatnonzero((sites == code) & allowed & ~is_selected)
        if len(pool) < 2 * len(columns):
            pool = np.flatnonzero((sites == code) & allowed)
        if len(pool) < len(columns):
            raise DataError(
                f"Site {int(code)} has too few units to draw controls from.",
                wanted=f"at least {len(columns)} eligible units",
                got=str(len(pool)),
                fix="Select fewer units.",
            )
        pool_sizes[int(code)] = len(pool)
        pool = pool[np.argsort(values[pool], kind="stable")]
        # Position in the pool at which the unit would stand; half a step for ties keeps it central among equals.
        places = (
            np.searchsorted(values[pool], values[chosen[columns]], side="left")
            + np.searchsorted(values[pool], values[chosen[columns]], side="right")
            - 1
        ) / 2
        for row in range(n_sets):
            sets[row, columns] = pool[_draw(places, len(pool), rng)]
    return MatchedSets(
        sets=sets,
        overlap=is_selected[sets].mean(axis=1),
        pool_sizes=pool_sizes,
        smd=_standardised_difference(sets, chosen, values, np.isin(sites, sites[chosen]) & (allowed | is_selected)),
        distinct=_distinct(sets, len(sites)),
    )


def _draw(places: FloatArray, pool_size: int, rng: np.random.Generator) -> IntArray:
    """Positions in the sorted pool, one for each place, without replacement."""
    left = np.arange(pool_size)
    result = np.empty(len(places), dtype=np.int64)
    for which in rng.permutation(len(places)):
        width = min(NEIGHBOURS, len(left))
        near = np.argpartition(np.abs(left - places[which]), width - 1)[:width]
        pick = near[rng.integers(width)]
        result[which] = left[pick]
        left = np.delete(left, pick)
    return result


def _standardised_difference(sets: IntArray, chosen: IntArray, values: FloatArray, among: NDArray[np.bool_]) -> float:
    spread = float(values[among].std())
    difference = float(values[sets].mean() - values[chosen].mean())
    return difference / spread if spread > 0 else 0.0


def _distinct(sets: IntArray, n_units: int) -> float:
    n_sets, size = sets.shape
    if n_sets < 2:
        return 1.0
    times = np.bincount(sets.ravel(), minlength=n_units).astype(np.float64)
    shared = float((times * (times - 1)).sum() / (n_sets * (n_sets - 1) * size))
    return 1.0 - shared


def _checked(
    selected: ArrayLike, site_codes: ArrayLike, covariate: ArrayLike, eligible: ArrayLike, n_sets: int
) -> tuple[IntArray, IntArray, FloatArray, NDArray[np.bool_]]:
    chosen, sites = np.asarray(selected), np.asarray(site_codes)
    values, allowed = np.asarray(covariate, dtype=np.float64), np.asarray(eligible, dtype=bool)
    if n_sets < 1:
        raise OptionError("At least one control set is needed.", wanted="a positive number", got=repr(n_sets))
    if chosen.ndim != 1 or len(chosen) == 0:
        raise DataError("No units are selected.", wanted="at least one unit")
    if not len(sites) == len(values) == len(allowed):
        raise DataError(
            "Site codes, covariate and eligibility do not list the same units.",
            got=f"{len(sites)}, {len(values)} and {len(allowed)} units",
        )
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.min() < 0 or chosen.max() >= len(sites):
        raise DataError("A selected unit does not exist.", wanted=f"integers from 0 to {len(sites) - 1}")
    if len(np.unique(chosen)) != len(chosen):
        raise DataError("A unit is selected twice.")
    needed = allowed.copy()
    needed[chosen] = True
    if not np.isfinite(values[needed]).all():
        raise DataError("The covariate of a unit is missing.", fix="Mark units without a covariate as not eligible.")
    return chosen.astype(np.int64), sites.astype(np.int64), values, allowed
