"""Accuracy against the number of units silenced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.stats.intervals import wilson

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """One order of silencing and where it is evaluated.

    Attributes
    ----------
    order : str
        ``selective first``, ``least selective first`` or ``random``.
    draw : int
        Number of the random draw; 0 for the fixed orders.
    ranking : ndarray of int
        Unit indices in the order in which they are silenced.
    """

    order: str
    draw: int
    ranking: Ints


def curve_counts(n_units: int, points: int) -> list[int]:
    """Numbers of silenced units, spaced evenly in their logarithm from 1 to all of them."""
    return [int(c) for c in np.unique(np.geomspace(1, n_units, points).round().astype(int))]


def curve_orders(
    score: NDArray[np.float64], site_codes: Ints, *, n_random: int, within_layers: bool, seed: int
) -> list[Curve]:
    """Rank units by `score`: descending, ascending, and `n_random` random orders.

    Parameters
    ----------
    score : ndarray, shape (U,)
        Higher is more selective; undefined (NaN) units rank last in both fixed orders.
    site_codes : ndarray of int, shape (U,)
        Site of each unit.
    n_random : int
        Number of random orders.
    within_layers : bool
        Rank units among those of their own site and silence the same share of every site at each point. Selectivity
        differs between layers far more than within them, so a ranking over the whole network compares late layers
        with early ones (Amjad et al. 2018).
    seed : int
        Of the random orders.
    """
    sites = site_codes if within_layers else np.zeros_like(site_codes)
    rng = np.random.default_rng([seed, 30])
    last = np.where(np.isnan(score), np.inf, score)
    orders = [
        Curve("selective first", 0, _in_step(np.where(np.isnan(score), np.inf, -score), sites)),
        Curve("least selective first", 0, _in_step(last, sites)),
    ]
    orders += [Curve("random", draw, _in_step(rng.random(len(score)), sites)) for draw in range(n_random)]
    return orders


def _in_step(key: NDArray[np.float64], sites: Ints) -> Ints:
    """Order units by the share of their own site that comes before them under ascending `key`."""
    share = np.empty(len(key))
    for code in np.unique(sites):
        members = np.flatnonzero(sites == code)
        share[members[np.argsort(key[members], kind="stable")]] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(share, kind="stable")


def curve_table(
    intact_correct: int,
    points: pd.DataFrame,
    n_images: int,
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Accuracy of each order at each number of silenced units.

    Parameters
    ----------
    intact_correct : int
        Images that the untouched network classifies correctly.
    points : pandas.DataFrame
        Columns ``order``, ``draw``, ``n_silenced``, ``correct`` (number of correct images).
    n_images : int
        Number of images.
    confidence : float
        Of the Wilson intervals.

    Returns
    -------
    pandas.DataFrame
        ``order``, ``n_silenced``, ``accuracy``, ``low``, ``high``, ``draws``. For the fixed orders the interval is
        Wilson's over images; for the random order the accuracy is the mean over draws and the interval runs from the
        lowest to the highest draw.
    """
    share, low, high = (float(v) for v in wilson(intact_correct, n_images, confidence))
    rows: list[tuple[object, ...]] = [(order, 0, share, low, high, 1) for order in points["order"].unique()]
    for (order, count), group in points.groupby(["order", "n_silenced"], sort=False):
        accuracy = group["correct"] / n_images
        if len(group) == 1:
            _, low, high = (float(v) for v in wilson(int(group["correct"].iloc[0]), n_images, confidence))
        else:
            low, high = accuracy.min(), accuracy.max()
        rows.append((order, count, accuracy.mean(), low, high, len(group)))
    table = pd.DataFrame(rows, columns=["order", "n_silenced", "accuracy", "low", "high", "draws"])
    rank = {order: i for i, order in enumerate(points["order"].unique())}
    return table.sort_values(
        ["order", "n_silenced"], key=lambda c: c.map(rank) if c.name == "order" else c
    ).reset_index(drop=True)
