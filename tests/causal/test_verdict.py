import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from auditor.causal import (
    Outcome,
    Verdict,
    combine,
    decide,
    draws_needed,
    images_needed,
    reason,
    reversal,
    units_needed,
)
from auditor.errors import DataError, OptionError
from auditor.stats import empirical_p, paired_mean_interval
from auditor.stats.intervals import spearman_interval

NAN = math.nan


@pytest.mark.parametrize(
    "estimate, low, high, options, outcome, why",
    [
        (3, 2, 4, {"margin": 1}, "supported", "lies above"),
        (3, 2, 4, {"margin": 1, "p": 0.01}, "supported", "lies above"),
        (3, 2, 4, {"margin": 1, "p": 0.05}, "supported", "lies above"),
        (3, 2, 4, {"margin": 1, "p": 0.2}, "inconclusive", "larger than 0.05"),
        (3, 2, 4, {"margin": 1, "p": 0.04, "alpha": 0.01}, "inconclusive", "larger than 0.01"),
        (3, 2, 4, {"margin": 1, "p_below": 1.0}, "supported", "lies above"),
        (0.5, 0.2, 0.8, {"margin": 1, "p": 0.001}, "refuted", "smaller than declared"),
        (0.5, 0.2, 0.8, {"margin": 1, "p_below": 0.3}, "inconclusive", "larger than"),
        (0.5, 0.2, 0.8, {"margin": 1, "p": 0.9, "p_below": 0.01}, "refuted", "lies below"),
        (-1, -2, -0.5, {"margin": 0}, "refuted", "lies below"),
        (0.5, -0.5, 1.5, {"margin": 1, "p": 0.001}, "inconclusive", "includes"),
        (2, 1, 3, {"margin": 1}, "inconclusive", "includes"),
        (0, -1, 1, {"margin": 1}, "inconclusive", "includes"),
        (-0.5, -0.9, 0.1, {"margin": -1}, "supported", "lies above"),
        (2, 2, 2, {"margin": 1}, "inconclusive", "no spread"),
        (0, 0, 0, {"margin": 1}, "inconclusive", "no spread"),
        (NAN, 2, 4, {"margin": 1}, "inconclusive", "could not"),
        (3, NAN, NAN, {"margin": 1}, "inconclusive", "could not"),
        (3, 2, 4, {"margin": 1, "p": NAN}, "inconclusive", "p value could not"),
        (3, -math.inf, 4, {"margin": 1}, "inconclusive", "includes"),
    ],
)
def test_rule_and_its_corner_cases(estimate, low, high, options, outcome, why):
    assert decide(estimate, low, high, **options) == outcome
    assert why in reason(estimate, low, high, **options)


finite = st.floats(-100, 100)


@given(estimate=finite, below=st.floats(0, 50), above=st.floats(0, 50), margin=finite, shift=st.floats(0, 50))
def test_a_larger_effect_never_speaks_more_against_the_claim(estimate, below, above, margin, shift):
    order = [Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.SUPPORTED]
    first = decide(estimate, estimate - below, estimate + above, margin=margin)
    second = decide(estimate + shift, estimate + shift - below, estimate + shift + above, margin=margin)
    if (estimate - below != estimate + above) and (estimate + shift - below != estimate + shift + above):
        assert order.index(second) >= order.index(first)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"margin": NAN}, OptionError),
        ({"margin": math.inf}, OptionError),
        ({"alpha": 0.0}, OptionError),
        ({"alpha": 5.0}, OptionError),
        ({"low": 5.0}, DataError),
        ({"p": 1.5}, DataError),
        ({"p_below": -0.1}, DataError),
    ],
)
def test_bad_input_is_named(change, error):
    with pytest.raises(error):
        decide(**{"estimate": 3.0, "low": 2.0, "high": 4.0, "margin": 1.0, **change})


def test_a_conjunction_holds_if_every_part_does():
    s, r, i = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE
    assert combine([s, s]) is s
    assert combine([s, i]) is i
    assert combine([s, i, r]) is r
    assert combine(["supported"]) is s
    with pytest.raises(DataError):
        combine([])


