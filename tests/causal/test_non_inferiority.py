import json

import numpy as np
import pytest
import scipy.stats

from auditor.causal import Outcome, harm, harm_images, non_inferiority, non_inferiority_images
from auditor.errors import DataError, OptionError

RNG = np.random.default_rng(0)
CONTROL = 0.9 + RNG.normal(0, 0.01, 6)
TREATED = CONTROL - 0.004 + RNG.normal(0, 0.004, 6)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("test, alternative, sign", [(non_inferiority, "greater", 1), (harm, "less", 1)])
def test_over_seeds_as_scipy(test, alternative, sign, confidence):
    got = test(TREATED, CONTROL, margin=0.01, confidence=confidence)
    want = scipy.stats.ttest_rel(TREATED + 0.01, CONTROL, alternative=alternative)
    assert got.p == pytest.approx(want.pvalue)
    interval = scipy.stats.ttest_rel(TREATED, CONTROL).confidence_interval(confidence)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high))
    assert got.difference == pytest.approx((TREATED - CONTROL).mean())
    assert (got.over, got.n, got.margin) == ("seeds", 6, 0.01)


def test_outcomes_of_both_claims():
    same = CONTROL + np.array([1e-3, -1e-3, 0, 1e-3, 0, -1e-3])
    worse = CONTROL - np.array([0.05, 0.06, 0.05, 0.06, 0.05, 0.06])
    assert non_inferiority(same, CONTROL, margin=0.01).outcome is Outcome.SUPPORTED
    assert non_inferiority(worse, CONTROL, margin=0.01).outcome is Outcome.REFUTED
    assert non_inferiority(same, CONTROL, margin=0.0).outcome is Outcome.INCONCLUSIVE
    assert harm(worse, CONTROL).outcome is Outcome.SUPPORTED
    assert harm(worse, CONTROL, margin=0.1).outcome is Outcome.REFUTED
    assert harm(same, CONTROL).outcome is Outcome.INCONCLUSIVE
    # A run that is clearly better is no worse, and harm is refuted.
    assert non_inferiority(CONTROL, worse, margin=0.01).outcome is Outcome.SUPPORTED
    assert harm(CONTROL, worse).outcome is Outcome.REFUTED
    assert json.loads(json.dumps(harm(worse, CONTROL).to_dict()))["outcome"] == "supported"


def test_one_seed_decides_nothing_without_images():
    got = non_inferiority([0.9], [0.8], margin=0.01)
    assert np.isnan([got.low, got.high, got.p]).all()
    assert (got.outcome, got.over) == (Outcome.INCONCLUSIVE, "seeds")


def test_seeds_without_spread_decide_nothing():
    got = non_inferiority([0.5, 0.5], [0.5, 0.5], margin=0.01)
    assert np.isnan(got.p)
    assert got.outcome is Outcome.INCONCLUSIVE


def images(n=1000, both=900, only_treated=20, only_control=12):
    treated, control = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    treated[: both + only_treated] = True
    control[:both] = True
    control[both + only_treated : both + only_treated + only_control] = True
    return treated, control


def test_one_seed_falls_back_on_images_and_says_so():
    treated, control = images()
    got = non_inferiority([0.92], [0.912], margin=0.02, images=(treated, control))
    assert got == non_inferiority_images(treated, control, margin=0.02)
    assert (got.over, got.n) == ("images", 1000)
    assert got.difference == pytest.approx(0.008)
    assert got.outcome is Outcome.SUPPORTED
    two = non_inferiority([0.92, 0.9], [0.9, 0.9], margin=0.02, images=(treated, control))
    assert two.over == "seeds"
    assert harm([0.9], [0.9], images=(treated, control)) == harm_images(treated, control)


@pytest.mark.parametrize("test", [non_inferiority_images, harm_images])
@pytest.mark.parametrize("margin", [0.0, 0.003, 0.01])
def test_p_over_images_agrees_with_the_interval(test, margin):
    # The one-sided p value is below 2.5 % exactly where the 95 % interval excludes the margin.
    for only_control in range(10, 80, 3):
        got = test(*images(n=2000, both=1800, only_treated=30, only_control=only_control), margin=margin)
        excluded = got.low > -margin if got.claim == "no worse" else got.high < -margin
        assert excluded == (got.p < 0.025)


def test_p_over_images_by_hand():
    # n = 1000: p1 = 21/1002, p2 = 13/1002
    got = non_inferiority_images(*images(), margin=0.005)
    p1, p2 = 21 / 1002, 13 / 1002
    z = (p1 - p2 + 0.005) / np.sqrt((p1 + p2 - (p1 - p2) ** 2) / 1002)
    assert got.p == pytest.approx(scipy.stats.norm.sf(z))
    assert harm_images(*images(), margin=0.005).p == pytest.approx(scipy.stats.norm.cdf(z))


def test_level_at_the_margin_over_seeds():
    rng = np.random.default_rng(3)
    n, hits = 3000, {"no worse": 0, "worse": 0}
    for _ in range(n):
        control = rng.normal(0.9, 0.02, 5)
        treated = control - 0.01 + rng.normal(0, 0.005, 5)
        hits["no worse"] += non_inferiority(treated, control, margin=0.01).p <= 0.05
        hits["worse"] += harm(treated, control, margin=0.01).p <= 0.05
    for count in hits.values():
        assert scipy.stats.binomtest(count, n, 0.05).pvalue > 0.01


def test_level_at_the_margin_over_images():
    rng = np.random.default_rng(4)
    n, hits = 2000, 0
    for _ in range(n):
        kind = rng.choice(3, 800, p=[0.03, 0.05, 0.92])  # loses 2 points
        hits += non_inferiority_images(kind != 1, kind != 0, margin=0.02).p <= 0.05
    assert scipy.stats.binomtest(hits, n, 0.05, alternative="greater").pvalue > 0.01
    assert hits > 0.03 * n


@pytest.mark.parametrize(
    "treated, control, error",
    [
        ([0.9], [0.9, 0.8], DataError),
        ([], [], DataError),
        ([[0.9]], [[0.9]], DataError),
        ([np.nan], [0.9], DataError),
    ],
)
def test_bad_pairs_are_named(treated, control, error):
    with pytest.raises(error):
        non_inferiority(treated, control, margin=0.01)


def test_bad_options_are_named():
    for change in (
        {"margin": -0.01},
        {"margin": np.nan},
        {"margin": 0.1, "alpha": 1},
        {"margin": 0.1, "confidence": 2},
    ):
        with pytest.raises(OptionError):
            harm(TREATED, CONTROL, **change)
    with pytest.raises(DataError, match="0 or 1"):
        non_inferiority_images([0.5], [1], margin=0.1)
