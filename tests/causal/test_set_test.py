import json

import numpy as np
import pytest
import scipy.stats

from auditor.causal import set_test
from auditor.errors import DataError, OptionError


def test_matches_scipy():
    rng = np.random.default_rng(0)
    selected, random = rng.normal(1, 1, 80), rng.normal(0, 1, (40, 80))
    result = set_test(selected, random, confidence=0.9)
    want = scipy.stats.ttest_rel(selected, random.mean(axis=0)).confidence_interval(0.9)
    assert (result.low, result.high) == pytest.approx((want.low, want.high))
    np.testing.assert_allclose(result.null, random.mean(axis=1))
    assert result.effect == pytest.approx(result.observed - result.null_mean)
    assert (result.null_low, result.null_high) == pytest.approx(tuple(np.quantile(result.null, [0.025, 0.975])))
    assert result.p_greater == pytest.approx(1 / 41)
    assert result.p_two_sided == pytest.approx(2 / 41)
    assert (result.n_images, result.n_sets, result.confidence) == (80, 40, 0.9)


def test_a_smaller_effect_is_not_greater():
    result = set_test(np.zeros(10), np.ones((99, 10)) + np.arange(99)[:, None])
    assert result.p_greater == 1
    assert result.p_two_sided == pytest.approx(0.02)
    assert result.effect < 0


def test_false_positive_rate_under_the_null():
    rng = np.random.default_rng(1)
    rejected = np.zeros(2)
    for _ in range(2000):
        images = rng.normal(0, 1, 20)  # shared difficulty of the images
        # The selected set is one more draw from the sets.
        effects = rng.normal(0, 0.3, 100)[:, None] + images + rng.normal(0, 0.5, (100, 20))
        result = set_test(effects[0], effects[1:])
        rejected += [result.p_greater <= 0.05, result.p_two_sided <= 0.05]
    # 5 % +- 3 standard errors
    assert (np.abs(rejected / 2000 - 0.05) < 0.015).all()


def test_interval_covers_the_difference_over_images():
    rng = np.random.default_rng(2)
    sets = rng.normal(0, 0.3, 50)
    truth = 0.4 - sets.mean()
    hits = 0
    for _ in range(1500):
        images = rng.gamma(1, 1, 60) - 1
        random = sets[:, None] + images + rng.normal(0, 0.5, (50, 60))
        result = set_test(0.4 + images + rng.normal(0, 0.5, 60), random)
        hits += result.low <= truth <= result.high
    assert hits / 1500 == pytest.approx(0.95, abs=0.02)


def test_result_is_plain_when_asked():
    result = set_test(np.arange(5.0), np.ones((3, 5)))
    values = json.loads(json.dumps(result.to_dict()))
    assert values["null"] == [1, 1, 1]
    assert values["n_sets"] == 3
    assert "3 matched random sets" in result.summary()


def test_one_image_has_no_interval():
    result = set_test([1.0], [[0.5], [0.25]])
    assert np.isnan(result.low)
    assert result.observed == 1


@pytest.mark.parametrize(
    "selected, random, text",
    [
        (np.ones(3), np.ones((2, 4)), "do not fit"),
        (np.ones(3), np.ones(3), "do not fit"),
        (np.ones(0), np.ones((2, 0)), "do not fit"),
        (np.ones(3), np.ones((0, 3)), "do not fit"),
        (np.array([1, np.nan]), np.ones((2, 2)), "not finite"),
        (np.ones(2), np.array([[1, np.inf]]), "not finite"),
    ],
)
def test_bad_input_is_named(selected, random, text):
    with pytest.raises(DataError, match=text):
        set_test(selected, random)
    with pytest.raises(OptionError):
        set_test(np.ones(2), np.ones((2, 2)), confidence=95)
