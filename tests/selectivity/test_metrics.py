import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from auditor.selectivity import CCMAS, ClassSelectivityIndex, DPrime, LifetimeSparseness, Metric, heldout_index
from auditor.selectivity.base import preferred_class
from auditor.selectivity.builtin import auditor_metrics
from auditor.selectivity.resample import class_members, observed_moments

METRICS = [metric for metric in auditor_metrics() if isinstance(metric, Metric)]


@st.composite
def class_means(draw):
    n_classes, n_units = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    return draw(hnp.arrays(np.float64, (n_classes, n_units), elements=st.floats(0, 1e3, allow_subnormal=False)))


def data(seed=0, n=200, n_classes=5, n_units=7):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    return rng.gamma(1.0, 1.0, (n, n_units)) * (1 + labels[:, None] * rng.random(n_units)), labels


def moments(responses, labels, n_classes=5):
    members = class_members(labels, n_classes)
    return (*observed_moments(responses, members), np.array([len(m) for m in members]))


@given(n_classes=st.integers(2, 60), share=st.floats(0, 1), level=st.floats(1e-2, 1e4))
def test_index_has_the_closed_form(n_classes, share, level):
    k = max(1, round(share * n_classes))
    mean = np.zeros((n_classes, 1))
    mean[:k] = level
    value, preferred = ClassSelectivityIndex().score(mean, np.empty(0), np.ones(n_classes))
    expected = 1.0 if n_classes + k == 2 else (n_classes - k) / (n_classes + k - 2)
    assert value[0] == pytest.approx(expected, abs=1e-4)
    assert preferred[0] == 0


@given(mean=class_means())
def test_index_matches_a_loop_and_stays_in_bounds(mean):
    value, preferred = ClassSelectivityIndex().score(mean, np.empty(0), np.ones(len(mean)))
    for u in range(mean.shape[1]):
        row = list(mean[:, u])
        if max(row) == 0:
            assert np.isnan(value[u])
            continue
        best = int(np.argmax(row))
        others = [x for i, x in enumerate(row) if i != best]
        rest = sum(others) / len(others)
        assert value[u] == pytest.approx((row[best] - rest) / (row[best] + rest + 1e-7), abs=1e-9)
        assert preferred[u] == best
        assert 0 <= value[u] <= 1


def test_ccmas_averages_over_images_and_equals_the_index_when_balanced():
    responses, labels = data()
    mean, variance, count = moments(responses, labels)
    value, preferred = CCMAS().score(mean, variance, count)
    for u in range(responses.shape[1]):
        inside = labels == preferred[u]
        a, b = responses[inside, u].mean(), responses[~inside, u].mean()
        assert value[u] == pytest.approx((a - b) / (a + b + 1e-7), abs=1e-12)
    assert not np.allclose(value, ClassSelectivityIndex().values(mean, variance, count), atol=1e-4)
    even = np.full(5, 40)
    np.testing.assert_allclose(
        CCMAS().values(mean, variance, even), ClassSelectivityIndex().values(mean, variance, even), atol=1e-12
    )


