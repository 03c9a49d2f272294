import json
import math

import numpy as np
import pytest
import scipy.stats

from auditor.causal import Outcome, decide, nested_test, set_test
from auditor.errors import DataError, OptionError

COUNTS = [5, 10, 20]


def effects(seed=0, n=80, draws=40, gain=1.0):
    rng = np.random.default_rng(seed)
    selected = rng.normal(gain, 1, (3, n))
    random = rng.normal(0, 0.2, (draws, 3, 1)) + rng.normal(0, 1, (draws, 3, n))
    return selected, random, rng.normal(0.2, 1, (3, n))


def test_each_size_is_a_set_test_as_scipy_computes_it():
    selected, random, least = effects()
    result = nested_test(selected, random, least, COUNTS, confidence=0.9)
    for k, size in enumerate(result.sizes):
        want = scipy.stats.ttest_rel(selected[k], random[:, k].mean(axis=0)).confidence_interval(0.9)
        assert (size.low, size.high) == pytest.approx((want.low, want.high))
        want = scipy.stats.ttest_rel(selected[k], least[k]).confidence_interval(0.9)
        assert (size.least_low, size.least_high) == pytest.approx((want.low, want.high))
        null = random[:, k].mean(axis=1)
        assert (size.random_low, size.random_high) == pytest.approx(tuple(np.quantile(null, [0.025, 0.975])))
        assert size.effect == pytest.approx(selected[k].mean() - null.mean())
        assert size.p == pytest.approx((1 + (null >= selected[k].mean()).sum()) / 41)
        single = set_test(selected[k], random[:, k], confidence=0.9)
        assert (size.p, size.p_two_sided) == (single.p_greater, single.p_two_sided)


def test_the_area_is_the_mean_over_sizes_image_by_image():
    selected, random, least = effects()
    result = nested_test(selected, random, least, COUNTS)
    want = scipy.stats.ttest_rel(selected.mean(axis=0), random.mean(axis=(0, 1))).confidence_interval(0.95)
    assert (result.area.low, result.area.high) == pytest.approx((want.low, want.high))
    assert result.area.effect == pytest.approx(np.mean([size.effect for size in result.sizes]))
    np.testing.assert_allclose(result.null, random.mean(axis=(1, 2)))
    assert (result.n_images, result.n_draws, result.counts) == (80, 40, (5, 10, 20))


def test_the_wide_interval_is_that_of_welch():
    selected, random, _ = effects(draws=12)
    result = nested_test(selected, random, None, COUNTS)
    # Welch's test of the differences over images against the centred means of the draws is the same formula.
    difference = selected.mean(axis=0) - random.mean(axis=(0, 1))
    draws = random.mean(axis=(1, 2))
    want = scipy.stats.ttest_ind(difference, draws - draws.mean(), equal_var=False).confidence_interval(0.95)
    assert (result.area.wide_low, result.area.wide_high) == pytest.approx((want.low, want.high))
    assert result.area.wide_low < result.area.low < result.area.high < result.area.wide_high


def test_sign_flips_of_lost_accuracy_are_mcnemars_test():
    rng = np.random.default_rng(2)
    selected, least = rng.random((1, 300)) < 0.10, rng.random((1, 300)) < 0.06
    result = nested_test(selected.astype(np.int8), np.zeros((3, 1, 300), np.int8), least.astype(np.int8), [4], seed=5)
    first, second = int((selected & ~least).sum()), int((least & ~selected).sum())
    want = scipy.stats.binomtest(first, first + second, alternative="greater").pvalue
    assert result.area.least_p == pytest.approx(want, abs=4 * math.sqrt(want * (1 - want) / 9999))
    want = scipy.stats.binomtest(first, first + second).pvalue
    assert result.area.least_p_two_sided == pytest.approx(want, abs=8 * math.sqrt(want * (1 - want) / 9999))


def test_ties_count_as_at_least_as_large():
    # One tenth has no exact binary form: sums in another order would differ by rounding.
    values = np.random.default_rng(0).integers(-1, 2, (3, 70)) * 0.1
    random = np.stack([values[:, np.random.default_rng(i).permutation(70)] for i in range(9)])
    result = nested_test(values, random, values, COUNTS)
    assert [size.p for size in result.sizes] == [1, 1, 1]
    assert result.area.p == 1
    assert result.area.least_p == 1
    assert result.p_beyond(0.0) == result.p_beyond(0.0, below=True) == 1


def test_smaller_types_give_the_same_result():
    rng = np.random.default_rng(0)
    selected, random = rng.integers(-1, 2, (3, 50)), rng.integers(-1, 2, (30, 3, 50))
    want = nested_test(selected, random.astype(np.float64), None, COUNTS).to_dict()
    assert nested_test(selected.astype(np.int8), random.astype(np.int8), None, COUNTS).to_dict() == want


