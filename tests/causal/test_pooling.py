import json

import numpy as np
import pytest
import scipy.stats

from auditor.causal.pooling import fisher_interval, fisher_z, pool_correlations, pool_draws
from auditor.errors import DataError, OptionError
from auditor.stats.intervals import spearman_interval


def textbook(z, variance, confidence=0.95):
    """Random-effects mean by the formulas as printed: DerSimonian & Kacker 2007 (iteration for Paule & Mandel)."""
    k, tau2 = len(z), 0.0
    for _ in range(10000):
        w = 1 / (variance + tau2)
        mean = np.average(z, weights=w)
        excess = (w * (z - mean) ** 2).sum() - (k - 1)
        if tau2 == 0 and excess <= 0:
            break
        tau2 = max(0.0, tau2 + excess / (w**2 * (z - mean) ** 2).sum())
    w = 1 / (variance + tau2)
    mean = np.average(z, weights=w)
    # Never below the error of layers that differ by chance alone (Rover, Knapp & Friede 2015).
    error = np.sqrt(max(1.0, (w * (z - mean) ** 2).sum() / (k - 1)) / w.sum())
    low, high = scipy.stats.t.interval(confidence, k - 1, mean, error)
    w0 = 1 / variance
    q = (w0 * (z - np.average(z, weights=w0)) ** 2).sum()
    predicted = scipy.stats.t.interval(confidence, k - 2, mean, np.sqrt(tau2 + error**2))
    p = 2 * scipy.stats.t.sf(abs(mean / error), k - 1)
    return {"mean": mean, "low": low, "high": high, "tau2": tau2, "q": q, "p": p, "predicted": predicted}


@pytest.mark.parametrize("spread, covariates", [(0.5, 0), (0.5, 2), (0.01, 0)])
def test_matches_the_textbook(spread, covariates):
    rng = np.random.default_rng(3)
    n = rng.integers(16, 300, 9)
    rho = np.tanh(rng.normal(0.2, spread, 9))
    got = pool_correlations(rho, n, n_covariates=covariates, confidence=0.9)
    want = textbook(np.arctanh(rho), (1 + rho**2 / 2) / (n - 3 - covariates), 0.9)
    assert got.tau2 == pytest.approx(want["tau2"], abs=1e-9)
    assert (got.tau2 > 0) == (spread > 0.1)
    np.testing.assert_allclose([got.mean, got.low, got.high], np.tanh([want["mean"], want["low"], want["high"]]))
    np.testing.assert_allclose([got.prediction_low, got.prediction_high], np.tanh(want["predicted"]))
    assert got.p == pytest.approx(want["p"])
    assert got.heterogeneity == pytest.approx(want["q"])
    assert got.heterogeneity_p == pytest.approx(scipy.stats.chi2.sf(want["q"], 8))
    assert got.i2 == pytest.approx(max(0, (want["q"] - 8) / want["q"]))
    assert (got.n_layers, got.n_units) == (9, n.sum())


def test_equal_layers_give_the_t_interval_of_z():
    z = np.array([0.1, 0.4, 0.3, -0.1])
    got = pool_correlations(np.tanh(z), np.full(4, 50), se=np.full(4, 0.1))
    want = scipy.stats.ttest_1samp(z, 0)
    assert got.p == pytest.approx(want.pvalue)
    np.testing.assert_allclose(np.arctanh([got.low, got.high]), want.confidence_interval(0.95))


def test_layers_that_agree_by_luck_keep_an_interval():
    got = pool_correlations([0.3, 0.3], [100, 100])
    assert got.high - got.low > 0.5
    assert got.p > 0.05


def test_one_layer_has_its_own_interval():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40))
    want = spearman_interval(x, y)
    got = pool_correlations([np.nan, want.estimate], [5, 40])
    assert (got.mean, got.low, got.high) == pytest.approx(tuple(map(float, want)))
    assert (got.n_layers, got.n_units) == (1, 40)
    assert np.isnan([got.tau2, got.i2, got.heterogeneity, got.prediction_low]).all()
    assert got.p == pytest.approx(2 * scipy.stats.norm.sf(abs(got.z) / got.se))


