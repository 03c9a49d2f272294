"""How alike do columns rank the units of a layer? Rank correlation matrices, their resampling, agreement of metrics."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.causal.pooling import fisher_interval
from auditor.errors import DataError, OptionError
from auditor.stats import check_confidence

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]

RANK_BLOCK = 1 << 21  # numbers of a block of resamples: 16 MiB
# A correlation of fewer units says nothing: its 95 % interval spans more than 1.3 of the 2 there are.
FEWEST_UNITS = 8


def metric_agreement(
    scores: pd.DataFrame,
    site_codes: ArrayLike,
    *,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean over layers of the rank correlation between metrics within the layer.

    Parameters
    ----------
    scores : DataFrame, shape (U, M)
        One row per unit, one column per metric; a unit with a missing one is left out of that metric's pairs.
    site_codes : array_like of int, shape (U,)
    n_boot : int
        Resamples of the units, within layers.
    confidence : float
    seed : int

    Returns
    -------
    DataFrame
        One row per pair of metrics, in the order of the columns: `first`, `second`, `rho` (plain mean of Spearman's
        correlation over layers), `low`, `high`, `n_layers`. The interval is of these layers: Fisher's z of `rho`, plus
        and minus a normal quantile of its standard deviation over resamples. Layers where fewer than 8 units have both
        metrics, or one is constant, are left out; NaN where none remains.

    Raises
    ------
    DataError
        If the lengths differ.
    OptionError
        If `n_boot` is below 2 or `confidence` not within (0, 1).
    """
    check_confidence(confidence)
    if n_boot < 2:
        raise OptionError("An interval needs resamples.", wanted="n_boot of 2 or more", got=repr(n_boot))
    values, codes = scores.to_numpy(dtype=np.float64), np.asarray(site_codes)
    if codes.shape != values.shape[:1]:
        raise DataError("Scores and layers do not list the same units.", got=f"{len(values)} and {codes.shape}")
    pairs = list(combinations(range(values.shape[1]), 2))
    total, drawn = np.zeros(len(pairs)), np.zeros((len(pairs), n_boot))
    layers, units = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs), dtype=np.int64)
    for code in np.unique(codes):
        rng = np.random.default_rng([seed, 12, int(code)])
        layer = values[codes == code]
        for rows, which in _by_units(np.isfinite(layer), pairs):
            if len(rows) < FEWEST_UNITS:
                continue
            columns = np.unique([pairs[i] for i in which])
            used = layer[np.ix_(rows, columns)]
            observed, draws = rank_correlations(used, np.ones((1, len(rows))))[0], unit_draws(used, n_boot, rng)
            for i in which:
                a, b = np.searchsorted(columns, pairs[i])
                if np.isfinite(observed[a, b]):
                    total[i] += observed[a, b]
                    drawn[i] += draws[:, a, b]
                    layers[i] += 1
                    units[i] += len(rows)
    import pandas as pd  # slow to import, and only needed here

    rows_out = []
    for i, (a, b) in enumerate(pairs):
        rho = total[i] / layers[i] if layers[i] else np.nan
        ends = fisher_interval(rho, drawn[i] / max(layers[i], 1), int(units[i]), confidence, df=None)
        names = {"first": scores.columns[a], "second": scores.columns[b]}
        rows_out.append(names | {"rho": rho, "low": ends[0], "high": ends[1], "n_layers": int(layers[i])})
    return pd.DataFrame(rows_out, columns=["first", "second", "rho", "low", "high", "n_layers"])


def _by_units(defined: NDArray[np.bool_], pairs: list[tuple[int, int]]) -> list[tuple[NDArray[np.int64], list[int]]]:
    """Pairs of metrics that are both defined on the same units, with those units: they share ranks and resamples."""
    groups: dict[bytes, list[int]] = {}
    for i, (a, b) in enumerate(pairs):
        groups.setdefault((defined[:, a] & defined[:, b]).tobytes(), []).append(i)
    return [(np.flatnonzero(np.frombuffer(mask, dtype=bool)), which) for mask, which in groups.items()]


def unit_draws(values: FloatArray, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """Rank correlation matrices of resampled units.

    Parameters
    ----------
    values : ndarray of float64, shape (n, m)
    n_boot : int
    rng : Generator

    Returns
    -------
    ndarray of float64, shape (n_boot, m, m)
        NaN where a resample leaves a column constant.
    """
    size = max(RANK_BLOCK // max(values.size, 1), 1)
    blocks = [min(size, n_boot - start) for start in range(0, n_boot, size)]
    return np.concatenate([rank_correlations(values, resample_counts(len(values), block, rng)) for block in blocks])


def resample_counts(
    n: int, n_boot: int, rng: np.random.Generator, labels: NDArray[np.generic] | None = None
) -> NDArray[np.float32]:
    """How often each of `n` is drawn in each resample with replacement, within classes where there are labels.

    Returns
    -------
    ndarray of float32, shape (n_boot, n)
    """
    counts = np.empty((n_boot, n), dtype=np.float32)
    classes = np.zeros(n, dtype=np.int64) if labels is None else labels
    for label in np.unique(classes):
        columns = np.flatnonzero(classes == label)
        size = len(columns)
        drawn = rng.integers(size, size=(n_boot, size)) + np.arange(n_boot)[:, None] * size
        counts[:, columns] = np.bincount(drawn.ravel(), minlength=n_boot * size).reshape(n_boot, size)
    return counts


def rank_correlations(values: FloatArray, counts: NDArray[np.floating]) -> FloatArray:
    """Spearman correlations of the columns of a sample in which row i occurs ``counts[b, i]`` times.

    No resample is sorted: a row's average rank follows from how many rows drawn are smaller or equal.

    Parameters
    ----------
    values : ndarray of float64, shape (n, m)
    counts : ndarray, shape (B, n)
        Each row adds up to the same number.

    Returns
    -------
    ndarray of float64, shape (B, m, m)
    """
    weights = np.asarray(counts, dtype=np.float64)
    total = weights[:1].sum()
    ranks = np.stack([_average_ranks(column, weights) for column in values.T], axis=1) - (total + 1) / 2
    products = (ranks * weights[:, None]) @ ranks.transpose(0, 2, 1)
    spread = np.sqrt(np.einsum("bmm->bm", products))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatArray = products / (spread[:, :, None] * spread[:, None, :])
    return np.clip(found, -1.0, 1.0)


def _average_ranks(column: FloatArray, weights: FloatArray) -> FloatArray:
    """Rank of each row among those drawn, shape (B, n)."""
    distinct, group = np.unique(column, return_inverse=True)
    if len(distinct) == len(column):
        order = np.argsort(column)
        sizes = weights[:, order]
    else:
        order = np.argsort(column, kind="stable")
        sizes = np.add.reduceat(weights[:, order], np.searchsorted(column[order], distinct), axis=1)
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    found: FloatArray = ranks[:, group]
    return found
