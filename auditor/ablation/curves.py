"""Accuracy against the number of units silenced, and the area under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError
from auditor.stats.intervals import bootstrap_interval, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Kind = Literal["silence", "keep"]

RANDOM = "random"
BLOCK = 2**22


@dataclass(frozen=True)
class Curve:
    """One order of silencing and where it is evaluated.

    Attributes
    ----------
    order : str
        Name of the order, such as ``selective first``, ``least selective first`` or ``random``.
    draw : int
        Number of the random draw; 0 for the fixed orders.
    ranking : ndarray of int
        Unit indices in the order in which they are silenced, or kept.
    kind : {"silence", "keep"}
        Whether the first of the ranking are silenced, or everything but them.
    """

    order: str
    draw: int
    ranking: Ints
    kind: Kind = "silence"

    def silenced(self, count: int) -> Ints:
        """Units silenced where `count` units are silenced (kind "silence") or kept (kind "keep")."""
        if not 0 <= count <= len(self.ranking):
            raise OptionError("There is no such point.", wanted=f"0 to {len(self.ranking)} units", got=str(count))
        return self.ranking[:count] if self.kind == "silence" else self.ranking[count:]


def curve_counts(n_units: int, points: int, *, even: int = 0) -> list[int]:
    """Numbers of silenced (or kept) units: `points` of them spaced evenly in their logarithm from 1 to all.

    A further `even` are spaced evenly in the number itself. An area under the curve needs them: of 4,000 units, the
    last two of 8 points alone span 70 % of the axis.
    """
    spaced = np.concatenate([np.geomspace(1, n_units, points), np.linspace(0, n_units, even + 1)[1:]])
    return [int(c) for c in np.unique(np.maximum(spaced.round(), 1).astype(int))]


def curve_orders(
    score: Floats,
    site_codes: Ints,
    *,
    n_random: int,
    within_layers: bool,
    seed: int,
    label: str = "selective first",
    kind: Kind = "silence",
) -> list[Curve]:
    """Rank units by `score`: descending, ascending, and `n_random` random orders.

    Parameters
    ----------
    score : ndarray, shape (U,)
        Selectivity, importance or any other quantity; undefined (NaN) units rank last in both fixed orders.
    site_codes : ndarray of int, shape (U,)
        Site of each unit.
    n_random : int
        Number of random orders. They depend on nothing but `seed`, the sites and `within_layers`, so rankings by
        several quantities, of both kinds, share them.
    within_layers : bool
        Rank units among those of their own site and silence the same share of every site at each point. Selectivity
        differs between layers far more than within them, so a ranking over the whole network compares late layers
        with early ones (Amjad et al. 2018).
    seed : int
        Of the random orders.
    label : str
        Name of the descending order, such as ``most important first``. The ascending one is called ``least ...``.
    kind : {"silence", "keep"}
        Of every curve.
    """
    sites = site_codes if within_layers else np.zeros_like(site_codes)
    rng = np.random.default_rng([seed, 30])
    first, last = (np.where(np.isnan(score), np.inf, key) for key in (-score, score))
    return [
        Curve(label, 0, _in_step(first, sites), kind),
        Curve(f"least {label.removeprefix('most ')}", 0, _in_step(last, sites), kind),
        *(Curve(RANDOM, draw, _in_step(rng.random(len(score)), sites), kind) for draw in range(n_random)),
    ]


def _in_step(key: NDArray[np.float64], sites: Ints) -> Ints:
    """Order units by the share of their own site that comes before them under ascending `key`."""
    share = np.empty(len(key))
    for code in np.unique(sites):
        members = np.flatnonzero(sites == code)
        share[members[np.argsort(key[members], kind="stable")]] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(share, kind="stable")


def curve_table(intact_correct: int, points: pd.DataFrame, n_images: int, *, confidence: float = 0.95) -> pd.DataFrame:
    """Accuracy of each order at each number of silenced units.

    Parameters
    ----------
    intact_correct : int
        Images that the untouched network classifies correctly.
    points : pandas.DataFrame
        Columns ``order``, ``draw``, ``n_silenced``, ``correct`` (number of correct images) and, unless all curves are
        of kind "silence", ``kind``. ``n_silenced`` counts silenced units for keep-only curves too.
    n_images : int
    confidence : float
        Of the Wilson intervals.

    Returns
    -------
    pandas.DataFrame
        ``order``, ``kind``, ``n_silenced``, ``accuracy``, ``low``, ``high``, ``draws``; the intact network is the row
        of each curve with nothing silenced. For the fixed orders the interval is Wilson's over images; for the random
        order the accuracy is the mean over draws and the interval runs from the lowest to the highest draw.
    """
    points = points.assign(kind=points.get("kind", "silence"))
    intact = tuple(float(v) for v in wilson(intact_correct, n_images, confidence))
    rows: list[tuple[object, ...]] = []
    for (kind, order), curve in points.groupby(["kind", "order"], sort=False):
        rows.append((order, kind, 0, *intact, 1))
        # A keep-only curve may end with all units kept, which is the intact network again.
        for count, group in curve[curve["n_silenced"] > 0].groupby("n_silenced"):
            accuracy = group["correct"] / n_images
            low, high = accuracy.min(), accuracy.max()
            if len(group) == 1:
                _, low, high = (float(v) for v in wilson(int(group["correct"].iloc[0]), n_images, confidence))
            rows.append((order, kind, count, accuracy.mean(), low, high, len(group)))
    return pd.DataFrame(rows, columns=["order", "kind", "n_silenced", "accuracy", "low", "high", "draws"])


def normalised_area(n_silenced: ArrayLike, accuracy: ArrayLike, *, n_units: int, chance: float) -> Floats:
    """Area under accuracy against the share of units silenced, from 0 (at chance) to 1 (intact) throughout.

    With A the trapezoid area over shares from 0 to 1, it is ``(A - chance) / (intact - chance)``. Over the share kept
    the area is the same, so keep-only curves are given by what they silence too. Below 0 is below chance.

    Parameters
    ----------
    n_silenced : array_like of int, shape (P,)
        Each number once, in any order, 0 and `n_units` among them.
    accuracy : array_like, shape (..., P)
        Shares of correct images; where nothing is silenced it is that of the intact network.
    n_units : int
    chance : float
        Accuracy of guessing.

    Returns
    -------
    ndarray, shape (...)
        NaN where the intact network is no better than chance.

    Raises
    ------
    DataError
        If an end of the curve is missing or a number repeats.
    """
    counts, values = np.asarray(n_silenced), np.asarray(accuracy, dtype=np.float64)
    order = np.argsort(counts)
    area = values[..., order] @ _trapezoid(counts[order], n_units)
    return _normalised(area, values[..., order[0]], chance)


def curve_areas(
    points: pd.DataFrame,
    correct: NDArray[np.bool_] | Floats,
    intact_correct: NDArray[np.bool_] | Floats,
    *,
    n_units: int,
    chance: float,
    confidence: float = 0.95,
    bootstraps: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Normalised area under each curve, and how far each fixed order's lies from that of random orders.

    Parameters
    ----------
    points : pandas.DataFrame
        One row per point: ``order``, ``draw``, ``n_silenced`` and, unless all curves are of kind "silence", ``kind``.
        A curve without the point at which everything is silenced takes that of another: it is the same network.
    correct : ndarray of bool, shape (n_points, n_images)
        Which images are classified correctly at each point. Where only accuracies are known they can stand in with
        shape (n_points, 1), as one image; intervals over images are NaN then.
    intact_correct : ndarray of bool, shape (n_images,)
        The same for the untouched network.
    n_units, chance
        See :func:`normalised_area`.
    confidence : float
    bootstraps : int
        Resamplings of the images, the same for all curves and the intact network.
    seed : int

    Returns
    -------
    pandas.DataFrame
        ``order``, ``kind``, ``area`` (:func:`normalised_area`), ``low``, ``high``, ``draws``, and ``difference``,
        ``difference_low``, ``difference_high``: the area minus the mean of the random orders of the same kind. The
        interval of an order with one draw is the bias-corrected bootstrap's over images. The area of the random order
        is the mean over draws and its interval runs from the lowest to the highest draw. The interval of a difference
        is over images (paired) and over random orders: each bootstrap replicate is moved by a t deviate with the
        standard error of the mean over draws, so it needs two draws.

    Raises
    ------
    DataError
        If shapes differ, or everything is silenced at no point.
    """
    points = points.assign(kind=points.get("kind", "silence")).reset_index(drop=True)
    per_image, groups = _image_areas(points, correct, intact_correct, n_units)
    rng = np.random.default_rng([seed, 31])
    means = _resampled(np.vstack([per_image, intact_correct]), bootstraps, rng)
    areas = _normalised(per_image.mean(1), np.mean(intact_correct), chance)
    replicates = _normalised(means[:, :-1], means[:, -1:], chance) * (1.0 if per_image.shape[1] > 1 else np.nan)
    found = []
    for (kind, order), curves in groups.items():
        area, gap = areas[curves].mean(), [np.nan] * 3
        low, high = areas[curves].min(), areas[curves].max()
        if len(curves) == 1:
            _, low, high = bootstrap_interval(replicates[:, curves[0]], area, confidence)
        random = groups.get((kind, RANDOM), [])
        if order != RANDOM and random:
            error = areas[random].std(ddof=1) / np.sqrt(len(random)) if len(random) > 1 else np.nan
            moved = rng.standard_t(max(len(random) - 1, 1), bootstraps) * error
            differences = replicates[:, curves].mean(1) - replicates[:, random].mean(1) + moved
            gap = [float(v) for v in bootstrap_interval(differences, area - areas[random].mean(), confidence)]
        found.append((order, kind, float(area), float(low), float(high), len(curves), *gap))
    names = ["area", "low", "high", "draws", "difference", "difference_low", "difference_high"]
    return pd.DataFrame(found, columns=["order", "kind", *names])