def test_keeping_only_the_set_is_the_mirror_image():
    selected, random, least = effects()
    greater = nested_test(selected, random, least, COUNTS, seed=3)
    less = nested_test(-selected, -random, -least, COUNTS, seed=3, alternative="less")
    assert less.area.p == greater.area.p
    assert less.area.effect == pytest.approx(-greater.area.effect)
    for against in ("random", "least"):
        np.testing.assert_allclose(less.predicted(against), greater.predicted(against))
    assert less.p_beyond(0.5) == greater.p_beyond(0.5)
    assert less.area.least_p == pytest.approx(greater.area.least_p, abs=1e-3)
    estimate, low, high = (float(x) for x in less.predicted())
    assert decide(estimate, low, high, margin=0.1, p=less.area.p) is Outcome.SUPPORTED
    assert nested_test(selected, random, least, COUNTS, alternative="less").area.p == 1


def test_p_beyond_a_margin_shifts_the_draws():
    selected, random, _ = effects(gain=0.3, draws=99)
    result = nested_test(selected, random, None, COUNTS)
    assert result.p_beyond(0.0) == result.area.p
    observed = selected.mean()
    for margin in (-0.2, 0.2, 0.4, 1.0):
        shifted = random.mean(axis=(1, 2)) + margin
        assert result.p_beyond(margin) == pytest.approx((1 + (shifted >= observed).sum()) / 100)
        assert result.p_beyond(margin, below=True) == pytest.approx((1 + (shifted <= observed).sum()) / 100)


def test_holm_by_hand():
    # Ranks among 99 draws: p = 0.01, 0.03, 0.02, hence 0.03, 0.04 (2 x 0.02), 0.04 (1 x 0.03, at least the one before)
    random = np.tile(np.arange(99.0)[:, None, None], (1, 3, 2))
    result = nested_test(np.tile([[98.5], [96.5], [97.5]], (1, 2)), random, None, COUNTS)
    assert [size.p for size in result.sizes] == pytest.approx([0.01, 0.03, 0.02])
    assert result.p_holm == pytest.approx((0.03, 0.04, 0.04))
    assert np.isnan(result.least_p_holm).all()


def test_table_and_plain_values():
    selected, random, least = effects()
    result = nested_test(selected, random, least, COUNTS)
    table = result.to_frame()
    assert table["n_units"].tolist() == COUNTS
    assert table["p_holm"].tolist() == list(result.p_holm)
    assert table["effect"].tolist() == [size.effect for size in result.sizes]
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["sizes"][2]["least_p_holm"] == result.least_p_holm[2]
    assert len(values["null"]) == 40
    alone = nested_test(selected, random, None, COUNTS)
    assert not [c for c in alone.to_frame() if c.startswith("least")]
    assert not [c for c in alone.to_dict()["area"] if c.startswith("least")]
    np.testing.assert_allclose(alone.to_frame()["p"], table["p"])


def test_same_seed_same_result():
    selected, random, least = effects(gain=0.3)
    first, again, other = (nested_test(selected, random, least, COUNTS, seed=s).to_dict() for s in (1, 1, 2))
    assert first == again
    assert first["sizes"][0]["least_p_two_sided"] != other["sizes"][0]["least_p_two_sided"]


def test_too_little_data_has_no_interval():
    one_image = nested_test([[1.0]], [[[0.5]], [[0.2]]], None, [3])
    assert np.isnan([one_image.area.low, one_image.area.wide_low]).all()
    one_draw = nested_test([[1.0, 2.0]], [[[0.5, 0.1]]], None, [3])
    assert np.isnan(one_draw.area.wide_low)
    assert np.isfinite(one_draw.area.low)
    nothing = nested_test(np.zeros((2, 9)), np.zeros((5, 2, 9)), np.zeros((2, 9)), [1, 2])
    assert decide(*(float(x) for x in nothing.predicted()), margin=0.01) is Outcome.INCONCLUSIVE
    assert (nothing.area.p, nothing.area.least_p) == (1, 1)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"selected": np.ones(9)}, "do not fit"),
        ({"selected": np.ones((2, 9))}, "do not fit"),
        ({"random": np.ones((4, 3, 8))}, "do not fit"),
        ({"random": np.ones((0, 3, 9))}, "do not fit"),
        ({"least": np.ones((2, 9))}, "do not fit"),
        ({"counts": [1, 2]}, "do not fit"),
        ({"counts": [1, 1, 2]}, "increase"),
        ({"counts": [0, 1, 2]}, "increase"),
        ({"counts": [1.0, 2.0, 3.5]}, "whole"),
        ({"selected": np.full((3, 9), np.nan)}, "not finite"),
        ({"random": np.full((4, 3, 9), np.inf)}, "not finite"),
        ({"least": np.full((3, 9), np.nan)}, "not finite"),
    ],
)
def test_bad_input_is_named(change, text):
    values = {"selected": np.ones((3, 9)), "random": np.ones((4, 3, 9)), "least": None, "counts": [1, 2, 3], **change}
    with pytest.raises(DataError, match=text):
        nested_test(**values)


def test_bad_options_are_named():
    selected, random, _ = effects()
    with pytest.raises(OptionError):
        nested_test(selected, random, None, COUNTS, alternative="two-sided")
    with pytest.raises(OptionError):
        nested_test(selected, random, None, COUNTS, confidence=95)
