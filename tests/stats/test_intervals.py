import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import DataError, OptionError
from auditor.stats import (
    bh_qvalues,
    bootstrap_interval,
    empirical_p,
    paired_mean_interval,
    paired_proportion_interval,
    wilson,
)
from auditor.stats.intervals import spearman_interval

LEVELS = [0.5, 0.9, 0.95, 0.99]


@given(n=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.sampled_from(LEVELS))
def test_wilson_matches_scipy(n, share, confidence):
    k = round(share * n)
    want = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    got = wilson(k, n, confidence)
    assert got.estimate == pytest.approx(k / n)
    assert got.low == pytest.approx(want.low, abs=1e-12)
    assert got.high == pytest.approx(want.high, abs=1e-12)


def test_wilson_broadcasts_and_is_undefined_without_trials():
    got = wilson([[0, 5, 10]], [10, 10, 10])
    assert got.low.shape == (1, 3)
    assert got.low[0, 0] == 0
    assert got.high[0, 2] == 1
    assert np.isnan([x for part in wilson(0, 0) for x in [part]]).all()
    with pytest.raises(OptionError):
        wilson(3, 2)


@pytest.mark.parametrize("confidence", LEVELS)
def test_paired_mean_matches_scipy(confidence):
    differences = np.random.default_rng(0).normal(1, 2, (3, 4, 17))
    got = paired_mean_interval(differences, confidence)
    want = scipy.stats.ttest_1samp(differences, 0, axis=-1).confidence_interval(confidence)
    np.testing.assert_allclose(got.estimate, differences.mean(axis=-1))
    np.testing.assert_allclose(got.low, want.low)
    np.testing.assert_allclose(got.high, want.high)


def test_paired_mean_with_too_few_pairs():
    one = paired_mean_interval([[2.0]])
    assert one.estimate == 2
    assert np.isnan(one.low).all()
    assert np.isnan(paired_mean_interval(np.empty((2, 0))).estimate).all()


def test_paired_proportions_by_hand():
    # n = 50, 12 only first, 3 only second: p = 13/52, 4/52; difference 9/52; se = sqrt((17/52 - 81/2704) / 52)
    got = paired_proportion_interval(12, 3, 50)
    se = np.sqrt((17 / 52 - 81 / 2704) / 52)
    assert got.estimate == pytest.approx(0.18)
    assert got.low == pytest.approx(9 / 52 - 1.959963985 * se, abs=1e-9)
    assert got.high == pytest.approx(9 / 52 + 1.959963985 * se, abs=1e-9)
    assert got.low == pytest.approx(0.0249, abs=1e-4)
    assert got.high == pytest.approx(0.3212, abs=1e-4)


@given(first=st.integers(0, 60), second=st.integers(0, 60), same=st.integers(1, 200))
def test_paired_proportions_are_antisymmetric_and_bounded(first, second, same):
    n = first + second + same
    a, b = paired_proportion_interval(first, second, n), paired_proportion_interval(second, first, n)
    assert a.low == pytest.approx(-b.high)
    assert a.high == pytest.approx(-b.low)
    assert -1 <= a.low <= a.high <= 1


def test_paired_proportions_cover():
    rng = np.random.default_rng(0)
    for p1, p2 in [(0.02, 0.02), (0.1, 0.02), (0.3, 0.1)]:
        cells = rng.multinomial(100, [p1, p2, 1 - p1 - p2], size=20000)
        got = paired_proportion_interval(cells[:, 0], cells[:, 1], 100)
        assert np.mean((got.low <= p1 - p2) & (p1 - p2 <= got.high)) >= 0.94


def test_paired_proportions_refuse_impossible_counts():
    with pytest.raises(OptionError):
        paired_proportion_interval(6, 5, 10)
    assert np.isnan(paired_proportion_interval(0, 0, 0).low)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("method, name", [("percentile", "percentile"), ("basic", "basic")])
def test_bootstrap_interval_matches_scipy(method, name, confidence):
    sample = np.random.default_rng(0).gamma(1, 1, 40)
    want = scipy.stats.bootstrap(
        (sample,), np.mean, n_resamples=999, method=name, confidence_level=confidence, rng=np.random.default_rng(1)
    )
    got = bootstrap_interval(want.bootstrap_distribution, sample.mean(), confidence, method=method)
    assert got.low == pytest.approx(want.confidence_interval.low)
    assert got.high == pytest.approx(want.confidence_interval.high)


def test_bias_corrected_interval_by_hand():
    replicates = np.arange(1, 101, dtype=float)[:, None]
    got = bootstrap_interval(replicates, [30.5], 0.9, method="bc")
    z0 = scipy.stats.norm.ppf(0.3)
    levels = scipy.stats.norm.cdf(2 * z0 + scipy.stats.norm.ppf([0.05, 0.95]))
    np.testing.assert_allclose([got.low[0], got.high[0]], np.quantile(replicates, levels))