@pytest.mark.parametrize("offset", [0.0, -3.0, 1e6])
def test_dprime_matches_the_definition_on_raw_data(offset):
    responses, labels = data(n=150)
    responses = responses + offset
    value, preferred = DPrime().score(*moments(responses, labels))
    for u in range(responses.shape[1]):
        each = []
        for k in range(5):
            a, b = responses[labels == k, u], responses[labels != k, u]
            each.append((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
        assert value[u] == pytest.approx(max(each), rel=1e-6)
        assert preferred[u] == int(np.argmax(each))


@pytest.mark.parametrize("metric", METRICS, ids=repr)
class TestEveryMetric:
    def test_ignores_classes_without_images(self, metric):
        responses, labels = data()
        mean, variance, count = moments(responses, labels)
        want, _ = metric.score(mean, variance, count)
        wider = [np.insert(a, 2, 99.0, axis=0) for a in (mean, variance)]
        value, preferred = metric.score(*wider, np.insert(count, 2, 0))
        np.testing.assert_allclose(value, want, atol=1e-12)
        assert not (preferred == 2).any()

    def test_dead_units_and_a_single_class_are_undefined(self, metric):
        responses, labels = data()
        responses[:, 3] = 0
        mean, variance, count = moments(responses, labels)
        value, _ = metric.score(mean, variance, count)
        assert np.isnan(value).tolist() == [u == 3 for u in range(7)]
        assert np.isnan(metric.score(mean, variance, np.array([9, 0, 0, 0, 0]))[0]).all()

    def test_leading_axes_are_independent(self, metric):
        parts = [moments(*data(seed)) for seed in range(3)]
        value, preferred = metric.score(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
        for i, part in enumerate(parts):
            one, best = metric.score(*part)
            np.testing.assert_allclose(value[i], one)
            np.testing.assert_array_equal(preferred[i], best)

    def test_score_values_and_values_at_agree(self, metric):
        part = moments(*data())
        value, preferred = metric.score(*part)
        np.testing.assert_allclose(metric.values(*part), value)
        np.testing.assert_allclose(metric.values_at(*part, preferred), value, atol=1e-12)
        others = [metric.values_at(*part, np.full(7, k)) for k in range(5)]
        assert (np.max(others, axis=0) <= value + 1e-12).all()

    def test_scale_does_not_matter(self, metric):
        responses, labels = data()
        big = metric.values(*moments(responses * 1000, labels))
        np.testing.assert_allclose(big, metric.values(*moments(responses, labels)), atol=1e-6)

    def test_inputs_are_not_changed(self, metric):
        part = moments(*data())
        copies = [a.copy() for a in part]
        metric.score(*part)
        for a, b in zip(part, copies, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_says_what_it_is(self, metric):
        assert metric.name.isidentifier()
        assert metric.label
        assert metric.reference
        assert metric.bounds[0] < metric.bounds[1]


def test_negative_class_means_are_undefined_for_the_index_only():
    mean = np.array([[1.0], [-0.5]])
    assert np.isnan(ClassSelectivityIndex().values(mean, np.empty(0), np.ones(2)))
    assert np.isnan(CCMAS().values(mean, np.empty(0), np.ones(2)))
    assert DPrime().values(mean, np.ones((2, 1)), np.full(2, 10)) > 0


def test_a_constant_unit_has_no_dprime():
    labels = np.arange(30) % 3
    part = moments(np.full((30, 1), 0.1), labels, 3)
    assert np.isnan(DPrime().values(*part)).all()
    assert ClassSelectivityIndex().values(*part)[0] == pytest.approx(0, abs=1e-9)


def test_sparseness_matches_the_definition_on_raw_data():
    responses, labels = data(n=157)
    responses[:, 2] *= np.random.default_rng(1).random(157) < 0.05
    value, preferred = LifetimeSparseness().score(*moments(responses, labels))
    r = responses
    np.testing.assert_allclose(value, (1 - r.mean(0) ** 2 / (r**2).mean(0)) / (1 - 1 / 157), atol=1e-12)
    np.testing.assert_array_equal(preferred, ClassSelectivityIndex().score(*moments(responses, labels))[1])
    assert value[2] > 0.9


@given(n=st.integers(4, 60), firing=st.floats(0, 1))
def test_sparseness_has_the_closed_form(n, firing):
    k = max(1, round(firing * n))
    responses = (np.arange(n) < k).astype(float)[:, None] * 3.5
    value = LifetimeSparseness().values(*moments(responses, np.arange(n) % 2, 2))
    assert value[0] == pytest.approx((1 - k / n) / (1 - 1 / n), abs=1e-12)  # equal response to k of n images


def test_preferred_class_takes_the_first_of_equals_and_minus_one_without_images():
    mean = np.array([[1.0, 3.0], [1.0, 5.0], [0.0, 7.0]])
    assert preferred_class(mean, np.array([1, 1, 0])).tolist() == [0, 1]
    assert preferred_class(mean, np.zeros(3)).tolist() == [-1, -1]


def test_a_metric_without_a_fixed_class_says_so():
    class Range(Metric):
        name, label, reference = "range", "range", "none"

        def score(self, mean, variance, count):
            return mean.max(axis=-2) - mean.min(axis=-2), mean.argmax(axis=-2)

    assert not Range().has_fixed_class
    assert DPrime().has_fixed_class
    with pytest.raises(NotImplementedError, match="Range"):
        Range().values_at(np.ones((2, 1)), np.empty(0), np.ones(2), np.zeros(1, dtype=int))


def test_heldout_index_by_hand_and_its_undefined_cases():
    mean = np.array([[3.0, 1.0, 0.0, 2.0, 1.0], [1.0, 3.0, 0.0, 1.0, -1.0], [1.0, 2.0, 0.0, 1.0, 1.0]])
    value = heldout_index(mean, np.array([0, 0, 0, -1, 0]), np.array([5, 5, 5]))
    assert value[0] == pytest.approx(0.5, abs=1e-6)
    assert value[1] == pytest.approx((1 - 2.5) / (1 + 2.5), abs=1e-6)
    assert np.isnan(value[2:]).all()
    assert np.isnan(heldout_index(mean, np.zeros(5, dtype=int), np.array([0, 5, 5]))).all()


def test_heldout_index_of_noise_has_no_upward_bias():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 10
    first, second = (moments(rng.gamma(1, 1, (300, 3000)), labels, 10) for _ in range(2))
    value, preferred = ClassSelectivityIndex().score(*first)
    held = heldout_index(second[0], preferred, second[2])
    assert value.mean() > 0.1
    assert abs(held.mean()) < 4 * held.std() / np.sqrt(len(held)) + 0.005  # a ratio of means is biased by order 1/n


def test_builtin_metrics_come_through_the_hook():
    names = [m.name for m in auditor_metrics()]
    assert names[:3] == ["index", "ccmas", "dprime"]
    assert len(set(names)) == len(names) == 11
    assert hasattr(auditor_metrics, "auditor_impl")


@pytest.mark.parametrize("count", [[5, 7, 9], [5, 1, 9], [5, 0, 9], [[5, 7, 9], [3, 2, 0], [2, 1, 4], [6, 6, 6]]])
def test_dprime_of_many_draws_is_that_of_each(count, monkeypatch):
    rng = np.random.default_rng(0)
    count = np.array(count)
    mean, variance = rng.normal(size=(4, 3, 5)), rng.gamma(1, size=(4, 3, 5))
    mean[..., 0] = variance[..., 0] = 0
    variance = np.where(np.broadcast_to(count, (4, 3))[..., None] > 1, variance, np.nan)
    preferred, metric = np.array([0, 1, 2, 0, -1]), DPrime()
    monkeypatch.setattr("auditor.selectivity.dprime.PART", 40)
    both = metric.values_and_at(mean, variance, count, preferred)
    for draw in range(4):
        counts = count if count.ndim == 1 else count[draw]
        one = metric.score(mean[draw], variance[draw], counts)[0]
        np.testing.assert_allclose(both[0][draw], one)
        np.testing.assert_allclose(both[1][draw], metric.values_at(mean[draw], variance[draw], counts, preferred))
    np.testing.assert_array_equal(metric.values(mean, variance, count), both[0])
    assert np.isnan(both[0][:, 0]).all()
    assert np.isnan(both[1][:, 4]).all()
