"""Betting bounds against enumeration of all orders, simulation and known inequalities; t against scipy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.errors import DataError, OptionError
from auditor.stats.confidence_sequences import (
    betting_excess,
    betting_interval,
    capital,
    check_bounds,
    population_t_interval,
    t_excess,
)


def draws(populations: np.ndarray, repeats: int, seed: int) -> np.ndarray:
    """Each population in `repeats` random orders; shape (populations, repeats, N)."""
    copies = np.repeat(populations[:, None], repeats, axis=1)
    return np.random.default_rng(seed).permuted(copies, axis=2)


def nasty(n: int) -> np.ndarray:
    """Populations within [0, 1]: rare and frequent ones, heavy-tailed, constant, even, and two-valued off centre."""
    rng = np.random.default_rng(5)
    return np.array(
        [
            np.arange(n) < 1,
            np.arange(n) < n // 10,
            np.arange(n) < n // 2,
            np.arange(n) < n - 1,
            np.minimum(np.exp(rng.normal(-4, 2, n)), 1),
            np.full(n, 0.3),
            np.linspace(0, 1, n),
            np.where(np.arange(n) < n // 5, 1, 0.4),
        ],
        dtype=np.float64,
    )


@pytest.mark.parametrize("population", [(0, 0, 0, 1, 1), (0, 1, 2, 3, 10), (2, 2, 2, 2, 2), (0, 0, 0, 0, 1)])
def test_capital_expects_no_gain_over_all_orders(population):
    orders = np.array(list(permutations(population)), dtype=np.float64).T
    mean = np.mean(population)
    for n in range(1, 5):
        assert capital(orders[:n], np.full(120, mean), 5).mean() <= 1 + 1e-9
        assert capital(orders[:n], np.full(120, 1.5 * mean), 5).mean() <= 1 + 1e-9
    # The first bet is fair, not merely unfavourable, where the claim is exactly true.
    assert capital(orders[:1], np.full(120, mean), 5).mean() == pytest.approx(1)


def test_capital_by_hand():
    # Fractions 1, 1/2, ..., 1/64 of one seventh each; odds 4 / 2, then 1 / ((10 - 4) / 4).
    stakes = 0.5 ** np.arange(7)
    by_hand = np.mean((1 + stakes * (4 / 2 - 1)) * (1 + stakes * (1 / 1.5 - 1)))
    assert capital([np.array(4.0), np.array(1.0)], 2.0, 5) == pytest.approx(by_hand)


def test_what_was_seen_refutes_for_certain():
    assert capital([np.array(4.0), np.array(7.0)], 2.0, 5) == np.inf
    assert np.isfinite(capital([np.array(4.0), np.array(6.0)], 2.0, 5))
    assert capital([np.array(1.0)], 0.0, 5) == np.inf
    assert capital([np.array(0.0)], 0.0, 5) == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(st.integers(0, 64), min_size=2, max_size=12), st.integers(1, 63), st.integers(1, 63))
def test_capital_falls_as_the_claimed_mean_rises(values, low, more):
    outcomes = np.array(values, dtype=np.float64) / 64
    means = np.array([low, low + more]) / 64
    smaller, larger = capital(outcomes[:, None], means, 20)
    assert larger <= smaller * (1 + 1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_capital_against_the_truth_is_ever_large_with_at_most_alpha(alpha):
    n, repeats = 40, 1000
    orders = draws(nasty(n), repeats, 0)
    truth = np.repeat(orders.mean(axis=2)[:, :1], repeats, axis=1)
    columns = np.moveaxis(orders, 2, 0)
    ever = np.zeros(truth.shape, dtype=bool)
    for seen in range(1, n + 1):
        ever |= capital(columns[:seen], truth, n) >= 1 / alpha
    for errors in ever.sum(axis=1):
        assert scipy.stats.binomtest(int(errors), repeats, alpha, alternative="greater").pvalue > 1e-3


def test_intervals_cover_at_all_sizes_at_once():
    n, repeats, confidence = 30, 200, 0.8
    orders = 4 * draws(nasty(n), repeats, 1) - 1
    truth = orders.mean(axis=2)
    missed = np.zeros(truth.shape, dtype=bool)
    for seen in (1, 2, 3, 5, 8, 12, 18, 24, 29, 30):
        got = betting_interval(orders[:, :, :seen], (-1, 3), n, confidence)
        missed |= (got.low > truth + 1e-9) | (got.high < truth - 1e-9)
    for errors in missed.sum(axis=1):
        assert scipy.stats.binomtest(int(errors), repeats, 1 - confidence, alternative="greater").pvalue > 1e-3


def test_ends_are_where_the_capital_of_either_bet_reaches_its_target():
    values = np.random.default_rng(0).beta(2, 3, 50)
    got = betting_interval(3 * values - 1, (-1, 2), 200, 0.9)
    low, high = (got.low + 1) / 3, (got.high + 1) / 3
    for mean, inside in [(low - 1e-5, False), (low + 1e-5, True)]:
        assert (capital(values, mean, 200) < 20) == inside
    for mean, inside in [(high + 1e-5, False), (high - 1e-5, True)]:
        assert (capital(1 - values, 1 - mean, 200) < 20) == inside


def test_intervals_shrink_to_the_mean():
    values = np.random.default_rng(0).uniform(-1, 1, (3, 200))
    widths = [np.ptp(betting_interval(values[:, :n], (-1, 1), 200)[1:], axis=0) for n in (20, 100, 180, 199)]
    assert (np.diff(widths, axis=0) < 0).all()
    assert (widths[-1] <= 0.01 + 1e-6).all()  # one value of 200 is unknown, and may be anything from -1 to 1
    whole = betting_interval(values, (-1, 1), 200)
    for part in whole:
        np.testing.assert_allclose(part, values.mean(axis=1))


def test_intervals_contain_all_that_the_unseen_could_not_exclude_and_beat_serfling():
    rng = np.random.default_rng(0)
    values = (rng.random((20, 300)) < 0.03).astype(float)
    got = betting_interval(values, (0, 1), 1000)
    # Serfling (1974), two-sided at 5 %, for one size fixed beforehand.
    serfling = np.sqrt(np.log(2 / 0.05) * (1 - 299 / 1000) / (2 * 300))
    assert (got.high - got.low < 2 * serfling).all()
    assert (got.low >= values.sum(axis=1) / 1000 - 1e-9).all()
    # No image of 300 hit: a share p of 1000 stays hidden with probability about (1 - p)^300, here 2.5 %.
    none = betting_interval(np.zeros(300), (0, 1), 1000)
    hidden = scipy.stats.hypergeom(1000, np.arange(1, 30), 300).pmf(0)
    assert 1 + np.flatnonzero(hidden < 0.025)[0] <= none.high * 1000 < 30


def test_bounds_of_each_number_narrow_the_interval_where_they_are_near():
    rng = np.random.default_rng(0)
    bottom = rng.beta(8, 2, 400) - 1
    values = bottom + 0.1 * rng.random(400)
    wide = betting_interval(values[:100], (-1, 1), 400)
    narrow = betting_interval(values[:100], (bottom, bottom + 1), 400)
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high
    # Where the bounds vary and the values do not, little is lost.
    loose = rng.random(400) - 1
    same = betting_interval(np.full(100, 0.1), (-1, 1), 400)
    each = betting_interval(np.full(100, 0.1), (loose, loose + 1.1), 400)
    assert each.high - each.low < 1.2 * (same.high - same.low)


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0, np.inf), (np.nan, 1), (0, [1, 1])])
def test_unusable_bounds(bounds):
    with pytest.raises(OptionError, match="bounds"):
        check_bounds(bounds, 3)


@pytest.mark.parametrize("values", [[0.5, 1.5], [np.nan], [], [0.5] * 4])
def test_unusable_values(values):
    with pytest.raises(DataError):
        betting_interval(values, (0, 1), 3)


@pytest.mark.parametrize("slack", [0.0, 0.2])
def test_excess_is_the_capital_of_each_pair(slack):
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 2, 50)
    first, second = rng.uniform(0, 1, (3, 30)), rng.uniform(0, 1, (40, 30))
    got = betting_excess(first, second, slack, spread=spread, alpha=0.05)
    assert 0 < got.mean() < 1
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            won = capital(a - b + spread[:30], spread.mean() - slack, 50)
            assert got[i, j] == (won >= 20)


@pytest.mark.parametrize("slack", [0.0, 0.3])
def test_t_excess_is_the_paired_t_test(slack):
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (4, 25)), rng.normal(0, 1, (30, 25))
    got = t_excess(first, second, slack, n_population=100, alpha=0.05)
    assert 0 < got.mean() < 1
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            statistic = scipy.stats.ttest_1samp(a - b + slack, 0).statistic / np.sqrt(0.75)
            assert got[i, j] == (scipy.stats.t.sf(statistic, 24) < 0.05)


def test_t_excess_tells_no_unit_from_itself():
    values = np.random.default_rng(0).normal(size=(5, 30)) * 1e6
    same = t_excess(values, values, n_population=100, alpha=0.4)
    assert not same.diagonal().any()


def test_population_t_interval_is_scipys_with_the_finite_correction():
    values = np.random.default_rng(0).normal(size=(3, 40))
    want = scipy.stats.ttest_1samp(values, 0, axis=1).confidence_interval(0.9)
    got = population_t_interval(values, 160, 0.9)
    np.testing.assert_allclose(got.high - got.low, (want.high - want.low) * np.sqrt(0.75))
    np.testing.assert_allclose((got.high + got.low) / 2, values.mean(axis=1))
    whole = population_t_interval(values, 40)
    np.testing.assert_array_equal(whole.low, whole.high)