def _image_areas(
    points: pd.DataFrame, correct: NDArray[np.generic], intact: NDArray[np.generic], n_units: int
) -> tuple[Floats, dict[tuple[str, str], list[int]]]:
    """Area under each curve for each image alone, shape (curves, images); curves of each kind and order."""
    wanted = (len(points), intact.size)
    if intact.ndim != 1 or correct.shape != wanted:
        raise DataError("Points and images do not fit.", wanted=f"shape {wanted}", got=f"{correct.shape}")
    counts = points["n_silenced"].to_numpy()
    ends = np.flatnonzero(counts == n_units)[:1]
    areas: list[Floats] = []
    groups: dict[tuple[str, str], list[int]] = {}
    for (kind, order, _), curve in points.groupby(["kind", "order", "draw"], sort=False):
        rows = curve.index[curve["n_silenced"] > 0].to_numpy()
        rows = rows if n_units in counts[rows] else np.append(rows, ends)
        rows = rows[np.argsort(counts[rows])]
        weights = _trapezoid(np.append(0, counts[rows]), n_units)
        groups.setdefault((str(kind), str(order)), []).append(len(areas))
        areas.append(weights @ np.vstack([intact, correct[rows]]))
    return np.array(areas), groups


def _trapezoid(counts: NDArray[np.integer], n_units: int) -> Floats:
    """Weights of ascending points in the integral over the share from 0 to 1."""
    steps = np.diff(counts) / n_units
    if len(counts) < 2 or counts[0] != 0 or counts[-1] != n_units or not (steps > 0).all():
        raise DataError(
            "The area under a curve needs both its ends.",
            wanted=f"different numbers from 0 to {n_units}, both included",
            got=str(counts.tolist()),
            fix="Evaluate one curve with all units silenced.",
        )
    weights: Floats = (np.append(0.0, steps) + np.append(steps, 0.0)) / 2
    return weights


def _normalised(area: Floats, intact: Floats | np.floating, chance: float) -> Floats:
    above = np.asarray(intact - chance)
    share: Floats = np.where(above > 0, (area - chance) / np.where(above > 0, above, 1.0), np.nan)
    return share


def _resampled(values: Floats, times: int, rng: np.random.Generator) -> Floats:
    """Means of each row of `values`, shape (V, N), over N columns drawn with replacement; shape (times, V)."""
    n = values.shape[1]
    found = []
    for start in range(0, times, max(1, BLOCK // n)):
        size = min(max(1, BLOCK // n), times - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        found.append(np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n) @ values.T / n)
    return np.concatenate(found)
