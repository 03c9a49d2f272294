"""Control sets: random units matched to the selected ones on site and on covariates, and the least selective units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Pool = Literal["others", "all"]

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
        covariate over eligible and selected units of the sites involved. Below 0.1 in size is a good match. Of several
        covariates, the difference that is largest in size; NaN without covariates.
    distinct : float
        One minus the mean share of units that two sets have in common: 1 if none ever is, 0 if all sets are equal.
    smds : tuple of float
        Standardised mean difference of each covariate; empty without covariates.
    """

    sets: IntArray
    overlap: FloatArray
    pool_sizes: dict[int, int]
    smd: float
    distinct: float
    smds: tuple[float, ...] = ()

    def balanced(self, limit: float = 0.1) -> bool:
        """Whether no covariate differs by more than `limit` standard deviations; False without covariates.

        What is left of a confound after matching can make a difference of its own: do not call one important on sets
        that are not balanced.
        """
        return bool(self.smds) and all(abs(smd) <= limit for smd in self.smds)

    def to_dict(self) -> dict[str, object]:
        """Plain summary, without the sets themselves."""
        return {
            "n_sets": len(self.sets),
            "n_units": int(self.sets.shape[1]),
            "overlap_mean": float(self.overlap.mean()),
            "overlap_max": float(self.overlap.max()),
            "pool_sizes": {str(site): size for site, size in self.pool_sizes.items()},
            "smd": self.smd,
            "smds": list(self.smds),
            "distinct": self.distinct,
        }


def matched_sets(
    selected: ArrayLike,
    site_codes: ArrayLike,
    covariate: ArrayLike | None,
    eligible: ArrayLike,
    *,
    n_sets: int,
    seed: int,
    pool: Pool = "others",
    neighbours: int = NEIGHBOURS,
) -> MatchedSets:
    """Draw fixed control sets with as many units of each site as the selection, matched on rank of the covariates.

    Within a site each selected unit, in random order, is replaced by one drawn at random among its 10 nearest units
    still left, in rank of the covariate and without replacement. Several covariates are matched together: nearest is
    the smallest Euclidean distance of ranks within the site. Where the selected units are the extreme ones of a site,
    no close match exists: `smd` shows what is left of the difference. The first k columns are a matched set of the
    first k selected units.

    The pool decides what the p value of a test against these sets means. Sets drawn from the other units alone differ
    less from each other than the selected set does from them. If it is no more than a random draw, and takes K of the
    n units of a site, the variance of its difference from the sets is ``n / (n - 2 K)`` times what they show: with a
    tenth of the units selected, a one-sided test at 5 % errs in 7 % of cases, with a quarter in 12 %. Sets drawn from
    all units are exchangeable with the selected one under that hypothesis, and the test keeps its level; they overlap
    with the selection, so their difference from it is smaller by that share. Without covariates this is the
    randomisation test and exact.

    In simulations where the effect of a unit is proportional to the covariate and selection prefers high values (20
    units of two sites of 500), a test at 5 % erred in 78 % of cases without matching, in 15 % with 10 neighbours among
    the others, and in 5 % with 4 neighbours among all units.

    Parameters
    ----------
    selected : array_like of int, shape (K,)
        Distinct indices into the list of units.
    site_codes : array_like of int, shape (U,)
    covariate : array_like of float, shape (U,) or (U, k), or None
        Mean response, firing rate, norm of outgoing weights: what confounds selection and effect. None draws from the
        whole site, unmatched.
    eligible : array_like of bool, shape (U,)
        Which units may be drawn (alive ones). Selected units need not be eligible to be matched.
    n_sets : int
    seed : int
    pool : {"others", "all"}
        Draw from units that are not selected (and from all only where fewer than twice as many eligible others as
        selected are left in a site), or always from all eligible units.
    neighbours : int
        How many nearest units each stand-in is drawn from.

    Returns
    -------
    MatchedSets

    Raises
    ------
    DataError
        If a site has fewer eligible units than selected ones, indices repeat or are out of range, lengths differ, or
        the covariate of a unit that is selected or may be drawn is not finite.
    OptionError
        If `n_sets` or `neighbours` is not positive, or there is no such `pool`.
    """
    if pool not in ("others", "all"):
        raise OptionError("There is no such pool.", wanted="others or all", got=repr(pool))
    if n_sets < 1 or neighbours < 1:
        name, got = ("control set", n_sets) if n_sets < 1 else ("neighbour", neighbours)
        raise OptionError(f"At least one {name} is needed.", wanted="a positive number", got=repr(got))
    chosen, sites, values, allowed = _checked(selected, site_codes, covariate, eligible)
    rng = np.random.default_rng([seed, 2])
    sets = np.empty((n_sets, len(chosen)), dtype=np.int64)
    is_selected = np.zeros(len(sites), dtype=bool)
    is_selected[chosen] = True
    pool_sizes: dict[int, int] = {}
    for code in np.unique(sites[chosen]):
        columns = np.flatnonzero(sites[chosen] == code)
        inside = np.flatnonzero((sites == code) & allowed)
        others = inside[~is_selected[inside]]
        candidates = others if pool == "others" and len(others) >= 2 * len(columns) else inside
        _check_enough(int(code), len(candidates), len(columns))
        pool_sizes[int(code)] = len(candidates)
        sets[:, columns] = _stand_ins(chosen[columns], candidates, values, n_sets, neighbours, rng)
    smds = _standardised_differences(sets, chosen, values, np.isin(sites, sites[chosen]) & (allowed | is_selected))
    return MatchedSets(
        sets=sets,
        overlap=is_selected[sets].mean(axis=1),
        pool_sizes=pool_sizes,
        smd=max(smds, key=abs, default=float("nan")),
        distinct=_distinct(sets, len(sites)),
        smds=smds,
    )


