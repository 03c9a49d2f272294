"""Which units an audit silences together: the selective ones, their controls, in nested sets, drawn beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.audit_settings import AuditSettings
from auditor.causal import MatchedSets, least_selective_set, matched_sets
from auditor.errors import OptionError

Rows = NDArray[np.int64]
_SEED_KEEP = 1_000_003
"""Added to the seed of the sets that are kept, so that they are not the first columns of those silenced."""


@dataclass(frozen=True)
class NestedSets:
    """Sets of rising size; every set holds the smaller ones of its row.

    Attributes
    ----------
    counts : tuple of int
        Sizes.
    chosen : ndarray of int64, shape (K,)
        Rows of the unit table, most selective first; the first ``counts[i]`` are one set.
    matched : MatchedSets
        Random stand-ins, column by column.
    least : ndarray of int64, shape (K,)
        The least selective units of the same layers, column by column.
    kept : bool
        Whether these units are kept and all others silenced.
    n_units : int
        Of the network.
    """

    counts: tuple[int, ...]
    chosen: Rows
    matched: MatchedSets
    least: Rows
    kept: bool
    n_units: int

    def groups(self) -> list[Rows]:
        """Rows that are silenced: by order (chosen, least, then each draw) and within an order by size."""
        orders = [self.chosen, self.least, *self.matched.sets]
        return [self._silenced(order[:count]) for order in orders for count in self.counts]

    def split(self, effects: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Effects of :meth:`groups`, shape (G, N), as chosen (P, N), least (P, N) and random (D, P, N)."""
        by_order = effects.reshape(-1, len(self.counts), effects.shape[-1])
        return by_order[0], by_order[1], by_order[2:]

    def _silenced(self, rows: Rows) -> Rows:
        return np.setdiff1d(np.arange(self.n_units), rows) if self.kept else rows.astype(np.int64)


def shares_within(score: NDArray[np.float64], codes: NDArray[np.int64], *, over: str) -> NDArray[np.float64]:
    """Share of the units that rank before each one, and half of itself, by falling score; infinite without a score.

    Within its layer, or over the network.
    """
    found = np.full(len(score), np.inf)
    groups: Sequence[NDArray[np.bool_]] = (
        [codes == code for code in np.unique(codes)] if over == "layers" else [np.ones(len(codes), dtype=bool)]
    )
    for members in groups:
        scored = np.flatnonzero(members & ~np.isnan(score))
        order = scored[np.argsort(-score[scored], kind="stable")]
        found[order] = (np.arange(len(order)) + 0.5) / members.sum()
    return found


def nested_sets(
    units: pd.DataFrame,
    candidates: NDArray[np.float64],
    score: NDArray[np.float64],
    covariates: NDArray[np.float64],
    settings: AuditSettings,
    *,
    kept: bool = False,
) -> NestedSets:
    """Choose the units of the largest share and draw their controls.

    Parameters
    ----------
    units : pandas.DataFrame
        A run's unit table.
    candidates : ndarray, shape (U,)
        Selectivity; NaN for units that may not be chosen.
    score : ndarray, shape (U,)
        Selectivity of all units; the lowest are the least selective.
    covariates : ndarray, shape (U, k)
        That the random sets are matched on.
    settings : AuditSettings
    kept : bool
        Choose the units that are kept.

    Raises
    ------
    OptionError
        If a share comes to no unit, or to more than may be chosen.
    """
    codes = pd.factorize(units["site"])[0].astype(np.int64)
    shares = settings.keep_shares if kept else settings.shares
    place = shares_within(candidates, codes, over=settings.select_over)
    order = np.argsort(place, kind="stable")
    ranked = place[order]
    counts = tuple(sorted({int(np.searchsorted(ranked, share, side="right")) for share in shares} - {0}))
    wanted = max(shares)
    if not counts:
        raise OptionError(
            f"A share of {wanted:.1%} of the units is not a single one.",
            wanted=f"at least {1 / max(1, np.bincount(codes).max()):.1%}",
            fix="Ask for larger shares.",
        )
    if counts[-1] < 0.5 * wanted * len(units):
        raise OptionError(
            f"Only {int(np.isfinite(place).sum())} of {len(units)} units may be chosen: the others "
            + ("have no selectivity." if kept else "are not significantly selective."),
            wanted=f"{wanted:.0%} of the units",
            fix="Ask for smaller shares to keep, or leave out sufficiency."
            if kept
            else "Ask for smaller shares, or profile more images so that more units can be told from chance.",
        )
    chosen = order[: counts[-1]].astype(np.int64)
    alive = (~units["dead"] & units["mean"].notna()).to_numpy() & np.isfinite(covariates).all(1)
    matched = matched_sets(
        chosen, codes, np.nan_to_num(covariates[:, 0] if covariates.shape[1] == 1 else covariates), alive,
        n_sets=settings.keep_draws if kept else settings.draws,
        seed=settings.seed + (_SEED_KEEP if kept else 0),
        neighbours=settings.neighbours,
        pool="all" if kept else settings.pool,  # type: ignore[arg-type]
    )  # fmt: skip
    least = least_selective_set(chosen, codes, score, alive & ~np.isnan(score))
    return NestedSets(counts, chosen, matched, least, kept, len(units))
