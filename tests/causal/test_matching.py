import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.causal import least_selective_set, matched_sets
from auditor.errors import DataError, OptionError


def layers(seed=0, sizes=(64, 128)):
    rng = np.random.default_rng(seed)
    sites = np.repeat(np.arange(len(sizes)), sizes)
    return sites, rng.gamma(1, 1, len(sites)), np.ones(len(sites), dtype=bool)


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_sets_are_what_they_promise(data, seed):
    rng = np.random.default_rng(seed)
    sites = rng.integers(0, 3, 60)
    covariate = np.round(rng.gamma(1, 1, 60), 1)  # ties
    eligible = rng.random(60) < 0.9
    alive = np.flatnonzero(eligible)
    k = data.draw(st.integers(1, len(alive)))
    selected = rng.permutation(alive)[:k]
    result = matched_sets(selected, sites, covariate, eligible, n_sets=5, seed=seed)
    assert result.sets.shape == (5, k)
    assert (sites[result.sets] == sites[selected]).all()
    assert eligible[result.sets].all()
    assert all(len(set(row)) == k for row in result.sets.tolist())
    np.testing.assert_allclose(result.overlap, [np.isin(row, selected).mean() for row in result.sets])
    for code in np.unique(sites[selected]):
        inside = sites[selected] == code
        others = (sites == code) & eligible & ~np.isin(np.arange(60), selected)
        if others.sum() >= 2 * inside.sum():
            assert not np.isin(result.sets[:, inside], selected).any()
            assert result.pool_sizes[code] == others.sum()
        else:
            assert result.pool_sizes[code] == ((sites == code) & eligible).sum()
    again = matched_sets(selected, sites, covariate, eligible, n_sets=5, seed=seed)
    np.testing.assert_array_equal(again.sets, result.sets)


def test_matching_removes_the_difference_that_random_draws_leave():
    sites, covariate, eligible = layers(sizes=(200, 300))
    rng = np.random.default_rng(1)
    # Selected for a high covariate, with noise: the confound that matching is for.
    selected = np.argsort(-(covariate + rng.normal(0, 3, 500)))[:40]
    result = matched_sets(selected, sites, covariate, eligible, n_sets=100, seed=0)
    unmatched = (covariate.mean() - covariate[selected].mean()) / covariate.std()
    assert unmatched < -0.6
    assert abs(result.smd) < 0.35 * abs(unmatched)
    want = (covariate[result.sets].mean() - covariate[selected].mean()) / covariate.std()
    assert result.smd == pytest.approx(want)
    assert (result.overlap == 0).all()
    assert result.distinct > 0.5


def test_distinct_is_the_mean_pairwise_share_not_in_common():
    sites, covariate, eligible = layers()
    result = matched_sets(np.arange(0, 60, 6), sites, covariate, eligible, n_sets=8, seed=0)
    rows = [set(row) for row in result.sets.tolist()]
    shares = [len(a & b) / 10 for i, a in enumerate(rows) for b in rows[:i]]
    assert result.distinct == pytest.approx(1 - np.mean(shares))
    assert result.to_dict()["distinct"] == result.distinct


def test_a_selection_that_takes_most_of_a_site_overlaps_and_says_so():
    sites, covariate, eligible = layers(sizes=(64,))
    result = matched_sets(np.arange(35), sites, covariate, eligible, n_sets=50, seed=0)
    assert result.pool_sizes == {0: 64}
    assert 0.3 < result.overlap.mean() < 0.8


def test_sets_differ_between_seeds_and_between_each_other():
    sites, covariate, eligible = layers()
    a = matched_sets([1, 70], sites, covariate, eligible, n_sets=20, seed=0)
    b = matched_sets([1, 70], sites, covariate, eligible, n_sets=20, seed=1)
    assert not np.array_equal(a.sets, b.sets)
    assert len(np.unique(a.sets, axis=0)) > 10


def test_a_selected_unit_need_not_be_eligible_and_a_constant_covariate_is_fine():
    sites, covariate, eligible = layers()
    eligible[5] = False
    covariate[:] = 1.0
    result = matched_sets([5], sites, covariate, eligible, n_sets=200, seed=0)
    assert 5 not in result.sets
    assert result.smd == 0
    covariate[7], eligible[7] = np.nan, False
    assert 7 not in matched_sets([5], sites, covariate, eligible, n_sets=200, seed=0).sets


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"eligible": np.arange(192) == 3}, DataError, "Site 0 has too few"),
        ({"selected": []}, DataError, "No units"),
        ({"selected": [1, 1]}, DataError, "twice"),
        ({"selected": [192]}, DataError, "does not exist"),
        ({"selected": [-1]}, DataError, "does not exist"),
        ({"covariate": np.full(192, np.nan)}, DataError, "missing"),
        ({"covariate": np.ones(4)}, DataError, "same units"),
        ({"n_sets": 0}, OptionError, "At least one"),
    ],
)
def test_bad_input_is_named(change, error, text):
    sites, covariate, eligible = layers()
    arguments = {"selected": [0, 1], "site_codes": sites, "covariate": covariate, "eligible": eligible}
    with pytest.raises(error, match=text):
        matched_sets(**{**arguments, "n_sets": 3, "seed": 0, **change})


def two_covariates(seed=0):
    rng = np.random.default_rng(seed)
    sites = np.repeat([0, 1], 250)
    covariates = np.stack([rng.gamma(1, 1, 500), rng.beta(2, 2, 500)], axis=1)
    score = covariates[:, 0] + 5 * covariates[:, 1] + rng.normal(0, 1.5, 500)
    return sites, covariates, np.argsort(-score)[:30]


