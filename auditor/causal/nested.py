"""Test a curve: growing sets of the selected units against matched random sets and the least selective units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from auditor.errors import DataError, OptionError
from auditor.stats.intervals import Interval, check_confidence, empirical_p, paired_mean_interval

FloatArray = NDArray[np.float64]
Direction = Literal["greater", "less"]

FLIPS = 9999
BLOCK = 2**22


@dataclass(frozen=True)
class Contrast:
    """The selected set against random sets, and against the least selective one, at one size or over all.

    Attributes
    ----------
    selected : float
        Mean effect of the selected set over images.
    random_mean, random_low, random_high : float
        Mean, 2.5 % and 97.5 % quantiles of the same over the random draws.
    effect : float
        ``selected - random_mean``.
    low, high : float
        Student t interval of `effect` over images, paired by image; the draws are taken as given.
    wide_low, wide_high : float
        The same with the error of the mean of a finite number of draws; NaN with one draw.
    p, p_two_sided : float
        Monte Carlo p values among the draws, ``(r + 1) / (D + 1)``: one-sided in the direction of the test, and twice
        the smaller tail.
    least : float
        Mean effect of the least selective set; this and all below are NaN where there is none.
    least_effect, least_low, least_high : float
        ``selected - least`` with its Student t interval over images.
    least_p, least_p_two_sided : float
        Sign-flip p values over images of `least_effect`: 9,999 random exchanges of the two sets, image by image.
    """

    selected: float
    random_mean: float
    random_low: float
    random_high: float
    effect: float
    low: float
    high: float
    wide_low: float
    wide_high: float
    p: float
    p_two_sided: float
    least: float
    least_effect: float
    least_low: float
    least_high: float
    least_p: float
    least_p_two_sided: float


@dataclass(frozen=True, eq=False)
class NestedTest:
    """Effects of nested sets of units against random and least selective ones.

    Attributes
    ----------
    counts : tuple of int
        Units in the set at each size.
    sizes : tuple of Contrast
        One for each size.
    area : Contrast
        Of the area under the curve: the effect averaged over the sizes. The primary test.
    null : ndarray of float64, shape (D,)
        Area of each random draw.
    p_holm : tuple of float
        ``sizes[k].p`` corrected for as many sizes as there are by Holm's method (1979).
    least_p_holm : tuple of float
        The same of ``sizes[k].least_p``; NaN where there is no least selective set.
    alternative : {"greater", "less"}
    n_images, n_draws : int
    confidence : float
    """

    counts: tuple[int, ...]
    sizes: tuple[Contrast, ...]
    area: Contrast
    null: FloatArray
    p_holm: tuple[float, ...]
    least_p_holm: tuple[float, ...]
    alternative: Direction
    n_images: int
    n_draws: int
    confidence: float = 0.95

    def predicted(self, against: Literal["random", "least"] = "random") -> Interval:
        """Difference of areas and its interval, positive in the direction of the test: what a verdict is made from.

        Against random sets the interval is the one that has the error of a finite number of draws.
        """
        area = self.area
        estimate, low, high = (
            (area.effect, area.wide_low, area.wide_high)
            if against == "random"
            else (area.least_effect, area.least_low, area.least_high)
        )
        if self.alternative == "less":
            estimate, low, high = -estimate, -high, -low
        return Interval(np.asarray(estimate), np.asarray(low), np.asarray(high))

    def p_beyond(self, margin: float, *, below: bool = False) -> float:
        """Monte Carlo p value among the draws that the area's effect is beyond, or short of, a margin.

        The draws are shifted by the margin: a small value says that a set of units whose effect exceeded that of
        random sets by exactly the margin would seldom show so large (`below`: so small) a difference. The interval
        over images holds for the units at hand; this adds how much sets of units differ.

        Parameters
        ----------
        margin : float
            Positive in the direction of the test.
        below : bool

        Returns
        -------
        float
        """
        sign = 1.0 if self.alternative == "greater" else -1.0
        shifted = _tied(sign * self.null + margin, np.asarray(sign * self.area.selected))
        return float(empirical_p(sign * self.area.selected, shifted, alternative="less" if below else "greater"))

    def to_frame(self) -> pd.DataFrame:
        """Table with one row for each size; columns as in :class:`Contrast`, with `n_units` and Holm's p values."""
        table = pd.DataFrame([asdict(size) for size in self.sizes])
        table.insert(0, "n_units", self.counts)
        table.insert(list(table).index("least"), "p_holm", self.p_holm)
        table["least_p_holm"] = self.least_p_holm
        return table.drop(columns=[c for c in table if str(c).startswith("least")]) if self._alone else table

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the null included; without the least selective set where there is none."""
        area = {k: v for k, v in asdict(self.area).items() if not (self._alone and k.startswith("least"))}
        return {
            "alternative": self.alternative,
            "confidence": self.confidence,
            "n_images": self.n_images,
            "n_draws": self.n_draws,
            "area": area,
            "null": [float(x) for x in self.null],
            "sizes": self.to_frame().to_dict("records"),
        }

    @property
    def _alone(self) -> bool:
        return bool(np.isnan(self.area.least))


def nested_test(
    selected: ArrayLike,
    random: ArrayLike,
    least: ArrayLike | None,
    counts: ArrayLike,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    alternative: Direction = "greater",
) -> NestedTest:
    """Test the effects of nested sets on the same images.

    The primary statistic is the area under the curve, divided by its width: the plain mean of the effects over the
    sizes. Each size that was declared counts the same, whatever its distance to the next, so that the answer is not
    that of the largest set alone; with sizes spaced evenly in their logarithm it is the area over that logarithm. The
    area is linear in the effects: it is computed image by image and tested like a single effect, one test for all
    sizes. The p values of single sizes are secondary and come with Holm's correction.

    A draw is one matched set whose first k columns are its set of size k, so that the area of a draw is comparable to
    that of the selection. The p value among draws keeps its level where the selection is exchangeable with them (see
    `pool` of :func:`auditor.causal.matching.matched_sets`). The wide interval adds the variance of the mean over draws
    to that of the mean over images, with Welch's degrees of freedom; their interaction is in both, which errs on the
    safe side by little.

    Parameters
    ----------
    selected : array_like, shape (P, N)
        Effect on each image of silencing the first ``counts[k]`` selected units, or of keeping only them: lost
        accuracy (-1, 0 or 1) or loss change.
    random : array_like, shape (D, P, N)
        The same for each random draw. Read in its own type and never copied.
    least : array_like, shape (P, N), or None
        The same for the least selective units.
    counts : array_like of int, shape (P,)
        Increasing numbers of units.
    confidence : float
    seed : int
        Of the sign flips.
    alternative : {"greater", "less"}
        Which effect of the selection is claimed: "greater" where selective units are silenced, "less" where only they
        are kept.

    Returns
    -------
    NestedTest

    Raises
    ------
    DataError
        If shapes do not fit, something is empty, counts do not increase, or an effect is not finite.
    OptionError
        If `confidence` is not within (0, 1) or there is no such alternative.
    """
    check_confidence(confidence)
    if alternative not in ("greater", "less"):
        raise OptionError("There is no such direction.", wanted="greater or less", got=repr(alternative))
    first, drawn, last, sizes = _checked(selected, random, least, counts)
    # Only the two margins of the draws are needed; the last row of each table is the area.
    effects = _with_area(first)
    by_image = _with_area(drawn.mean(axis=0, dtype=np.float64))
    by_draw = _with_area(drawn.mean(axis=2, dtype=np.float64).T)
    observed = _with_area(first.mean(axis=1)[:, None])[:, 0]
    null = _tied(by_draw.T, observed)
    over_images = paired_mean_interval(effects - by_image, confidence)
    wide = _wide_half_width(effects - by_image, by_draw, confidence)
    band = np.quantile(by_draw, [0.025, 0.975], axis=1)
    table = {
        "selected": observed,
        "random_mean": by_draw.mean(axis=1),
        "random_low": band[0],
        "random_high": band[1],
        "effect": over_images.estimate,
        "low": over_images.low,
        "high": over_images.high,
        "wide_low": over_images.estimate - wide,
        "wide_high": over_images.estimate + wide,
        "p": empirical_p(observed, null, alternative=alternative),
        "p_two_sided": empirical_p(observed, null, alternative="two-sided"),
        **_against_least(effects, last, confidence, seed, alternative),
    }
    rows = [Contrast(**{k: float(v[row]) for k, v in table.items()}) for row in range(len(observed))]
    return NestedTest(
        counts=tuple(int(c) for c in sizes),
        sizes=tuple(rows[:-1]),
        area=rows[-1],
        null=by_draw[-1],
        p_holm=_holm(table["p"][:-1]),
        least_p_holm=_holm(table["least_p"][:-1]),
        alternative=alternative,
        n_images=first.shape[1],
        n_draws=len(drawn),
        confidence=confidence,
    )


def _with_area(effects: FloatArray) -> FloatArray:
    return np.vstack([effects, effects.mean(axis=0)])


def _wide_half_width(differences: FloatArray, by_draw: FloatArray, confidence: float) -> FloatArray:
    """Half widths of the t interval over images and draws, from differences (P, N) and means of draws (P, D)."""
    n_images, n_draws = differences.shape[1], by_draw.shape[1]
    if n_images < 2 or n_draws < 2:
        return np.full(len(differences), np.nan)
    images, draws = differences.var(axis=1, ddof=1) / n_images, by_draw.var(axis=1, ddof=1) / n_draws
    denominator = images**2 / (n_images - 1) + draws**2 / (n_draws - 1)
    freedom = np.divide((images + draws) ** 2, denominator, out=np.ones_like(images), where=denominator > 0)
    half: FloatArray = stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(images + draws)
    return half


def _against_least(
    effects: FloatArray, least: FloatArray | None, confidence: float, seed: int, alternative: Direction
) -> dict[str, FloatArray]:
    names = ("least", "least_effect", "least_low", "least_high", "least_p", "least_p_two_sided")
    if least is None:
        return dict.fromkeys(names, np.full(len(effects), np.nan))
    others = _with_area(least)
    interval = paired_mean_interval(effects - others, confidence)
    flipped = _sign_flips(effects - others, np.random.default_rng([seed, 11]))
    one, two = (empirical_p(interval.estimate, flipped, alternative=a) for a in (alternative, "two-sided"))
    return dict(zip(names, (others.mean(axis=1), *interval, one, two), strict=True))


def _sign_flips(differences: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Means of the differences (P, N) under random signs of the images, shape (FLIPS, P)."""
    n = differences.shape[1]
    rows = max(BLOCK // n, 1)
    parts = []
    for start in range(0, FLIPS, rows):
        signs = rng.integers(0, 2, (min(rows, FLIPS - start), n), dtype=np.int8)
        parts.append((2.0 * signs - 1.0) @ differences.T)
    return _tied(np.concatenate(parts) / n, differences.mean(axis=1))


def _tied(draws: FloatArray, observed: FloatArray) -> FloatArray:
    """`draws` with values that differ from `observed` by rounding alone set equal to it: a tie counts in p."""
    near = np.abs(draws - observed) <= 1e-12 * np.maximum(np.abs(draws).max(axis=0), np.abs(observed))
    return np.where(near, observed, draws)


def _holm(p: FloatArray) -> tuple[float, ...]:
    """Step-down corrected p values of Holm (1979); NaN stays NaN."""
    if np.isnan(p).any():
        return (float("nan"),) * len(p)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return tuple(float(x) for x in corrected)


def _checked(
    selected: ArrayLike, random: ArrayLike, least: ArrayLike | None, counts: ArrayLike
) -> tuple[FloatArray, NDArray[Any], FloatArray | None, NDArray[np.int64]]:
    first, drawn = np.asarray(selected, dtype=np.float64), np.asarray(random)
    last = None if least is None else np.asarray(least, dtype=np.float64)
    sizes = np.asarray(counts)
    fits = first.ndim == 2 and drawn.ndim == 3 and drawn.shape[1:] == first.shape and sizes.shape == first.shape[:1]
    if not fits or drawn.size == 0 or (last is not None and last.shape != first.shape):
        raise DataError(
            "Effects of the selected, the random and the least selective sets do not fit.",
            wanted="(P, N), (D, P, N), (P, N) and P counts, none empty",
            got=f"{first.shape}, {drawn.shape}, {None if last is None else last.shape} and {sizes.shape}",
        )
    if not np.issubdtype(sizes.dtype, np.integer) or sizes[0] < 1 or (np.diff(sizes) <= 0).any():
        raise DataError("Numbers of units must be whole and increase.", got=str(sizes.tolist()))
    if not all(np.isfinite(values).all() for values in (first, drawn, first if last is None else last)):
        raise DataError("An effect is not finite.", fix="Leave out images whose loss overflows, or compute in float32.")
    return first, drawn, last, sizes.astype(np.int64)
