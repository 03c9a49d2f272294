"""The masking checks on curves with a known answer."""

from __future__ import annotations

import numpy as np

from auditor.perturbations import masking

N = 400


def right(share: float) -> np.ndarray:
    """Nested images: those that survive a stronger attack survive a weaker one."""
    return np.arange(N) < round(share * N)


def test_falling_curves_pass() -> None:
    curve = {0.0: right(0.9), 1.0: right(0.6), 8.0: right(0.1)}
    check = masking.never_rises("epsilon", {"FGSM": curve}, "epsilon", 0.95)
    assert check.outcome == "passed"
    assert check.change < 0
    assert check.comparisons == 2
    assert masking.falls({"FGSM": curve}, curve[0.0], 0.95).outcome == "passed"


def test_a_rise_beyond_noise_fails_and_is_named() -> None:
    check = masking.never_rises(
        "epsilon", {"PGD": {1.0: right(0.5), 2.0: right(0.6), 4.0: right(0.2)}}, "epsilon", 0.95
    )
    assert check.outcome == "failed"
    assert check.detail == "PGD, epsilon 1 to 2"
    assert check.low > 0


def test_a_rise_within_noise_passes() -> None:
    before = right(0.5)
    after = before.copy()
    after[-2:] = True
    assert masking.never_rises("steps", {"PGD": {1: before, 5: after}}, "steps", 0.95).outcome == "passed"


def test_noise_fails_about_as_rarely_as_it_should() -> None:
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(300):
        hard = rng.random(N)
        curve = {float(e): hard + rng.normal(0, 0.1, N) > 0.5 for e in range(7)}
        failed += masking.never_rises("epsilon", {"FGSM": curve}, "epsilon", 0.95).outcome == "failed"
    assert failed / 300 < 0.06


def test_an_attack_that_changes_nothing_fails_if_it_is_large_and_is_no_check_if_it_is_small() -> None:
    clean = right(0.8)
    assert masking.falls({"FGSM": {16.0: clean}}, clean, 0.95).outcome == "failed"
    assert masking.falls({"FGSM": {0.5: clean}}, clean, 0.95).outcome == "not checked"
    assert masking.falls({"FGSM": {16.0: right(0.1)}, "PGD": {16.0: clean}}, clean, 0.95).outcome == "failed"


def test_one_step_that_beats_many_fails() -> None:
    check = masking.iterations({2.0: right(0.2)}, {2.0: right(0.5)}, 0.95)
    assert check.outcome == "failed"
    assert masking.iterations({2.0: right(0.5)}, {2.0: right(0.2)}, 0.95).outcome == "passed"
    assert masking.iterations({}, {2.0: right(0.2)}, 0.95).outcome == "not checked"


def test_transfer_that_beats_white_box_fails() -> None:
    assert masking.transfer(right(0.6), right(0.3), "other", 0.95).outcome == "failed"
    assert masking.transfer(right(0.3), right(0.8), "other", 0.95).outcome == "passed"


def test_verdict_needs_no_failure_and_one_success() -> None:
    passed = masking.transfer(right(0.3), right(0.8), "other", 0.95)
    failed = masking.transfer(right(0.8), right(0.3), "other", 0.95)
    skipped = masking.not_checked("transfer", "no other network")
    assert masking.verdict([passed, skipped]) == "passed"
    assert masking.verdict([passed, failed]) == "failed"
    assert masking.verdict([skipped]) == "not checked"


def test_few_right_images_are_no_sign_of_masking_unless_nothing_changes_them() -> None:
    clean = np.arange(60) < 6  # chance among ten classes
    none = np.zeros(60, dtype=bool)
    check = masking.falls({"FGSM": {16.0: none}, "PGD": {16.0: none}}, clean, 0.95)
    assert check.outcome == "not checked"
    assert "6 images are right without it" in check.detail
    assert masking.falls({"FGSM": {16.0: clean}, "PGD": {16.0: none}}, clean, 0.95).outcome == "failed"
    assert masking.falls({"FGSM": {16.0: none}}, none, 0.95).outcome == "not checked"
