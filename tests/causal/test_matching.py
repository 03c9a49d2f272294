import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.causal import matched_sets
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