def test_several_covariates_are_matched_together():
    sites, covariates, selected = two_covariates()
    alive = np.ones(500, dtype=bool)
    result = matched_sets(selected, sites, covariates, alive, n_sets=60, seed=0)
    unmatched = (covariates.mean(axis=0) - covariates[selected].mean(axis=0)) / covariates.std(axis=0)
    assert (unmatched < -0.4).all()
    want = (covariates[result.sets].mean(axis=(0, 1)) - covariates[selected].mean(axis=0)) / covariates.std(axis=0)
    np.testing.assert_allclose(result.smds, want)
    assert (np.abs(want) < 0.5 * np.abs(unmatched)).all()
    assert result.smd == max(result.smds, key=abs)
    assert result.to_dict()["smds"] == list(result.smds)
    assert (sites[result.sets] == sites[selected]).all()
    assert all(len(set(row)) == 30 for row in result.sets.tolist())
    # Matched on the first covariate alone, the second is left as it was.
    one = matched_sets(selected, sites, covariates[:, 0], alive, n_sets=60, seed=0)
    other = (covariates[one.sets, 1].mean() - covariates[selected, 1].mean()) / covariates[:, 1].std()
    assert abs(other) > 2 * abs(result.smds[1])


def test_stand_ins_are_among_the_nearest_in_rank():
    sites, covariates, _ = two_covariates()
    result = matched_sets([7], sites, covariates, np.ones(500, dtype=bool), n_sets=300, seed=0, neighbours=3)
    ranks = scipy.stats.rankdata(covariates[:250], axis=0)
    distance = np.linalg.norm(ranks - ranks[7], axis=1)
    distance[7] = np.inf
    assert set(result.sets[:, 0]) == set(np.argsort(distance)[:3])


def test_one_column_is_one_covariate():
    sites, covariate, eligible = layers()
    flat = matched_sets([3, 90, 91], sites, covariate, eligible, n_sets=9, seed=4)
    column = matched_sets([3, 90, 91], sites, covariate[:, None], eligible, n_sets=9, seed=4)
    np.testing.assert_array_equal(flat.sets, column.sets)
    assert flat.smds == (flat.smd,) == column.smds


def test_results_stay_as_they_were():
    sites, covariate, eligible = layers()
    result = matched_sets([5, 17, 80, 150], sites, covariate, eligible, n_sets=3, seed=0)
    assert result.sets.tolist() == [[47, 63, 124, 71], [38, 42, 174, 130], [35, 29, 82, 71]]


def test_ties_of_several_covariates_are_broken_at_random():
    sites, eligible = np.zeros(60, dtype=int), np.ones(60, dtype=bool)
    result = matched_sets([0], sites, np.ones((60, 2)), eligible, n_sets=600, seed=0)
    assert len(np.unique(result.sets)) > 50
    assert result.smds == (0, 0)


def test_without_covariates_every_unit_of_the_site_is_as_likely():
    sites, _, eligible = layers(sizes=(20, 30))
    result = matched_sets([0, 1, 25], sites, None, eligible, n_sets=4000, seed=0, pool="all")
    assert scipy.stats.chisquare(np.bincount(result.sets[:, :2].ravel(), minlength=20)[:20]).pvalue > 0.01
    assert np.isnan(result.smd)
    assert result.smds == ()
    assert not result.balanced()
    # Hypergeometric: a set of two holds 2 * 2 / 20 selected units on average, a set of one 1 / 30.
    assert result.overlap.mean() == pytest.approx((0.2 + 1 / 30) / 3, abs=0.01)


def test_balance_is_asked_of_every_covariate():
    sites, covariates, selected = two_covariates()
    result = matched_sets(selected, sites, covariates, np.ones(500, dtype=bool), n_sets=60, seed=0)
    worst = max(abs(smd) for smd in result.smds)
    assert result.balanced(worst)
    assert not result.balanced(0.99 * worst)


def test_least_selective_units_are_the_lowest_of_each_site_in_the_order_of_the_selection():
    sites, score, eligible = layers(sizes=(40, 60))
    eligible[np.argsort(score)[:5]] = False
    selected = np.argsort(-score)[:12]
    least = least_selective_set(selected, sites, score, eligible)
    np.testing.assert_array_equal(sites[least], sites[selected])
    for k in range(1, 13):
        for code in (0, 1):
            inside = np.flatnonzero((sites == code) & eligible)
            want = inside[np.argsort(score[inside])][: int((sites[selected[:k]] == code).sum())]
            np.testing.assert_array_equal(least[:k][sites[selected[:k]] == code], want)


def test_least_selective_units_are_selected_ones_only_where_others_do_not_suffice():
    score = np.arange(10.0)
    least = least_selective_set([0, 9, 8, 7, 6, 5], np.zeros(10, int), score, np.ones(10, bool))
    assert least.tolist() == [1, 2, 3, 4, 0, 5]
    with pytest.raises(DataError, match="too few"):
        least_selective_set([9, 8], np.zeros(10, int), score, score < 1)
    with pytest.raises(DataError, match="score"):
        least_selective_set([9], np.zeros(10, int), np.full(10, np.nan), np.ones(10, bool))


@pytest.mark.parametrize("change", [{"pool": "some"}, {"neighbours": 0}])
def test_bad_options_are_named(change):
    sites, covariate, eligible = layers()
    with pytest.raises(OptionError):
        matched_sets([0], sites, covariate, eligible, n_sets=3, seed=0, **change)
