"""Race of the units: the K most important ones, found on far fewer ablations than all units on all images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError, unknown_name
from auditor.stats import confidence_sequences as sequences
from auditor.stats.intervals import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Beats = Callable[[Floats, Floats, float], Bools]
Bound = Callable[..., Interval]

# Values that leave their bounds by less, as a share of the distance of the bounds, do so by rounding in float32.
ROUNDING = 1e-5
BOUNDLESS = 'Race on an effect that is bounded by nature (change of probability or accuracy), or use bound="t".'


@dataclass(frozen=True, eq=False)
class Race:
    """Outcome of a race.

    Attributes
    ----------
    chosen : ndarray of int64, shape (K,)
        The units found, by estimated mean, largest first. `delta` is about the set; the order is an estimate only.
    mean, low, high : ndarray of float64, shape (U,)
        Mean effect over the `n_images` images that the unit was measured on, and the interval of its mean over all
        images: of each unit by itself at level 1 - `delta`, valid although the race decided when to stop measuring.
    n_images, decided : ndarray of int64, shape (U,)
        Round, from 1, after which it was accepted or rejected; 0 if the race ended before, within `tolerance`.
    rounds, evaluations, n_population : int
        Rounds run, pairs of unit and image measured, and N.
    bound, delta, tolerance
        As asked for.
    """

    chosen: Ints
    mean: Floats
    low: Floats
    high: Floats
    n_images: Ints
    decided: Ints
    rounds: int
    evaluations: int
    n_population: int
    bound: str
    delta: float
    tolerance: float

    @property
    def possible(self) -> int:
        """All pairs of unit and image."""
        return len(self.mean) * self.n_population

    @property
    def exact(self) -> bool:
        """Whether every unit was measured on every image, so that no error is possible."""
        return self.evaluations == self.possible

    def to_frame(self) -> pd.DataFrame:
        """One row per unit; its ``status`` is accepted, rejected or, within the tolerance, undecided."""
        columns = {name: getattr(self, name) for name in ("mean", "low", "high", "n_images", "decided")}
        chosen = np.isin(np.arange(len(self.mean)), self.chosen)
        status = np.where(self.decided == 0, "undecided", np.where(chosen, "accepted", "rejected"))
        return pd.DataFrame({**columns, "chosen": chosen, "status": status}).rename_axis("unit")


def race_rounds(n_images: int, *, first: int = 32, growth: float = 1.25, seed: int = 0) -> list[Ints]:
    """Images of each round: one random order of all images, cut where `growth` times as many have been seen.

    Parameters
    ----------
    n_images, first : int
        N, and how many of them are in the first round (at least 2).
    growth : float
        Above 1.
    seed : int

    Returns
    -------
    list of ndarray of int64, together a permutation of all images
    """
    _require(n_images >= 1, "n_images must be at least 1.", "a population of images", n_images)
    _require(first >= 2, "first must be at least 2.", "an integer of 2 or more", first)
    _require(growth > 1, "growth must be above 1.", "a number such as 1.25", growth)
    ends = [min(first, n_images)]
    while ends[-1] < n_images:
        ends.append(min(max(int(ends[-1] * growth), ends[-1] + 1), n_images))
    return np.split(np.random.default_rng([seed, 3]).permutation(n_images), ends[:-1])


def race(
    measure: Callable[[Ints, Ints], Floats],
    *,
    n_units: int,
    n_images: int,
    k: int,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    bound: str = "betting",
    delta: float = 0.05,
    tolerance: float = 0.0,
    first: int = 32,
    growth: float = 1.25,
    seed: int = 0,
    advance: Callable[[float], None] | None = None,
) -> Race:
    """Find the `k` units with the largest mean effect over a fixed population of images.

    Every round measures the units still in question on the next images of one random order. A unit "beats" another when
    the mean of their paired differences is certainly positive. One that is beaten by as many as there are places left
    is rejected; one that beats all but so many is accepted. A wrong decision requires that a unit outside the top K is
    said, in some round, to beat one inside it. Each of these K (U - K) pairs is tested one-sided at level
    ``delta / (K (U - K))``, so all decisions are right with probability at least 1 - `delta` over the order of the
    images. Units in question when the images are used up are ranked by their exact means.

    Parameters
    ----------
    measure : callable
        ``measure(units, images)`` returns the effects, shape (len(units), len(images)). It is called once per round,
        with increasing units and the images of :func:`race_rounds`. Round and units follow from the arguments and the
        earlier effects: a caller who keeps the answers by number of call can run an interrupted race again.
    n_units, n_images, k : int
        U, N and K; 1 <= K <= U.
    bounds : (low, high), optional
        No effect lies outside; each a number or shape (N,), one per image. What counts is the mean of their distance:
        a fall in the label's probability p lies in [p - 1, p], 1 apart, not 2. Required for "betting", where a value
        outside raises, since to clip it would change the mean that is asked for.
    bound : {"betting", "t"}
        "betting" assumes the bounds and nothing else (:mod:`auditor.stats.confidence_sequences`). "t" takes Student's t
        of the paired differences, corrected for the finite population, its level shared among the rounds. It needs no
        bounds and fewer images where they are wide, but `delta` is then approximate: a unit whose effect is on a share
        s of the images shows none in the first round, and may be lost, with probability ``(1 - s) ** first``.
    delta : float
        Probability that the chosen are not the top K (or cost more than `tolerance`). Of equal units any may be chosen.
    tolerance : float
        End once no unit left out can exceed a chosen one in mean by more than this, in units of the effect.
    first, growth, seed
        See :func:`race_rounds`. Looking often costs "betting" nothing.
    advance : callable, optional
        Called after each round with the pairs of unit and image that were measured or became needless: in all U * N.

    Returns
    -------
    Race

    Raises
    ------
    OptionError, DataError
        If an argument cannot be used; if effects have another shape, are not finite or lie outside the bounds.
    """
    rounds = race_rounds(n_images, first=first, growth=growth, seed=seed)
    _require(1 <= k <= n_units, "k must lie between 1 and the number of units.", f"1 to {n_units}", k)
    _require(0 < delta < 1, "delta must lie between 0 and 1.", "a number such as 0.05", delta)
    _require(0 <= tolerance < np.inf, "tolerance must not be negative.", "0 or a small effect", tolerance)
    if bound not in ("betting", "t"):
        raise unknown_name("bound", bound, ("betting", "t"))
    bounded = bounds is not None or bound == "t"
    _require(bounded, "The betting bound needs bounds of the effects.", "bounds=(low, high)", None, BOUNDLESS)
    low, high = (side[np.concatenate(rounds)] for side in sequences.check_bounds(bounds, n_images))
    alpha = delta / max(k * (n_units - k), 1)
    beats: Beats = partial(sequences.betting_excess, spread=high - low, alpha=alpha)
    interval: Bound = partial(sequences.betting_interval, bounds=(low, high), confidence=1 - delta)
    if bound == "t":
        beats = partial(sequences.t_excess, n_population=n_images, alpha=alpha / len(rounds))
        interval = partial(sequences.population_t_interval, confidence=1 - delta / len(rounds))

    racing, seen = np.arange(n_units), np.empty((n_units, 0))
    mean, ends = np.empty(n_units), np.empty((2, n_units))
    n_seen, decided = np.zeros(n_units, dtype=np.int64), np.zeros(n_units, dtype=np.int64)
    accepted = np.zeros(n_units, dtype=bool)
    for number, images in enumerate(rounds, start=1):
        new = slice(seen.shape[1], seen.shape[1] + len(images))
        effects = _checked_effects(measure(racing, images), len(racing), low[new], high[new])
        seen = np.concatenate([seen, effects], axis=1)
        n, means, places = new.stop, seen.mean(axis=1), k - int(accepted.sum())
        order = np.argsort(-means, kind="stable")
        take, drop = _decisions(seen, means, order, places, beats if n < n_images else None)
        over = take | drop
        decided[racing[over]] = number
        accepted[racing[take]] = True
        if tolerance and not over.all():
            leaders, others = np.split(order[~over[order]], [k - int(accepted.sum())])
            if beats(seen[leaders], seen[others], tolerance).all():
                over[:] = True
        gone = racing[over]
        mean[gone], n_seen[gone] = means[over], n
        ends[:, gone] = interval(seen[over], n_population=n_images)[1:]
        if advance is not None:
            advance(effects.size + len(gone) * (n_images - n))
        racing, seen = racing[~over], seen[~over]
        if not len(racing):
            break
    # Undecided units follow the accepted ones, best first; both are then ordered by mean.
    chosen = np.lexsort((-mean, ~accepted, (decided > 0) & ~accepted))[:k]
    chosen = chosen[np.argsort(-mean[chosen], kind="stable")]
    total = int(n_seen.sum())
    return Race(chosen, mean, ends[0], ends[1], n_seen, decided, number, total, n_images, bound, delta, tolerance)


def _decisions(seen: Floats, means: Floats, order: Ints, places: int, beats: Beats | None) -> tuple[Bools, Bools]:
    """Which units to accept and to reject, each of shape (units,); by their means if these are exact."""
    take, drop = np.zeros(len(seen), dtype=bool), np.zeros(len(seen), dtype=bool)
    if beats is None:
        take[order[:places]], drop[order[places:]] = True, True
        return take, drop
    # As many again as there are places: a leader of large variance must not hold up what the others can settle.
    leaders = order[: 2 * places]
    # Without the order of the sample means, claims could contradict each other at a large delta.
    beaten = beats(seen[leaders], seen, 0.0) & (means[leaders, None] > means)
    while True:
        left = ~(take | drop)
        among = beaten & left & left[leaders, None]
        out = left & (among.sum(axis=0) >= places)
        into = leaders[left[leaders] & (among.sum(axis=1) >= left.sum() - places)]
        if not (out.any() or into.size):
            return take, drop
        drop |= out
        take[into] = True
        places -= len(into)


def _checked_effects(effects: Floats, n_units: int, low: Floats, high: Floats) -> Floats:
    """Effects within their bounds; those that left them by rounding are put back."""
    values = np.asarray(effects, dtype=np.float64)
    wanted = f"finite effects of shape {(n_units, len(low))}"
    if values.shape != (n_units, len(low)) or not np.isfinite(values).all():
        raise DataError("A race needs an effect for each unit and image.", wanted=wanted, got=f"shape {values.shape}")
    inside = np.clip(values, low, high)
    away = np.abs(values - inside)
    if away.max() > ROUNDING * (high - low).max():
        got = f"{values.flat[away.argmax()]:g}"
        raise DataError("An effect lies outside its bounds, so delta would not hold.", got=got, fix=BOUNDLESS)
    return inside


def _require(condition: bool, message: str, wanted: str, got: object, fix: str | None = None) -> None:
    if not condition:
        raise OptionError(message, wanted=wanted, got=repr(got), fix=fix)
