from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from auditor.registry import Registry
from auditor_gini import GiniIndex

NO_VARIANCE = np.empty((0, 0))
deterministic = settings(derandomize=True, deadline=None)
# Means of 0 or well above the smallest normal number: subnormals have too few digits for an exact comparison.
class_means = hnp.arrays(
    np.float64,
    st.integers(2, 12).map(lambda n: (n, 1)),
    elements=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
).filter(lambda a: a.any())


def gini(means: np.ndarray, count: np.ndarray | None = None) -> np.ndarray:
    means = np.asarray(means, dtype=np.float64)
    count = np.full(means.shape[:-1], 10) if count is None else count
    return GiniIndex().score(means, NO_VARIANCE, count)[0]


def pairwise_gini(means: np.ndarray) -> float:
    """Mean absolute difference over all pairs, relative to twice the mean: the textbook definition."""
    c = means.ravel()
    n = len(c)
    return float(np.abs(c[:, None] - c[None, :]).sum() / (2 * n * (n - 1) * c.mean()))


@pytest.mark.parametrize("n_classes,k", [(2, 1), (2, 2), (3, 1), (3, 2), (10, 3), (10, 10), (1000, 10)])
def test_equal_response_to_k_classes_has_the_closed_form(n_classes: int, k: int) -> None:
    means = np.zeros((n_classes, 1))
    means[:k] = 0.7
    assert gini(means) == pytest.approx((n_classes - k) / (n_classes - 1), abs=1e-12)


def test_one_hot_is_one_and_flat_is_zero() -> None:
    means = np.stack([np.eye(10)[3], np.full(10, 2.5)], axis=1)
    np.testing.assert_allclose(gini(means), [1.0, 0.0], atol=1e-12)


def test_a_hand_computed_example() -> None:
    # 1 - 2 * (4 * 0.5 + 3 * 1.5 + 2 * 2.5 + 1 * 3.5) / (4 * 10) = 0.25, times 4 / 3.
    assert gini([[1.0], [3.0], [4.0], [2.0]]) == pytest.approx(1 / 3)


@deterministic
@given(class_means)
def test_agrees_with_the_pairwise_definition(means: np.ndarray) -> None:
    assert gini(means)[0] == pytest.approx(pairwise_gini(means), abs=1e-9)


@deterministic
@given(class_means, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_bounded_and_blind_to_scale_and_order(means: np.ndarray, scale: float, random) -> None:
    value = gini(means)[0]
    assert 0.0 <= value <= 1.0
    order = list(range(len(means)))
    random.shuffle(order)
    assert gini(means[order] * scale)[0] == pytest.approx(value, abs=1e-9)


@deterministic
@given(class_means, st.integers(1, 5))
def test_classes_without_images_are_ignored(means: np.ndarray, n_absent: int) -> None:
    padded = np.concatenate([means, np.full((n_absent, 1), 123.0)])
    count = np.concatenate([np.full(len(means), 4), np.zeros(n_absent, dtype=int)])
    assert gini(padded, count)[0] == pytest.approx(gini(means)[0], abs=1e-12)
    assert GiniIndex().score(padded, NO_VARIANCE, count)[1][0] == means[:, 0].argmax()


def test_undefined_units_are_nan() -> None:
    means = np.array([[0.0, -1.0, 1.0], [0.0, 2.0, 2.0]])
    np.testing.assert_array_equal(np.isnan(gini(means)), [True, True, False])
    assert np.isnan(gini(means, np.array([5, 0]))).all()


def test_leading_axes_are_independent_data_sets() -> None:
    rng = np.random.default_rng(0)
    means = rng.gamma(2.0, size=(4, 6, 5))
    count = np.array([[3] * 6, [3, 0, 3, 3, 0, 3], [1] * 6, [0, 0, 1, 1, 1, 1]])
    values, preferred = GiniIndex().score(means, NO_VARIANCE, count)
    assert values.shape == preferred.shape == (4, 5)
    for i in range(4):
        np.testing.assert_allclose(values[i], gini(means[i], count[i]))


def test_does_not_change_its_input() -> None:
    means = np.array([[3.0], [1.0], [2.0]])
    gini(means, np.array([1, 1, 0]))
    np.testing.assert_array_equal(means, [[3.0], [1.0], [2.0]])


def test_the_registry_finds_it_once_installed() -> None:
    if not any(e.name == "gini" for e in entry_points(group="auditor")):
        pytest.skip("auditor-gini is not installed")
    registry = Registry()
    registry.load_installed()
    assert "gini" not in registry.broken
    assert isinstance(registry.metric("gini"), GiniIndex)