def errors(count, n, rate):
    """Whether `count` of `n` is more than chance allows at `rate`."""
    return scipy.stats.binomtest(int(count), n, rate, alternative="greater").pvalue < 0.01


def test_errors_at_the_margin_stay_below_their_level():
    rng = np.random.default_rng(0)
    n = 4000
    drawn = rng.gamma(4, 0.5, (n, 60)) - 1  # true mean 1, skewed
    got = paired_mean_interval(drawn)
    outcomes = [decide(*(float(x[i]) for x in got), margin=1.0) for i in range(n)]
    supported, refuted = outcomes.count(Outcome.SUPPORTED), outcomes.count(Outcome.REFUTED)
    assert not errors(supported, n, 0.025)
    assert not errors(refuted, n, 0.05)
    assert supported + refuted > 0.03 * n
    # Two parts at the margin: the conjunction is rarer still.
    both = [combine(pair) for pair in zip(outcomes[::2], outcomes[1::2], strict=True)]
    assert not errors(both.count(Outcome.SUPPORTED), n // 2, 0.025**2 * 4)


def test_errors_over_the_choice_of_units_need_both_p_values():
    rng = np.random.default_rng(1)
    n, margin, counts = 1500, 2.0, {True: [], False: []}
    for _ in range(n):
        sets = rng.normal(0, 1, 80)  # true effect of the selection: the margin above sets that differ by as much
        images = margin + sets[0] - sets[1:].mean() + rng.normal(0, 1, 200)
        low, high = (float(x) for x in paired_mean_interval(images)[1:])
        p = float(empirical_p(sets[0], sets[1:]))
        p_below = float(empirical_p(sets[0], sets[1:], alternative="less"))
        counts[True].append(decide(images.mean(), low, high, margin=margin, p=p, p_below=p_below))
        counts[False].append(decide(images.mean(), low, high, margin=margin))
    for outcome in (Outcome.SUPPORTED, Outcome.REFUTED):
        assert not errors(counts[True].count(outcome), n, 0.05)
        assert counts[False].count(outcome) > 0.3 * n


@given(estimate=st.floats(-5, 5), below=st.floats(0.01, 3), above=st.floats(0.01, 3), margin=st.floats(-5, 5))
def test_reversal_names_the_thresholds_of_the_rule(estimate, below, above, margin):
    low, high = estimate - below, estimate + above
    text = reversal(decide(estimate, low, high, margin=margin), estimate, low, high, margin=margin, unit="points")
    assert f"{margin:.3g} points" in text
    support, refute = margin + (estimate - low), margin - (high - estimate)
    for threshold in (support, refute):
        assert f"{threshold:.3g} points" in text
    e = 1e-6
    assert decide(support + e, support + e - below, support + e + above, margin=margin) is Outcome.SUPPORTED
    assert decide(refute - e, refute - e - below, refute - e + above, margin=margin) is Outcome.REFUTED


def test_reversal_reads_like_a_sentence():
    text = reversal(Outcome.SUPPORTED, 3.2, 2.2, 4.2, margin=1.0, unit="points", p=0.005, what="a difference")
    assert text == (
        "A difference of at most 2 points, or p above 0.05, would have left the claim open, and a difference below "
        "0 points would have refuted it (margin 1 points; found: 3.2 [2.2, 4.2] points, p = 0.005)."
    )
    text = reversal(Outcome.REFUTED, 0.1, -0.8, 1.0, margin=0.2, what="a correlation", bounds=(-1, 1))
    assert "No correlation" not in text
    assert "no correlation could have supported the claim" in text
    assert "could not be computed" in reversal(Outcome.INCONCLUSIVE, NAN, NAN, NAN, margin=1)


def verdict(**change):
    values = {
        "key": "necessity", "title": "Necessity", "claim": "It hurts more.", "outcome": Outcome.INCONCLUSIVE,
        "sentence": "Nothing.", "effect": 1.0, "low": NAN, "high": 2.0, "unit": "points", "margin": 1.0, "p": None,
        "alpha": 0.05, "n": "10 images", "reversed_by": "More.", "limits": ("One.",), "details": {"a": 1},
    }  # fmt: skip
    return Verdict(**{**values, **change})


def test_a_verdict_survives_json():
    first = verdict()
    values = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert values["low"] is None
    assert values["outcome"] == "inconclusive"
    back = Verdict.from_dict(values)
    assert back.outcome is Outcome.INCONCLUSIVE
    assert math.isnan(back.low)
    assert (back.p, back.limits, back.details) == (None, ("One.",), {"a": 1})
    assert Verdict.from_dict(verdict(low=0.0, p=0.2).to_dict()) == verdict(low=0.0, p=0.2)


@pytest.mark.parametrize("change", [{"outcome": "maybe"}, {"more": 1}, {"claim": None}])
def test_a_foreign_verdict_is_refused(change):
    values = verdict().to_dict() | change
    if change == {"claim": None}:
        del values["claim"]
    with pytest.raises(DataError, match="no verdict"):
        Verdict.from_dict(values)


@given(
    estimate=st.floats(-5, 5), below=st.floats(0.01, 9), above=st.floats(0.01, 9), margin=finite, n=st.integers(2, 999)
)
def test_images_needed_are_enough_and_one_fewer_is_not(estimate, below, above, margin, n):
    needed = images_needed(estimate, estimate - below, estimate + above, n, margin=margin)
    if abs(estimate - margin) < 1e-3:
        return
    assert needed is not None

    def excludes(images):
        shrink = math.sqrt(n / images)
        return not estimate - below * shrink <= margin <= estimate + above * shrink

    assert excludes(needed * (1 + 1e-9))
    assert needed == 2 or not excludes((needed - 1) * (1 - 1e-9))


def test_images_needed_for_power_match_the_z_test():
    # sd 1 and n = 100: half width 0.196; effect 0.1; classical n = ((1.96 + 0.8416) / 0.1)^2 = 784.9
    z = scipy.stats.norm.ppf(0.975)
    assert images_needed(0.1, 0.1 - z / 10, 0.1 + z / 10, 100, margin=0, power=0.8) == 785


def test_no_number_of_images_moves_an_estimate_off_the_margin():
    assert images_needed(1, 0, 2, 50, margin=1) is None
    assert images_needed(0, -1, 1, 50, margin=1e-158) is None
    assert images_needed(NAN, NAN, NAN, 50, margin=1) is None
    assert images_needed(2, 2, 2, 50, margin=1) is None
    with pytest.raises(OptionError):
        images_needed(2, 1, 3, 0, margin=1)
    with pytest.raises(OptionError):
        images_needed(2, 1, 3, 5, margin=1, power=1)


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.05 / 6, 0.01, 0.005, 0.001, 0.3])
@pytest.mark.parametrize("two_sided", [False, True])
def test_draws_needed_are_the_fewest_whose_p_value_reaches_alpha(alpha, two_sided):
    draws = draws_needed(alpha, two_sided=two_sided)
    kind = "two-sided" if two_sided else "greater"
    assert empirical_p(1.0, np.zeros(draws), alternative=kind) <= alpha * (1 + 1e-12)
    assert draws == 1 or empirical_p(1.0, np.zeros(draws - 1), alternative=kind) > alpha
    assert draws_needed(0.05) == 19


def test_draws_needed_refuses_an_impossible_level():
    with pytest.raises(OptionError):
        draws_needed(0)


def test_units_needed_agree_with_the_interval():
    # A sample of 40 with its own rho: the interval computed from data excludes a margin just inside its end only.
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    got = spearman_interval(x, x + rng.normal(size=40))
    rho, low = float(got.estimate), float(got.low)
    assert units_needed(rho, low - 1e-6) == 40
    assert units_needed(rho, low + 1e-6) == 41
    assert units_needed(rho, rho) is None
    assert units_needed(rho, low, power=0.8) > 75
    with pytest.raises(OptionError):
        units_needed(1.0, 0)
    with pytest.raises(OptionError):
        units_needed(0.5, 1.0)
