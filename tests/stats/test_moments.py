from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import DataError
from auditor.stats import ClassMoments


def data(seed, n, n_classes=3, n_units=4):
    rng = np.random.default_rng(seed)
    responses = rng.normal(50, 1, (n, n_units)) * (rng.random((n, n_units)) < 0.7)
    return responses, rng.integers(n_classes, size=n)


def one_shot(responses, labels):
    moments = ClassMoments(3, 4)
    moments.update(responses, labels)
    return moments


def assert_same(a, b):
    for name, values in a.state().items():
        np.testing.assert_allclose(values, b.state()[name], rtol=1e-10, atol=1e-9, err_msg=name)


def test_matches_numpy():
    responses, labels = data(0, 200)
    moments = one_shot(responses.astype(np.float32), labels)
    responses = responses.astype(np.float32).astype(float)
    for k in range(3):
        rows = responses[labels == k]
        np.testing.assert_allclose(moments.mean[k], rows.mean(axis=0))
        np.testing.assert_allclose(moments.variance[k], rows.var(axis=0, ddof=1))
    np.testing.assert_allclose(moments.overall_mean, responses.mean(axis=0))
    np.testing.assert_array_equal(moments.minimum, responses.min(axis=0))
    np.testing.assert_array_equal(moments.maximum, responses.max(axis=0))
    np.testing.assert_array_equal(moments.nonzero, (responses != 0).sum(axis=0))
    assert moments.n == 200


@given(seed=st.integers(0, 1000), n=st.integers(0, 60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_batches_and_merges_equal_one_shot(seed, n, cuts):
    responses, labels = data(seed, n)
    whole = one_shot(responses, labels)
    streamed, merged = ClassMoments(3, 4), ClassMoments(3, 4)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    for start, stop in pairwise(edges):
        streamed.update(responses[start:stop], labels[start:stop])
        merged.merge(one_shot(responses[start:stop], labels[start:stop]))
    assert_same(streamed, whole)
    assert_same(merged, whole)


def test_large_offsets_keep_the_variance():
    rng = np.random.default_rng(0)
    responses, labels = rng.normal(1e8, 1, (900, 4)), np.arange(900) % 3
    moments = ClassMoments(3, 4)
    for start in range(0, 900, 7):
        moments.update(responses[start : start + 7], labels[start : start + 7])
    want = [responses[labels == k].var(axis=0, ddof=1) for k in range(3)]
    np.testing.assert_allclose(moments.variance, want, rtol=1e-6)


def test_merge_leaves_the_other_unchanged():
    first, second = one_shot(*data(0, 20)), one_shot(*data(1, 20))
    before = second.state()
    first.merge(second)
    first.update(*data(2, 20))
    for name, values in second.state().items():
        np.testing.assert_array_equal(values, before[name])


def test_state_round_trip_goes_on_where_it_stopped():
    responses, labels = data(0, 50)
    moments = one_shot(responses[:20], labels[:20])
    again = ClassMoments.from_state(moments.state())
    again.update(responses[20:], labels[20:])
    assert_same(again, one_shot(responses, labels))
    assert moments.n == 20


def test_too_few_images_give_nan():
    moments = one_shot(np.ones((1, 4)), np.array([1]))
    assert np.isnan(moments.variance).all()
    assert np.isnan(ClassMoments(3, 4).overall_mean).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_response_that_is_not_finite_is_refused_and_named(bad):
    responses, labels = data(0, 10)
    moments = one_shot(responses, labels)
    broken = responses.copy()
    broken[4, 2] = bad
    with pytest.raises(DataError, match=r"1 unit\(s\) are not finite: 2"):
        moments.update(broken, labels)
    assert_same(moments, one_shot(responses, labels))


@pytest.mark.parametrize(
    "responses, labels, text",
    [
        (np.ones((2, 3)), np.array([0, 1]), "do not fit"),
        (np.ones((2, 4)), np.array([0]), "do not fit"),
        (np.ones((2, 4)), np.array([0, 3]), "out of range"),
        (np.ones((2, 4)), np.array([0, -1]), "out of range"),
        (np.ones((2, 4)), np.array([0.0, 1.0]), "out of range"),
    ],
)
def test_input_that_does_not_fit_is_refused(responses, labels, text):
    with pytest.raises(DataError, match=text):
        ClassMoments(3, 4).update(responses, labels)


def test_foreign_states_and_shapes_are_refused():
    state = one_shot(*data(0, 9)).state()
    with pytest.raises(DataError, match="no state"):
        ClassMoments.from_state({k: v for k, v in state.items() if k != "m2"})
    with pytest.raises(DataError, match="'count'"):
        ClassMoments.from_state({**state, "count": np.zeros(7, dtype=np.int64)})
    with pytest.raises(DataError, match="cannot be merged"):
        ClassMoments(3, 4).merge(ClassMoments(3, 5))
