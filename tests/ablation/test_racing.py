"""Races with planted answers, their error rate over many orders, and their symmetries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.ablation.racing import Race, race, race_rounds
from auditor.errors import DataError, OptionError, UnknownNameError
from auditor.stats import confidence_sequences


def run(effects: np.ndarray, k: int, **options: Any) -> Race:
    """Race over a matrix of effects, units by images; within [-1, 1] unless told otherwise."""
    if options.get("bound") != "t":
        options.setdefault("bounds", (-1, 1))

    def measure(units: np.ndarray, images: np.ndarray) -> np.ndarray:
        return effects[np.ix_(units, images)]

    return race(measure, n_units=len(effects), n_images=effects.shape[1], k=k, **options)


def top(effects: np.ndarray, k: int) -> list[int]:
    return np.argsort(-effects.mean(axis=1), kind="stable")[:k].tolist()


def planted(seed: int = 0) -> np.ndarray:
    """60 units on 400 images; units 7, 3 and 50 matter most, by clear gaps, and the images' difficulty is shared."""
    rng = np.random.default_rng(seed)
    effects = 0.02 * rng.normal(size=(60, 400)) + 0.1 * rng.normal(size=400)
    effects[[7, 3, 50]] += np.array([[0.6], [0.45], [0.3]])
    return effects.clip(-1, 1)


@pytest.mark.parametrize("bound, most", [("betting", 0.3), ("t", 0.1)])
def test_clear_gaps_need_few_evaluations(bound, most):
    effects = planted()
    for seed in range(5):
        got = run(effects, 3, bound=bound, seed=seed)
        assert got.chosen.tolist() == [7, 3, 50]
        assert got.evaluations < most * got.possible == most * 60 * 400
        assert not got.exact
        assert got.evaluations == got.n_images.sum()
        assert (got.low <= got.mean).all()
        assert (got.mean <= got.high).all()


def test_shared_difficulty_is_no_obstacle():
    # Unpaired, a standard deviation of 0.5 would hide a gap of 0.05 on all but the last few of 2000 images.
    rng = np.random.default_rng(0)
    effects = rng.choice([0.0, 1.0], 2000) * 0.9 + 0.01 * rng.random((10, 2000))
    effects[4] += 0.05
    got = run(effects, 1, bounds=(0, 1))
    assert got.chosen.tolist() == [4]
    assert got.evaluations < 0.3 * got.possible


def test_table_tells_each_unit():
    got = run(planted(), 3)
    table = got.to_frame()
    assert table.index.name == "unit"
    assert table.index[table.chosen].tolist() == sorted(got.chosen.tolist())
    assert (table.status == np.where(table.chosen, "accepted", "rejected")).all()
    assert table.decided.between(1, got.rounds).all()
    assert set(table.n_images) <= set(np.cumsum([len(part) for part in race_rounds(400)]))
    truth = planted().mean(axis=1)
    assert ((table.low <= truth) & (truth <= table.high)).mean() >= 0.95


