import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from auditor.causal.halving import halving
from auditor.errors import DataError, OptionError

ALPHAS = np.array([-20.0, -5.0, -2.0, -1.0, -0.5, 0.0, 1.0, 5.0])


@pytest.mark.parametrize("factor", [0.5, 0.25])
@pytest.mark.parametrize("decay", [0.1, 0.7, 1.9])
def test_exponential_selectivity_and_straight_accuracy_are_met_exactly(decay, factor):
    index, accuracy = 0.4 * np.exp(decay * ALPHAS), 0.9 + 0.01 * ALPHAS
    got = halving(ALPHAS, index[None], accuracy[None], factor=factor)
    where = np.log(factor) / decay
    assert got.alpha == pytest.approx([where])
    assert got.cost == pytest.approx([0.01 * where])
    assert got.lowest == pytest.approx([np.exp(-20 * decay)])
    assert got.n_reached == 1


@given(
    st.lists(st.floats(0.01, 1), min_size=3, max_size=6),
    st.permutations(range(4)),
)
def test_it_is_the_first_crossing_of_the_broken_line_of_logarithms(values, order):
    alphas = -np.arange(len(values), dtype=float)
    index = np.array(values)
    got = halving(alphas, index[None], np.zeros((1, len(values))))
    # An independent way: numpy's interpolation on a fine grid.
    grid = np.linspace(0, alphas[-1], 20001)
    line = np.exp(np.interp(-grid, -alphas, np.log(index)))
    below = np.flatnonzero(line <= index[0] / 2 * (1 + 1e-12))
    # Found where a network is there; the fine grid finds the same, to its step.
    if len(below) == 0:
        assert np.isnan(got.alpha[0])
    else:
        assert got.alpha[0] == pytest.approx(grid[below[0]], abs=-2 * alphas[-1] / 20000)
    mixed = np.array([i for i in order if i < len(values)] + list(range(4, len(values))), dtype=int)
    again = halving(alphas[mixed], index[None, mixed], np.zeros((1, len(values))))
    np.testing.assert_array_equal(again.alpha, got.alpha)


def test_mean_and_interval_are_over_the_seeds_that_get_there():
    decays = np.array([0.5, 0.6, 0.8, 0.001])
    index = 0.4 * np.exp(decays[:, None] * ALPHAS)
    accuracy = 0.9 + np.array([0.01, 0.02, 0.03, 0.04])[:, None] * ALPHAS
    got = halving(ALPHAS, index, accuracy, confidence=0.9)
    where = -np.log(2) / decays[:3]
    assert np.isnan(got.alpha[3])
    assert got.n_reached == 3
    wanted = scipy.stats.t.interval(0.9, 2, where.mean(), scipy.stats.sem(where))
    assert [float(v) for v in got.interval()] == pytest.approx([where.mean(), *wanted])
    costs = where * [0.01, 0.02, 0.03]
    assert float(got.interval("cost").estimate) == pytest.approx(costs.mean())
    assert got.lowest[3] == pytest.approx(np.exp(-0.02))
    plain = got.to_dict()
    assert plain["n_reached"] == 3
    assert json.loads(json.dumps(plain))["alpha"]["by_seed"][0] == pytest.approx(where[0])


def test_one_seed_has_no_interval():
    got = halving([-1, 0], [[0.1, 0.4]], [[0.8, 0.9]])
    assert got.alpha == pytest.approx([-0.5])
    assert np.isnan(got.interval().low)
    none = halving([-1, 0], [[0.3, 0.4]], [[0.8, 0.9]]).interval()
    assert np.isnan(none.estimate)


def test_a_network_that_is_missing_makes_its_neighbours_neighbours():
    index = 0.4 * np.exp(ALPHAS)
    index[3] = np.nan
    got = halving(ALPHAS, index[None], (0.9 + 0.01 * ALPHAS)[None])
    assert got.alpha == pytest.approx([-np.log(2)])
    no_control = np.where(ALPHAS == 0, np.nan, index)
    assert np.isnan(halving(ALPHAS, no_control[None], no_control[None]).alpha).all()


def test_selectivity_above_a_floor_may_cross_zero():
    got = halving([-2, -1, 0], [[-0.2, 0.3, 0.4]], [[0.7, 0.8, 0.9]])
    assert got.alpha == pytest.approx([-1.2])  # (0.3 - 0.2) / 0.5 of the way, straight
    assert got.cost == pytest.approx([-0.12])
    assert np.isnan(halving([-1, 0], [[-0.1, -0.05]], [[0.9, 0.9]]).alpha).all()


@pytest.mark.parametrize(
    "alphas, index",
    [
        ([-1, 1], [[0.1, 0.2]]),
        ([-1, 0, 0], [[0.1, 0.2, 0.2]]),
        ([-1, 0], [[0.1, 0.2, 0.3]]),
        ([-1, 0], [0.1, 0.2]),
    ],
)
def test_tables_that_do_not_fit_are_refused(alphas, index):
    with pytest.raises(DataError):
        halving(alphas, index, index)


@pytest.mark.parametrize("options", [{"factor": 0}, {"factor": 1}, {"confidence": 1}])
def test_levels_are_checked(options):
    with pytest.raises(OptionError):
        halving([-1, 0], [[0.1, 0.2]], [[0.9, 0.9]], **options)
