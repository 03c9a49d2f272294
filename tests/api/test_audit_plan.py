"""Which units an audit silences together, against sorting by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from auditor.api.audit_plan import NestedSets, nested_sets, shares_within
from auditor.api.audit_settings import AuditSettings
from auditor.errors import OptionError

SETTINGS = AuditSettings(shares=(0.1, 0.25), keep_shares=(0.5, 0.75), keep_draws=20)
SIZES = {"first": 20, "second": 40, "third": 12}


def network(seed: int = 0, dead: float = 0.0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Unit table, scores, and the scores of those that may be chosen (the others are NaN)."""
    rng = np.random.default_rng(seed)
    site = np.repeat(list(SIZES), list(SIZES.values()))
    n = len(site)
    units = pd.DataFrame({"site": site, "dead": rng.random(n) < dead, "mean": rng.gamma(2.0, size=n)})
    score = np.where(units["dead"], np.nan, rng.normal(size=n) + 3 * (site == "second"))
    return units, score, np.where(score > np.nanquantile(score, 0.2), score, np.nan)


def plan(seed: int = 0, settings: AuditSettings = SETTINGS, *, kept: bool = False, dead: float = 0.0) -> NestedSets:
    units, score, candidates = network(seed, dead)
    covariates = units[["mean"]].to_numpy()
    return nested_sets(units, score if kept else candidates, score, covariates, settings, kept=kept)


@pytest.mark.parametrize("seed", range(4))
def test_every_prefix_is_the_top_of_each_layer(seed: int) -> None:
    units, score, candidates = network(seed)
    sets = plan(seed)
    for share, count in zip(SETTINGS.shares, sets.counts, strict=True):
        expected: list[int] = []
        for name, size in SIZES.items():
            own = np.flatnonzero((units["site"] == name) & ~np.isnan(candidates))
            top = sorted(own, key=lambda row: -score[row])
            # As many as lie, with half of themselves, in the share.
            expected += top[: int(np.floor(share * size + 0.5))]
        assert sorted(sets.chosen[:count].tolist()) == sorted(expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_least_are_the_lowest_of_the_same_layers(seed: int) -> None:
    units, score, _ = network(seed)
    sets = plan(seed)
    for count in sets.counts:
        sites = units["site"].to_numpy()
        assert sites[sets.least[:count]].tolist() == sites[sets.chosen[:count]].tolist()
        for name in SIZES:
            taken = sorted(row for row in sets.least[:count] if sites[row] == name)
            rows = np.flatnonzero(sites == name)
            assert taken == sorted(sorted(rows, key=lambda row: score[row])[: len(taken)])


def test_over_the_network_all_units_compete() -> None:
    units, _, candidates = network()
    sets = plan(settings=replace(SETTINGS, select_over="network"))
    ranked = [row for row in np.argsort(-candidates, kind="stable") if not np.isnan(candidates[row])]
    assert sets.counts == (7, 18)  # 0.1 and 0.25 of 72
    assert sets.chosen.tolist() == ranked[:18]
    # Selectivity is higher in the second layer by construction; by layers it gives no more than its share.
    assert (units["site"][sets.chosen] == "second").mean() > 0.9
    assert (units["site"][plan().chosen] == "second").mean() < 0.7


def test_shares_are_those_of_the_units_before_and_half_of_oneself() -> None:
    score = np.array([3.0, 1.0, np.nan, 2.0, 5.0, 4.0])
    codes = np.array([0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(shares_within(score, codes, over="layers"), [1 / 8, 5 / 8, np.inf, 3 / 8, 1 / 4, 3 / 4])
    found = shares_within(score, codes, over="network")
    np.testing.assert_allclose(found, np.array([2.5, 4.5, np.inf, 3.5, 0.5, 1.5]) / 6)


def test_kept_groups_are_the_complements() -> None:
    sets = plan(kept=True)
    assert sets.kept
    every = set(range(72))
    orders = [sets.chosen, sets.least, *sets.matched.sets]
    wanted = [every - set(order[:count].tolist()) for order in orders for count in sets.counts]
    assert [set(group.tolist()) for group in sets.groups()] == wanted
    assert len(sets.matched.sets) == SETTINGS.keep_draws


def test_split_puts_effects_back_to_the_groups_that_made_them() -> None:
    sets = plan()
    groups = sets.groups()
    # The effect of a group on image i is the sum of its rows, plus i / 10: it says which group it is of.
    effects = np.array([[group.sum() + i / 10 for i in range(5)] for group in groups])
    chosen, least, random = sets.split(effects)
    assert random.shape == (SETTINGS.draws, len(sets.counts), 5)
    for place, count in enumerate(sets.counts):
        for i in range(5):
            assert chosen[place, i] == sets.chosen[:count].sum() + i / 10
            assert least[place, i] == sets.least[:count].sum() + i / 10
            for draw in (0, 7, SETTINGS.draws - 1):
                assert random[draw, place, i] == sets.matched.sets[draw, :count].sum() + i / 10


def test_random_sets_are_of_the_same_layers_and_alive() -> None:
    units, _, _ = network(dead=0.2)
    sets = plan(dead=0.2)
    sites = units["site"].to_numpy()
    assert not units["dead"].to_numpy()[sets.matched.sets].any()
    assert not units["dead"].to_numpy()[sets.least].any()
    for drawn in sets.matched.sets:
        assert sites[drawn].tolist() == sites[sets.chosen].tolist()
        assert len(set(drawn.tolist())) == len(drawn)


def test_the_seed_decides_the_draws_and_nothing_else() -> None:
    first, again, other = plan(), plan(), plan(settings=replace(SETTINGS, seed=1))
    np.testing.assert_array_equal(first.matched.sets, again.matched.sets)
    assert (first.matched.sets != other.matched.sets).any()
    np.testing.assert_array_equal(first.chosen, other.chosen)
    np.testing.assert_array_equal(first.least, other.least)


def test_the_pool_can_leave_the_selection_out() -> None:
    mixed, apart = plan(), plan(settings=replace(SETTINGS, pool="others"))
    assert mixed.matched.overlap.mean() > 0
    assert not np.isin(apart.matched.sets, apart.chosen).any()


def test_too_few_selective_units_are_an_error_that_says_so() -> None:
    units, score, _ = network()
    few = np.where(np.arange(72) % 18 == 0, score, np.nan)
    with pytest.raises(OptionError) as caught:
        nested_sets(units, few, score, units[["mean"]].to_numpy(), SETTINGS)
    for part in ("Only 4 of 72 units may be chosen", "not significantly selective", "25% of the units", "fix:"):
        assert part in str(caught.value)
    with pytest.raises(OptionError, match="not a single one"):
        nested_sets(units, score, score, units[["mean"]].to_numpy(), replace(SETTINGS, shares=(0.001,)))
    with pytest.raises(OptionError, match=r"have no selectivity[^$]*leave out sufficiency"):
        nested_sets(units, few, few, units[["mean"]].to_numpy(), SETTINGS, kept=True)
