"""Robustness over the networks of a sweep: by alpha, against selectivity, and at matched clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from auditor.api.robustness_networks import Network
from auditor.causal.correlation import partial_correlation
from auditor.errors import DataError
from auditor.stats.intervals import Interval, bh_qvalues, paired_mean_interval, spearman_interval

Floats = NDArray[np.float64]
PerImage = Mapping[str, Mapping[str, Floats]]
"""By network and measure, one value per image."""
CLOSE = 0.01
"""Networks whose clean accuracies differ by no more are matched."""


def alpha_table(networks: Sequence[Network], values: PerImage, confidence: float) -> pd.DataFrame:
    """Each measure by alpha: mean over seeds, and its paired difference from the networks of alpha 0.

    Intervals are Student's t over seeds. Where there is one seed, the mean has none, and the difference has one over
    images, which says nothing of other trainings; the column ``over`` tells. q values are Benjamini-Hochberg's over
    the alphas of one measure.
    """
    by_place = {(one.alpha, one.seed): one.name for one in networks}
    rows: list[dict[str, Any]] = []
    for measure in _measures(values):
        for alpha in sorted({one.alpha for one in networks if one.alpha is not None}):
            seeds = [one.seed for one in networks if one.alpha == alpha]
            mean = paired_mean_interval([values[by_place[alpha, s]][measure].mean() for s in seeds], confidence)
            row = {"measure": measure, "alpha": alpha, "n_seeds": len(seeds), **_named("mean", mean)}
            if measure != "jacobian":  # an accuracy
                row["mean_low"], row["mean_high"] = np.clip([row["mean_low"], row["mean_high"]], 0, 1).tolist()
            pairs = [
                values[by_place[alpha, s]][measure] - values[by_place[0.0, s]][measure]
                for s in seeds
                if alpha != 0 and (0.0, s) in by_place
            ]
            rows.append(row | _difference(pairs, confidence))
    table = pd.DataFrame(rows)
    if not table.empty:
        table["q"] = table.groupby("measure", sort=False)["p"].transform(lambda p: bh_qvalues(p.to_numpy()))
    return table


def _difference(pairs: Sequence[Floats], confidence: float) -> dict[str, Any]:
    over = "seeds" if len(pairs) > 1 else "images" if pairs else ""
    sample = np.array([pair.mean() for pair in pairs]) if len(pairs) > 1 else pairs[0] if pairs else np.empty(0)
    found = paired_mean_interval(sample, confidence)
    p = np.nan
    if len(sample) > 1 and (spread := sample.std(ddof=1)) > 0:
        p = float(2 * stdtr(len(sample) - 1, -abs(sample.mean()) / (spread / np.sqrt(len(sample)))))
    return {"n_pairs": len(pairs), "over": over, **_named("difference", found), "p": p}


def association_table(networks: Sequence[Network], values: PerImage, confidence: float) -> pd.DataFrame:
    """Each measure against mean selectivity, over networks: Spearman, plain and with clean accuracy held fixed.

    Networks are the sample. They share their data (and all start from one network, where they are fine-tuned), and
    their alphas were chosen: the intervals hold for networks like these, not for data of another kind.
    """
    index = np.array([one.mean_si[0] for one in networks])
    names = [one.name for one in networks]
    rows = []
    for measure in _measures(values):
        # Rounded, for sums in another order would break ties.
        y = np.array([values[name][measure].mean() for name in names]).round(12)
        clean = np.array([values[name]["clean"].mean() for name in names])
        defined = np.isfinite(index)
        x, y, clean = index[defined], y[defined], clean[defined]
        row: dict[str, Any] = {"measure": measure, "n_networks": len(x)}
        row |= _named("rho", _spearman(x, y, confidence))
        if measure != "clean":
            row |= _named("partial_rho", partial_spearman(x, y, clean, confidence))
        rows.append(row)
    return pd.DataFrame(rows)


def _spearman(x: Floats, y: Floats, confidence: float) -> Interval:
    try:
        return spearman_interval(x, y, confidence)
    except DataError:  # constant, or a single network
        return Interval(*[np.asarray(np.nan)] * 3)


def partial_spearman(x: Floats, y: Floats, given: Floats, confidence: float = 0.95) -> Interval:
    """Spearman's partial correlation with one variable held fixed.

    The interval is that of Bonett & Wright (2000) on Fisher's z with one degree of freedom less,
    ``sqrt((1 + rho^2 / 2) / (n - 4))``; its ends are NaN where n < 5.
    """
    from scipy.stats import rankdata  # slow to import, and only needed here

    n = len(x)
    undefined = Interval(*[np.asarray(np.nan)] * 3)
    if n < 4 or min(np.ptp(x), np.ptp(y)) == 0:
        return undefined
    if np.ptp(given) == 0:  # holds itself fixed
        return spearman_interval(x, y, confidence)
    ranks = np.stack([rankdata(values) for values in (x, y, given)])
    rho = float(partial_correlation(np.asarray(np.corrcoef(ranks))[None])[0])
    if np.isnan(rho):
        return undefined
    if n < 5:
        return Interval(np.asarray(rho), np.asarray(np.nan), np.asarray(np.nan))
    half = float(ndtri((1 + confidence) / 2)) * np.sqrt((1 + rho**2 / 2) / (n - 4))
    centre = np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15))
    return Interval(np.asarray(rho), *(np.asarray(np.tanh(centre + sign * half)) for sign in (-1, 1)))


def matched_table(networks: Sequence[Network], values: PerImage, confidence: float) -> pd.DataFrame:
    """Each measure by alpha, against the network of alpha 0 whose clean accuracy is nearest, within one point.

    A control may serve several networks, whose differences then hang together: ``n_controls`` of the pairs are of
    different controls. Where none is near enough, the network is left out and counted.
    """
    clean = {one.name: float(values[one.name]["clean"].mean()) for one in networks}
    controls = [one.name for one in networks if one.alpha == 0]
    rows = []
    for alpha in sorted({one.alpha for one in networks if one.alpha not in (None, 0.0)}):
        mine = [one.name for one in networks if one.alpha == alpha]
        pairs = [
            (name, nearest)
            for name in mine
            if controls
            and abs(clean[nearest := min(controls, key=lambda c: abs(clean[c] - clean[name]))] - clean[name])
            <= CLOSE + 1e-12
        ]
        gap = float(np.mean([clean[a] - clean[b] for a, b in pairs])) if pairs else np.nan
        for measure in _measures(values):
            if measure == "clean":
                continue
            apart = [values[a][measure] - values[b][measure] for a, b in pairs]
            rows.append(
                {
                    "measure": measure,
                    "alpha": alpha,
                    "n_networks": len(mine),
                    "unmatched": len(mine) - len(pairs),
                    "n_controls": len({control for _, control in pairs}),
                    "clean_gap": gap,
                    **_difference(apart, confidence),
                }
            )
    return pd.DataFrame(rows)


def _measures(values: PerImage) -> list[str]:
    return list(next(iter(values.values())))


def _named(name: str, found: Interval) -> dict[str, float]:
    return {name: float(found.estimate), f"{name}_low": float(found.low), f"{name}_high": float(found.high)}