def least_selective_set(selected: ArrayLike, site_codes: ArrayLike, score: ArrayLike, eligible: ArrayLike) -> IntArray:
    """Return the units with the lowest scores, as many of each site as are selected.

    Parameters
    ----------
    selected : array_like of int, shape (K,)
        Distinct indices into the list of units.
    site_codes : array_like of int, shape (U,)
    score : array_like of float, shape (U,)
        Selectivity.
    eligible : array_like of bool, shape (U,)
        Which units may be taken (alive ones).

    Returns
    -------
    ndarray of int64, shape (K,)
        Column j is of the site of selected unit j, and the lowest of a site come first: the first k columns are the
        least selective counterpart of the first k selected. Selected units are taken last, where others do not suffice.

    Raises
    ------
    DataError
        If a site has fewer eligible units than selected ones, indices repeat or are out of range, lengths differ, or
        the score of a unit that may be taken is not finite.
    """
    chosen, sites, _, allowed = _checked(selected, site_codes, None, eligible)
    scores = np.asarray(score, dtype=np.float64)
    if scores.shape != sites.shape or not np.isfinite(scores[allowed]).all():
        raise DataError("The score of a unit is missing.", fix="Mark units without a score as not eligible.")
    result = np.empty(len(chosen), dtype=np.int64)
    for code in np.unique(sites[chosen]):
        columns = np.flatnonzero(sites[chosen] == code)
        inside = np.flatnonzero((sites == code) & allowed)
        _check_enough(int(code), len(inside), len(columns))
        result[columns] = inside[np.lexsort((scores[inside], np.isin(inside, chosen)))][: len(columns)]
    return result


