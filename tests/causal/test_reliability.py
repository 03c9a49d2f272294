import json

import numpy as np
import pytest
import scipy.stats

from auditor.causal.reliability import ceiling, disattenuated, spearman_brown, split_half
from auditor.errors import DataError
from auditor.stats import Interval


def test_halves_match_scipy():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=90)
    first, second = truth + rng.normal(0, 0.5, (2, 90))
    codes = np.repeat([0, 1, 2], 30)
    found = split_half(first, second, codes, n_boot=100)
    for row in found.table.itertuples():
        rows = codes == row.site
        rho = scipy.stats.spearmanr(first[rows], second[rows]).statistic
        assert row.rho == pytest.approx(rho)
        assert row.reliability == pytest.approx(2 * rho / (1 + rho))
        assert row.reliability_low < row.reliability < row.reliability_high
    assert found.halves.n_layers == 3
    assert float(found.reliability.low) == pytest.approx(2 * found.halves.low / (1 + found.halves.low))
    values = json.loads(json.dumps(found.to_dict()))
    assert values["reliability"] == float(found.reliability.estimate)
    assert values["halves"]["n_layers"] == 3


def test_spearman_brown_gives_the_reliability_of_the_whole():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200_000)
    halves = truth + rng.normal(0, 1.2, (2, truth.size))
    other = truth + rng.normal(0, 1.2, (2, truth.size))
    reliability = scipy.stats.pearsonr(halves.mean(axis=0), other.mean(axis=0)).statistic
    assert spearman_brown(scipy.stats.pearsonr(*halves).statistic) == pytest.approx(reliability, abs=0.01)


def test_spearman_brown_keeps_the_sign():
    np.testing.assert_allclose(spearman_brown([0, 1, 1 / 3, -0.2, -0.9, -1, np.nan]), [0, 1, 0.5, -0.5, -1, -1, np.nan])


def test_ceiling_is_undefined_without_reliability():
    np.testing.assert_allclose(
        ceiling([0.64, 0.0, -0.2, 1.0, np.nan], [0.25, 0.9, 0.9, 1.0, 1.0]), [0.4, *[np.nan] * 2, 1, np.nan]
    )
    assert np.isnan(ceiling(-0.5, -0.5))
    with pytest.raises(DataError, match="larger than 1"):
        ceiling(1.2, 0.5)


def test_disattenuated_finds_the_correlation_without_noise():
    rng = np.random.default_rng(2)
    x = rng.normal(size=200_000)
    y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=x.size)
    noisy = x + rng.normal(0, 1, x.size), y + rng.normal(0, 0.5, x.size)
    r = scipy.stats.pearsonr(*noisy).statistic
    got = disattenuated(Interval(*map(np.asarray, (r, r - 0.1, r + 0.1))), 1 / 2, 1 / 1.25)
    assert float(got.estimate) == pytest.approx(0.5, abs=0.01)
    assert float(got.high - got.low) == pytest.approx(0.2 / np.sqrt(0.5 / 1.25))


def test_disattenuated_is_not_cut_and_not_invented():
    whole = Interval(np.asarray(0.6), np.asarray(0.5), np.asarray(0.7))
    assert float(disattenuated(whole, 0.5, 0.5).estimate) == pytest.approx(1.2)
    assert np.isnan(disattenuated(whole, 0.0, 0.5)).all()


def test_noise_has_no_reliability():
    rng = np.random.default_rng(3)
    found = split_half(*rng.normal(size=(2, 400)), np.repeat(np.arange(8), 50), n_boot=50)
    assert float(found.reliability.low) < 0 < float(found.reliability.high)
    assert np.isnan(ceiling(found.reliability.low, 1.0))