@pytest.mark.parametrize("bound", ["betting", "t"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_units_end_exactly_after_all_images(bound, value):
    got = run(np.full((5, 70), value), 2, bound=bound)
    assert got.exact
    assert got.chosen.tolist() == [0, 1]
    assert got.evaluations == got.possible == 350
    np.testing.assert_array_equal(got.low, got.mean)
    np.testing.assert_array_equal(got.high, got.mean)
    assert got.to_frame().status.tolist() == ["accepted"] * 2 + ["rejected"] * 3


def test_near_ties_end_within_the_tolerance():
    effects = planted()
    effects[20] = effects[50] + 0.001 * np.where(np.arange(400) % 2, 1, -1)
    strict, loose = run(effects, 3), run(effects, 3, tolerance=0.1)
    assert loose.evaluations < strict.evaluations
    assert loose.chosen[:2].tolist() == [7, 3]
    assert loose.chosen[2] in (20, 50)
    table = loose.to_frame()
    assert table.index[table.status == "undecided"].tolist() == [20, 50]
    assert table.decided[[20, 50]].tolist() == [0, 0]


def test_all_units_are_chosen_at_once():
    got = run(planted(), 60)
    assert got.rounds == 1
    assert got.evaluations == 60 * 32
    assert sorted(got.chosen) == list(range(60))
    assert (np.diff(got.mean[got.chosen]) <= 0).all()


def hard(kind: str) -> np.ndarray:
    """Six units on 240 images, of close means, within [0, 1]."""
    n, rng = 240, np.random.default_rng(2)
    share = np.array([0.5, 0.4, 0.32, 0.25, 0.1, 0.0])
    hits = rng.permuted(np.repeat(np.arange(n)[None], 6, axis=0), axis=1) < n * share[:, None]
    if kind == "accuracy":
        return hits.astype(float)
    if kind == "opposite":  # the second shows on images on which the third does not
        hits[1], hits[2] = np.arange(n) < 0.4 * n, np.arange(n) >= 0.68 * n
        return hits.astype(float)
    difficulty = np.exp(rng.normal(-1.5, 1, n))
    return np.minimum(difficulty * (0.3 + 2 * share[:, None] + 0.4 * rng.random((6, n))), 1)


@pytest.fixture
def no_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals decide nothing, and take most of the time of a small race."""

    def unknown(values: np.ndarray, **_: Any) -> np.ndarray:
        return np.full((3, len(values)), np.nan)

    monkeypatch.setattr(confidence_sequences, "betting_interval", unknown)


@pytest.mark.parametrize("kind", ["accuracy", "opposite", "shared"])
def test_error_rate_is_below_delta(kind, no_intervals):
    effects, delta, repeats = hard(kind), 0.3, 100
    races = [
        run(effects, 2, bounds=(0, 1), delta=delta, seed=seed, first=4, growth=1.5, tolerance=1e-3)
        for seed in range(repeats)
    ]
    errors = sum(sorted(got.chosen) != sorted(top(effects, 2)) for got in races)
    assert scipy.stats.binomtest(errors, repeats, delta, alternative="greater").pvalue > 1e-3
    assert np.mean([got.evaluations / got.possible for got in races]) < 0.9


def test_a_pair_built_to_mislead_does_so_with_less_than_delta(no_intervals):
    # The worse unit is a little better on nine images of ten, and that is all there is to see at first.
    rare = np.arange(60) < 6
    effects = np.stack([np.where(rare, 1, 0), np.where(rare, 0, 0.11)])
    options = {"bounds": (0, 1), "delta": 0.5, "first": 2, "growth": 1.3}
    wrong = sum(run(effects, 1, **options, seed=seed).chosen[0] for seed in range(300))
    assert wrong > 0
    assert scipy.stats.binomtest(wrong, 300, 0.5, alternative="greater").pvalue > 1e-3


def test_t_misses_an_effect_that_few_images_show_and_betting_does_not():
    rng = np.random.default_rng(0)
    effects = 0.001 * rng.random((20, 1000))
    effects[:5] += 0.1
    effects[19, :200] = 0.9  # the best by far, on a fifth of the images; 5 are not enough to see it
    options = {"first": 5, "growth": 1.5}
    assert all(19 in run(effects, 1, seed=seed, bounds=(0, 1), **options).chosen for seed in range(8))
    missed = sum(19 not in run(effects, 1, seed=seed, bound="t", **options).chosen for seed in range(20))
    assert missed >= 3  # none of 5: probability 0.33


sixtyfourths = st.integers(-64, 64)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), units=st.integers(1, 8), images=st.integers(1, 12), bound=st.sampled_from(["betting", "t"]))
def test_first_round_of_all_images_is_the_exact_ranking(data, units, images, bound):
    values = data.draw(st.lists(sixtyfourths, min_size=units * images, max_size=units * images))
    effects = np.array(values, dtype=np.float64).reshape(units, images) / 64
    k = data.draw(st.integers(1, units))
    got = run(effects, k, bound=bound, first=12)
    assert got.exact
    assert got.chosen.tolist() == top(effects, k)
    np.testing.assert_array_equal(got.mean, effects.mean(axis=1))
    assert (got.decided == 1).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 5), bound=st.sampled_from(["betting", "t"]))
def test_permuted_units_permute_the_result(seed, k, bound):
    rng = np.random.default_rng(seed)
    effects = (rng.random((6, 1)) + 0.3 * rng.normal(size=(6, 50))).clip(-1, 1)
    order = rng.permutation(6)
    options = {"bound": bound, "first": 4, "growth": 2.0, "seed": seed}
    plain, moved = run(effects, k, **options), run(effects[order], k, **options)
    assert order[moved.chosen].tolist() == plain.chosen.tolist()
    for name in ("mean", "low", "high", "n_images", "decided"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name)[order], atol=1e-9)


def recorded(effects: np.ndarray) -> tuple[Callable[..., np.ndarray], list[tuple[list[int], list[int]]]]:
    calls: list[tuple[list[int], list[int]]] = []

    def measure(units: np.ndarray, images: np.ndarray) -> np.ndarray:
        calls.append((units.tolist(), images.tolist()))
        return effects[np.ix_(units, images)]

    return measure, calls


def test_calls_are_the_same_each_time_and_no_pair_is_measured_twice():
    sizes = {"n_units": 60, "n_images": 400, "k": 3, "bounds": (-1, 1)}
    first, calls = recorded(planted())
    second, again = recorded(planted())
    settled: list[float] = []
    one, two = race(first, **sizes, advance=settled.append), race(second, **sizes)
    assert calls == again
    assert len(calls) == len(settled) == one.rounds
    assert sum(settled) == one.possible
    for (units, images), part in zip(calls, race_rounds(400), strict=False):
        assert images == part.tolist()
        assert units == sorted(units)
    assert sum(len(units) * len(images) for units, images in calls) == one.evaluations
    np.testing.assert_array_equal(one.to_frame(), two.to_frame())
    other, elsewhere = recorded(planted())
    race(other, **sizes, seed=1)
    assert elsewhere[0] != calls[0]


def test_rounds_are_one_order_of_all_images():
    parts = race_rounds(1000, first=10, growth=2, seed=4)
    assert np.cumsum([len(part) for part in parts]).tolist() == [10, 20, 40, 80, 160, 320, 640, 1000]
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert [part.tolist() for part in race_rounds(1, seed=4)] == [[0]]
    assert [len(part) for part in race_rounds(5, first=2, growth=1.01)] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    "options, error",
    [
        ({"k": 0}, OptionError),
        ({"k": 61}, OptionError),
        ({"delta": 0}, OptionError),
        ({"delta": 1}, OptionError),
        ({"tolerance": -0.1}, OptionError),
        ({"first": 1}, OptionError),
        ({"growth": 1}, OptionError),
        ({"bounds": (1, -1)}, OptionError),
        ({"bounds": (-1, [1, 1])}, OptionError),
        ({"bounds": None}, OptionError),
        ({"bound": "bernstein", "bounds": (-1, 1)}, UnknownNameError),
        ({"bounds": (-0.1, 0.1)}, DataError),
    ],
)
def test_mistakes_are_told(options, error):
    with pytest.raises(error):
        run(planted(), **{"k": 3, **options})


@pytest.mark.parametrize("wrong", [np.zeros((60, 31)), np.full((60, 32), np.nan), np.zeros(32)])
@pytest.mark.parametrize("bound", ["betting", "t"])
def test_effects_must_be_finite_and_one_for_each_pair(wrong, bound):
    with pytest.raises(DataError, match="each unit and image"):
        race(lambda *_: wrong, n_units=60, n_images=400, k=3, bounds=(-1, 1), bound=bound)


def test_rounding_past_a_bound_is_forgiven():
    p = np.random.default_rng(0).random(400).astype(np.float32)
    effects = np.stack([p + np.float32(1e-7), p - 1, 0 * p])
    got = run(effects, 1, bounds=(p.astype(float) - 1, p))
    assert got.chosen.tolist() == [0]