def _stand_ins(
    units: IntArray, candidates: IntArray, values: FloatArray, n_sets: int, neighbours: int, rng: np.random.Generator
) -> IntArray:
    """Rows of stand-ins of `units`, shape (n_sets, len(units)), from the `candidates` of their site."""
    if values.shape[1] == 0:
        return np.stack([rng.permutation(candidates)[: len(units)] for _ in range(n_sets)])
    if values.shape[1] == 1:
        column = values[:, 0]
        ordered = candidates[np.argsort(column[candidates], kind="stable")]
        # Position in the pool at which the unit would stand; half a step for ties keeps it central among equals.
        places = (
            np.searchsorted(column[ordered], column[units], side="left")
            + np.searchsorted(column[ordered], column[units], side="right")
            - 1
        ) / 2
        return np.stack([ordered[_draw(places, len(ordered), neighbours, rng)] for _ in range(n_sets)])
    from scipy.stats import rankdata  # slow to import, and only needed here

    members = np.union1d(units, candidates)
    ranks = rankdata(values[members], axis=0)
    of_units, of_candidates = ranks[np.searchsorted(members, units)], ranks[np.searchsorted(members, candidates)]
    distances = np.linalg.norm(of_units[:, None] - of_candidates[None], axis=2)
    return np.stack([candidates[_draw_near(distances, neighbours, rng)] for _ in range(n_sets)])


def _draw(places: FloatArray, pool_size: int, neighbours: int, rng: np.random.Generator) -> IntArray:
    """Positions in the sorted pool, one for each place, without replacement."""
    left = np.arange(pool_size)
    result = np.empty(len(places), dtype=np.int64)
    for which in rng.permutation(len(places)):
        width = min(neighbours, len(left))
        near = np.argpartition(np.abs(left - places[which]), width - 1)[:width]
        pick = near[rng.integers(width)]
        result[which] = left[pick]
        left = np.delete(left, pick)
    return result


def _draw_near(distances: FloatArray, neighbours: int, rng: np.random.Generator) -> IntArray:
    """Columns of `distances`, one for each row, without replacement."""
    left = np.arange(distances.shape[1])
    # Less than any two distances of half ranks differ by: breaks ties at random, anew for each set.
    jitter = rng.random(len(left)) * 1e-7
    result = np.empty(len(distances), dtype=np.int64)
    for which in rng.permutation(len(distances)):
        width = min(neighbours, len(left))
        near = np.argpartition(distances[which, left] + jitter[left], width - 1)[:width]
        pick = near[rng.integers(width)]
        result[which] = left[pick]
        left = np.delete(left, pick)
    return result


def _standardised_differences(
    sets: IntArray, chosen: IntArray, values: FloatArray, among: NDArray[np.bool_]
) -> tuple[float, ...]:
    result = []
    for column in values.T:
        spread = float(column[among].std())
        difference = float(column[sets].mean() - column[chosen].mean())
        result.append(difference / spread if spread > 0 else 0.0)
    return tuple(result)


def _distinct(sets: IntArray, n_units: int) -> float:
    n_sets, size = sets.shape
    if n_sets < 2:
        return 1.0
    times = np.bincount(sets.ravel(), minlength=n_units).astype(np.float64)
    shared = float((times * (times - 1)).sum() / (n_sets * (n_sets - 1) * size))
    return 1.0 - shared


def _check_enough(site: int, there: int, wanted: int) -> None:
    if there < wanted:
        raise DataError(
            f"Site {site} has too few units to draw controls from.",
            wanted=f"at least {wanted} eligible units",
            got=str(there),
            fix="Select fewer units.",
        )


def _checked(
    selected: ArrayLike, site_codes: ArrayLike, covariate: ArrayLike | None, eligible: ArrayLike
) -> tuple[IntArray, IntArray, FloatArray, NDArray[np.bool_]]:
    chosen, sites, allowed = np.asarray(selected), np.asarray(site_codes), np.asarray(eligible, dtype=bool)
    values = np.empty((len(sites), 0)) if covariate is None else np.asarray(covariate, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if chosen.ndim != 1 or len(chosen) == 0:
        raise DataError("No units are selected.", wanted="at least one unit")
    if values.ndim != 2 or not len(sites) == len(values) == len(allowed):
        raise DataError(
            "Site codes, covariate and eligibility do not list the same units.",
            wanted="site codes (U,), covariate (U,) or (U, k), eligibility (U,)",
            got=f"{sites.shape}, {values.shape} and {allowed.shape}",
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