def test_two_layers_predict_nothing():
    got = pool_correlations([0.1, 0.3], [40, 40])
    assert np.isnan([got.prediction_low, got.prediction_high]).all()
    assert np.isfinite([got.low, got.high, got.i2]).all()


def test_no_layer_is_all_missing():
    got = pool_correlations([np.nan], [4])
    assert np.isnan([got.mean, got.low, got.high, got.p, got.tau2, got.i2]).all()
    assert (got.n_layers, got.n_units) == (0, 0)
    assert np.isnan(pool_draws(np.full((5, 1), np.nan), [np.nan], [4])).all()


def test_correlations_of_one_stay_finite():
    got = pool_correlations([1.0, 1.0, 0.9], [20, 30, 40])
    assert 0.9 < got.mean < 1
    # half of what swapping two neighbours costs
    swapped = np.r_[1, 0, np.arange(2, 20)]
    assert np.tanh(fisher_z(1.0, 20)) == pytest.approx(
        (1 + scipy.stats.spearmanr(np.arange(20), swapped).statistic) / 2
    )


def test_shared_errors_do_not_average_out():
    rng = np.random.default_rng(0)
    rho, n = np.array([0.1, 0.3, 0.2, 0.25]), np.full(4, 100)
    z = np.arctanh(rho)
    shared = np.tanh(z + rng.normal(0, 0.1, (4000, 1)))
    apart = np.tanh(z + rng.normal(0, 0.1, (4000, 4)))
    wide, narrow = pool_draws(shared, rho, n), pool_draws(apart, rho, n)
    assert float(wide.estimate) == pytest.approx(pool_correlations(rho, n).mean)
    half = np.arctanh(float(wide.high)) - np.arctanh(float(wide.estimate))
    assert half == pytest.approx(1.96 * 0.1, rel=0.05)
    assert half / (np.arctanh(float(narrow.high)) - np.arctanh(float(narrow.estimate))) == pytest.approx(2, rel=0.05)


def test_draws_use_the_weights_of_the_pooled_mean():
    rho, n = np.array([-0.2, 0.5, np.nan, 0.3]), np.array([20, 400, 10, 100])
    draws = np.tile(rho, (3, 1))
    draws[1, 0] = np.nan  # left out
    got = pool_draws(draws, rho, n)
    assert tuple(map(float, got)) == pytest.approx((pool_correlations(rho, n).mean,) * 3)


def test_fisher_interval_is_normal_or_t():
    draws = np.tanh(np.array([0.1, 0.2, 0.4, np.nan]))
    spread = np.std([0.1, 0.2, 0.4], ddof=1)
    low, high = fisher_interval(0.2, draws, 12, 0.9)
    np.testing.assert_allclose(np.arctanh([low, high]), scipy.stats.t.interval(0.9, 10, np.arctanh(0.2), spread))
    low, high = fisher_interval(0.2, draws, 12, 0.9, df=None)
    np.testing.assert_allclose(np.arctanh([low, high]), scipy.stats.norm.interval(0.9, np.arctanh(0.2), spread))
    assert np.isnan(fisher_interval(0.2, draws[2:], 12, 0.9)).all()


def test_result_is_plain_when_asked():
    got = pool_correlations([0.1, 0.3, 0.2], [40, 50, 60])
    values = json.loads(json.dumps(got.to_dict()))
    assert values["mean"] == got.mean
    assert values["n_layers"] == 3
    assert "over 3 layers with 150 units" in got.summary()


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match="do not fit"):
        pool_correlations([0.1, 0.2], [10])
    with pytest.raises(DataError, match="no standard error"):
        pool_correlations([0.1], [4], n_covariates=1)
    with pytest.raises(DataError, match="Standard errors"):
        pool_correlations([0.1, 0.2], [10, 10], se=[0.1])
    with pytest.raises(OptionError):
        pool_correlations([0.1], [10], confidence=1.0)
    with pytest.raises(DataError, match="Draws"):
        pool_draws(np.zeros((5, 2)), [0.1], [10])
    with pytest.raises(DataError, match="undefined"):
        pool_draws(np.full((5, 1), np.nan), [0.1], [10])