@pytest.mark.parametrize("method", ["bc", "percentile", "basic"])
def test_bootstrap_interval_leaves_out_undefined_replicates(method):
    replicates = np.random.default_rng(0).normal(size=(200, 3))
    holes = replicates.copy()
    holes[::4, 1] = np.nan
    holes[:, 2] = np.nan
    got = bootstrap_interval(holes, np.zeros(3), method=method)
    for column, rows in ((0, replicates[:, 0]), (1, np.delete(replicates[:, 1], np.s_[::4]))):
        want = bootstrap_interval(rows[:, None], np.zeros(1), method=method)
        assert got.low[column] == pytest.approx(want.low[0])
        assert got.high[column] == pytest.approx(want.high[0])
    assert np.isnan(got.low[2])
    assert np.isnan(bootstrap_interval(np.empty((0, 2)), np.zeros(2), method=method).low).all()


def test_bias_corrected_interval_survives_one_sided_replicates():
    got = bootstrap_interval(np.linspace(1, 2, 50)[:, None], [0.5], method="bc")
    assert np.isfinite([got.low[0], got.high[0]]).all()
    assert 1 <= got.low[0] <= got.high[0] <= 2


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_bh_matches_scipy_and_skips_nan(p):
    want = scipy.stats.false_discovery_control(p)
    np.testing.assert_allclose(bh_qvalues(p), want)
    holes = np.insert(np.array(p), 0, np.nan)
    np.testing.assert_allclose(bh_qvalues(holes)[1:], want)
    assert np.isnan(bh_qvalues(holes)[0])


def test_bh_by_hand():
    np.testing.assert_allclose(bh_qvalues([[0.01, 0.04], [0.03, 0.5]]), [[0.04, 0.16 / 3], [0.16 / 3, 0.5]])
    assert np.isnan(bh_qvalues([np.nan])).all()


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_empirical_p_matches_scipy(alternative):
    rng = np.random.default_rng(0)
    null = rng.integers(0, 10, 99).astype(float)  # with ties
    for observed in (-1.0, 3.0, 9.0, 12.0):
        # permutation_test counts the same way: (r + 1) / (n + 1), twice the smaller tail.
        r = {"greater": (null >= observed).sum(), "less": (null <= observed).sum()}
        want = {k: (v + 1) / 100 for k, v in r.items()}
        want["two-sided"] = min(1.0, 2 * min(want.values()))
        assert empirical_p(observed, null, alternative=alternative) == pytest.approx(want[alternative])


def test_empirical_p_matches_scipys_monte_carlo_test():
    sample = np.random.default_rng(1).normal(0.4, 1, 20)
    result = scipy.stats.monte_carlo_test(
        sample, np.random.default_rng(2).standard_normal, np.mean, n_resamples=999, alternative="greater"
    )
    assert empirical_p(result.statistic, result.null_distribution) == pytest.approx(result.pvalue)


def test_empirical_p_errs_on_the_safe_side_of_nan():
    assert empirical_p(5.0, np.array([np.nan, 1.0, 2.0])) == pytest.approx(2 / 4)
    assert np.isnan(empirical_p(np.nan, np.zeros(3)))


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5])
def test_confidence_must_be_a_share(confidence):
    for call in (lambda c: wilson(1, 2, c), lambda c: paired_mean_interval([1.0, 2.0], c)):
        with pytest.raises(OptionError, match="between 0 and 1"):
            call(confidence)


def test_unknown_methods_are_refused():
    with pytest.raises(OptionError, match="bootstrap method"):
        bootstrap_interval(np.zeros((2, 1)), [0.0], method="bca")
    with pytest.raises(OptionError, match="alternative"):
        empirical_p(0.0, np.zeros(2), alternative="more")


def test_spearman_equals_scipy_and_the_formula() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = np.round(x + rng.normal(size=40), 1)  # ties
    rho, low, high = spearman_interval(x, y)
    assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    half = 1.959964 * np.sqrt((1 + rho**2 / 2) / 37)
    assert (np.arctanh(low), np.arctanh(high)) == pytest.approx((np.arctanh(rho) - half, np.arctanh(rho) + half))


def test_spearman_interval_covers() -> None:
    rng = np.random.default_rng(1)
    r, n, hits = 0.6, 50, 0
    truth = 6 / np.pi * np.arcsin(r / 2)  # of a bivariate normal
    for _ in range(1000):
        x = rng.normal(size=n)
        _, low, high = spearman_interval(x, r * x + np.sqrt(1 - r**2) * rng.normal(size=n))
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.97


def test_spearman_of_a_constant_is_refused() -> None:
    with pytest.raises(DataError, match="neither constant"):
        spearman_interval([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
