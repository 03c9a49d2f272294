"""Error rates and power of the whole chain: match, silence, test, decide."""

import numpy as np
import pytest
import scipy.stats

from auditor.causal import Outcome, decide, least_selective_set, matched_sets, nested_test

COUNTS = np.array([5, 10, 20])
K, DRAWS, IMAGES = 20, 39, 40


def audit(seed, weight, *, sizes=(60, 60), confound=0.0, margin=0.0, matched=True, pool="all", neighbours=4):
    """One network: units with a mean activation, a selectivity and an effect (`weight`) on every image."""
    rng = np.random.default_rng([7, seed])
    sites = np.repeat(np.arange(len(sizes)), sizes)
    mean = rng.gamma(2, 1, len(sites))
    score = rng.normal(0, 1, len(sites)) + confound * (mean - 2)
    selected = np.argsort(-score)[:K]
    alive = np.ones(len(sites), dtype=bool)
    chosen = np.isin(np.arange(len(sites)), selected)
    units = weight(rng, mean, chosen)[:, None] * rng.gamma(1, 1, (len(sites), IMAGES))
    sets = matched_sets(
        selected, sites, mean if matched else None, alive, n_sets=DRAWS, seed=seed, pool=pool, neighbours=neighbours
    )

    def curve(members):
        return units[members].cumsum(axis=-2)[..., COUNTS - 1, :]

    least = least_selective_set(selected, sites, score, alive)
    test = nested_test(curve(selected), curve(sets.sets), None, COUNTS, seed=seed)
    estimate, low, high = (float(x) for x in test.predicted())
    outcome = decide(
        estimate, low, high, margin=margin, p=test.p_beyond(margin), p_below=test.p_beyond(margin, below=True)
    )
    against_least = float((curve(selected) - curve(least)).mean())
    return test.area.p, outcome, sets, against_least


def run(n, weight, **options):
    found = [audit(seed, weight, **options) for seed in range(n)]
    p = np.array([one[0] for one in found])
    return (p <= 0.05).sum(), [one[1] for one in found], found


def more_than(count, n, rate=0.05):
    """Whether `count` of `n` shows a rate above `rate`, at 1 %."""
    return scipy.stats.binomtest(int(count), n, rate, alternative="greater").pvalue < 0.01


def independent(rng, mean, chosen):
    return rng.gamma(1, 1, len(mean))


def proportional(rng, mean, chosen):
    return mean * rng.gamma(4, 0.25, len(mean))


@pytest.mark.slow
def test_level_where_the_selection_is_like_any_other_set():
    n = 1500
    rejected, outcomes, _ = run(n, independent, matched=False)
    assert scipy.stats.binomtest(int(rejected), n, 0.05).pvalue > 0.01
    for outcome in (Outcome.SUPPORTED, Outcome.REFUTED):
        assert not more_than(outcomes.count(outcome), n)
    # Matched sets of all units hold their level too; those of the others differ too little from each other.
    n = 400
    assert not more_than(run(n, independent)[0], n)
    n = 1500
    assert more_than(run(n, independent, matched=False, pool="others", sizes=(60,))[0], n)


@pytest.mark.slow
def test_errors_at_a_declared_margin():
    n = 1000
    # Units of the selection have 0.3 more effect, so sets of size k have 0.3 k more than sets without any of them.
    rejected, outcomes, found = run(
        n,
        lambda rng, mean, chosen: rng.gamma(1, 1, len(mean)) + 0.3 * chosen,
        sizes=(400, 400),
        matched=False,
        # What is left of it where a random set holds 1 / 40 of the selection.
        margin=0.3 * 35 / 3 * 39 / 40,
    )
    for outcome in (Outcome.SUPPORTED, Outcome.REFUTED):
        assert not more_than(outcomes.count(outcome), n)
    assert rejected > 0.2 * n
    assert np.mean([one[3] for one in found]) == pytest.approx(0.3 * 35 / 3, rel=0.1)


@pytest.mark.slow
def test_a_causal_selection_is_found():
    n = 150
    _, outcomes, found = run(n, lambda rng, mean, chosen: rng.gamma(1, 1, len(mean)) * (1 + 1.5 * chosen))
    assert outcomes.count(Outcome.SUPPORTED) > 0.8 * n
    assert outcomes.count(Outcome.REFUTED) == 0
    assert np.mean([one[3] > 0 for one in found]) > 0.95


@pytest.mark.slow
def test_a_selective_but_idle_selection_is_not_called_important():
    n = 150
    _, outcomes, _ = run(n, lambda rng, mean, chosen: rng.gamma(1, 1, len(mean)) * (1.0 - chosen))
    assert outcomes.count(Outcome.SUPPORTED) == 0
    assert outcomes.count(Outcome.REFUTED) > 0.9 * n


@pytest.mark.slow
def test_a_confound_by_mean_activation_fools_unmatched_sets_but_not_matched_ones():
    n = 300
    setting = {"sizes": (500, 500), "confound": 0.2}
    matched, outcomes, found = run(n, proportional, **setting)
    unmatched, fooled, _ = run(n, proportional, **setting, matched=False)
    assert unmatched > 0.5 * n
    assert fooled.count(Outcome.SUPPORTED) > 0.5 * n
    assert not more_than(matched, n)
    assert not more_than(outcomes.count(Outcome.SUPPORTED), n)
    assert np.mean([one[2].balanced() for one in found]) > 0.9


@pytest.mark.slow
def test_a_confound_too_strong_to_match_away_shows_in_the_balance():
    n = 100
    rejected, _, found = run(n, proportional, sizes=(60, 60), confound=1.0)
    assert rejected > 0.05 * n
    balanced = [p <= 0.05 for p, _, sets, _ in found if sets.balanced()]
    assert not more_than(sum(balanced), n)
    assert np.mean([not sets.balanced() for _, _, sets, _ in found]) > 0.8
