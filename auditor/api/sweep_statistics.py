"""What a sweep says: every alpha against alpha 0 by the rules of the verdict, and where selectivity is halved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.compare import compare, correct_images
from auditor.api.sweep_tables import LEVELS, Member, level
from auditor.causal import PairedTest, harm, non_inferiority
from auditor.causal.halving import Halving, halving
from auditor.errors import AuditorError
from auditor.stats.intervals import bh_qvalues, paired_mean_interval

LEVEL = 0.05


def alphas_table(
    members: Sequence[Member], networks: pd.DataFrame, *, margin: float, confidence: float
) -> pd.DataFrame:
    """One row per alpha: means over seeds, and the paired difference from alpha 0.

    Parameters
    ----------
    members : sequence of Member
    networks : DataFrame
        Their table, see :func:`auditor.api.sweep_tables.networks_table`.
    margin : float
        Loss of accuracy that still counts as no cost, for negative alphas; positive ones are tested for any loss.
    confidence : float

    Returns
    -------
    DataFrame
        ``over`` says whether the intervals of ``accuracy``, ``mean_index`` and ``excess`` are over seeds or, with one
        network, over images; ``change_over`` says it of the differences, which are paired by seed. ``p`` is one-sided,
        of the ``claim``; ``q`` is corrected over the alphas (Benjamini & Hochberg 1995), and ``outcome`` is the
        verdict's rule with q in the place of p.
    """
    rows, tests = [], []
    for alpha, mine in networks.groupby("alpha", sort=True):
        row: dict[str, Any] = {"alpha": alpha, "n_seeds": len(mine)}
        for name in LEVELS:
            ends = (f"{name}_low", f"{name}_high")
            row[name], row[ends[0]], row[ends[1]], row["over"] = level(mine, name, ends, confidence)
        row |= {"null_mean": mine["null_mean"].mean(), "dead": mine["dead"].mean(), "units": mine["units"].iloc[0]}
        found, test = _against_control(members, networks, float(alpha), margin, confidence)  # type: ignore[arg-type]
        rows.append(row | found)
        tests.append(test)
    if not rows:
        return pd.DataFrame(columns=["alpha", "n_seeds"])
    table = pd.DataFrame(rows)
    table["q"] = bh_qvalues([np.nan if test is None else test.p for test in tests])
    table["outcome"] = [
        "" if test is None else str(replace(test, p=q).outcome) for test, q in zip(tests, table["q"], strict=True)
    ]
    return table


def _against_control(
    members: Sequence[Member], networks: pd.DataFrame, alpha: float, margin: float, confidence: float
) -> tuple[dict[str, Any], PairedTest | None]:
    """Paired differences of one alpha from alpha 0, and the test of its claim; none for alpha 0 itself."""
    nothing = {"n_pairs": 0, "change_over": "", "claim": "", "margin": np.nan, "p": np.nan}
    changes = [f"{name}_change{end}" for name in LEVELS for end in ("", "_low", "_high")]
    mine, control = ({m.seed: m for m in members if m.alpha == one} for one in (alpha, 0.0))
    seeds = sorted(set(mine) & set(control))
    if alpha == 0 or not seeds:
        return nothing | dict.fromkeys(changes, np.nan), None
    by_seed = [networks[networks["alpha"] == one].set_index("seed").loc[seeds] for one in (alpha, 0.0)]
    found: dict[str, Any] = nothing | {"n_pairs": len(seeds)}
    for name in LEVELS:
        treated, without = (table[name].to_numpy(dtype=np.float64) for table in by_seed)
        ends = (f"{name}_change", f"{name}_change_low", f"{name}_change_high")
        found |= dict(zip(ends, map(float, paired_mean_interval(treated - without, confidence)), strict=True))
    images = None
    if len(seeds) == 1:
        runs = control[seeds[0]].run, mine[seeds[0]].run
        images = _images(mine[seeds[0]], control[seeds[0]])
        change = compare(*runs).overall.iloc[1]
        found |= {f"mean_index_change{end}": float(change[f"index_change{end}"]) for end in ("", "_low", "_high")}
    accuracy = [table["accuracy"].to_numpy(dtype=np.float64) for table in by_seed]
    if not np.isfinite(accuracy).all():
        return found, None
    judge = harm if alpha > 0 else non_inferiority
    test = judge(*accuracy, margin=0.0 if alpha > 0 else margin, confidence=confidence, alpha=LEVEL, images=images)
    found |= {"change_over": test.over, "claim": test.claim, "margin": test.margin, "p": test.p}
    ends = ("accuracy_change", "accuracy_change_low", "accuracy_change_high")
    return found | dict(zip(ends, (test.difference, test.low, test.high), strict=True)), test


def _images(treated: Member, control: Member) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Which images each network has right; None where the runs keep no outputs."""
    try:
        found = correct_images(treated.run), correct_images(control.run)
    except (AuditorError, OSError):
        return None
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def halvings(networks: pd.DataFrame, *, confidence: float) -> dict[str, Halving]:
    """Where the mean index, and where its excess over shuffled labels, is halved; by column."""
    alphas = np.unique(np.append(networks["alpha"].to_numpy(dtype=np.float64), 0.0))

    def wide(column: str) -> pd.DataFrame:
        return networks.pivot(index="seed", columns="alpha", values=column).reindex(columns=alphas)

    return {name: halving(alphas, wide(name), wide("accuracy"), confidence=confidence) for name in LEVELS[1:]}
