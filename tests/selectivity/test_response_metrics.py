"""Metrics that see every response, against scikit-learn, closed forms and plain loops."""

from itertools import pairwise, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp, rankdata
from sklearn.metrics import average_precision_score, mutual_info_score, roc_auc_score, roc_curve

from auditor.errors import OptionError
from auditor.selectivity import (
    AUC,
    AveragePrecision,
    Informedness,
    LabelledResponses,
    Localist,
    MutualInformation,
    Precision,
    ResponseMetric,
    TopClass,
)
from auditor.selectivity.analytic import auc_interval, difference_interval, newcombe_interval
from auditor.selectivity.localist import chance_of_localist
from auditor.selectivity.ranks import Ranks, Ties
from auditor.selectivity.responses import RankMetric

RANKED = [AUC(), AveragePrecision(), Informedness(), Precision(n=7), MutualInformation(bins=4), TopClass()]
ALL = [*RANKED, Localist()]


@st.composite
def labelled(draw, kinds=("free", "whole", "rectified")):
    """Responses with no ties, with many, or with silent images, and labels with one class absent."""
    n_images, n_classes = draw(st.integers(5, 40)), draw(st.integers(2, 5))
    values = hnp.arrays(np.float32, (n_images, 3), elements=st.floats(-8, 8, width=32))
    responses = draw(values)
    kind = draw(st.sampled_from(kinds))
    responses = {"free": responses, "whole": np.round(responses), "rectified": np.maximum(responses, 0)}[kind]
    labels = draw(hnp.arrays(np.int64, n_images, elements=st.integers(0, n_classes - 1)))
    labels[:2] = [0, 1]
    return LabelledResponses(responses, labels, n_classes + 1)


def columns(data):
    return [(u, data.responses[:, u]) for u in range(data.responses.shape[1])]


@settings(max_examples=40)
@given(data=labelled())
def test_auc_average_precision_and_informedness_equal_scikit_learn_for_every_class(data):
    area, precision, informed = (metric.measure(data) for metric in (AUC(), AveragePrecision(), Informedness()))
    for u, x in columns(data):
        for k in np.unique(data.labels):
            inside = data.labels == k
            assert area.per_class[k, u] == pytest.approx(roc_auc_score(inside, x), abs=1e-12)
            assert precision.per_class[k, u] == pytest.approx(average_precision_score(inside, x), abs=1e-12)
            false, true, _ = roc_curve(inside, x)
            assert informed.per_class[k, u] == pytest.approx((true - false).max(), abs=1e-12)
    for found in (area, precision, informed):
        np.testing.assert_array_equal(found.value, np.nanmax(found.per_class, axis=0))
        np.testing.assert_array_equal(found.preferred, np.nanargmax(found.per_class, axis=0))
        assert np.isnan(found.per_class[-1]).all()


@given(data=labelled())
def test_the_threshold_of_informedness_gives_its_rates(data):
    found = Informedness().measure(data)
    for u, x in columns(data):
        inside, yes = data.labels == found.preferred[u], x >= found.extras["threshold"][u]
        assert found.extras["hit_rate"][u] == pytest.approx(yes[inside].mean())
        assert found.extras["false_alarm_rate"][u] == pytest.approx(yes[~inside].mean())
        assert found.value[u] == pytest.approx(yes[inside].mean() - yes[~inside].mean(), abs=1e-12)


@given(
    x=hnp.arrays(np.float32, 6, elements=st.sampled_from([0.0, 1.0, 2.0])),
    labels=hnp.arrays(np.int64, 6, elements=st.integers(0, 2)).filter(lambda y: len(set(y)) > 1),
    top=st.integers(1, 6),
)
def test_precision_is_the_mean_over_all_ways_to_break_ties(x, labels, top):
    found = Precision(n=top).measure(LabelledResponses(x[:, None], labels, 3))
    ways = [w for w in permutations(range(6)) if all(x[a] >= x[b] for a, b in pairwise(w))]
    taken = np.array([np.bincount(labels[list(way[:top])], minlength=3) for way in ways]).mean(axis=0)
    present = np.bincount(labels, minlength=3) > 0
    np.testing.assert_allclose(found.per_class[present, 0], taken[present] / top, atol=1e-12)
    best = found.preferred[0]
    assert found.value[0] == pytest.approx(taken.max() / top)
    assert found.extras["hit_rate"][0] == pytest.approx(taken[best] / (labels == best).sum())
    assert found.extras["false_alarm_rate"][0] == pytest.approx((top - taken[best]) / (labels != best).sum())
    assert found.extras["threshold"][0] == np.sort(x)[::-1][top - 1]


def test_precision_takes_all_images_where_there_are_fewer_than_asked_for():
    labels = np.array([0, 0, 0, 1])
    found = Precision().measure(LabelledResponses(np.arange(4.0)[:, None], labels, 2))
    assert found.value[0] == 0.75
    assert found.extras["false_alarm_rate"][0] == 1


@given(data=labelled(), bins=st.integers(2, 6))
def test_information_equals_scikit_learn_on_bins_of_equal_size(data, bins):
    found = MutualInformation(bins=bins).measure(data)
    n = len(data.labels)
    cuts = [round(part * n / bins) for part in range(1, bins)]
    for u, x in columns(data):
        middle = rankdata(-x.astype(float)) - 0.5  # images that tie go where the middle of their group goes
        binned = sum((middle >= cut).astype(int) for cut in cuts)
        assert found.value[u] == pytest.approx(mutual_info_score(data.labels, binned) / np.log(2), abs=1e-9)
        assert found.extras["bins"][u] == len(set(binned))
        share = np.bincount(data.labels) / n
        weighted = np.nansum(found.per_class[: len(share), u] * share)
        assert weighted == pytest.approx(found.value[u], abs=1e-9)


def test_information_of_a_code_without_error_is_the_entropy_of_the_class():
    labels = np.repeat(np.arange(4), 25)
    found = MutualInformation(bins=4).measure(LabelledResponses(labels[:, None] + 0.0, labels, 4))
    assert found.value[0] == pytest.approx(2)
    assert found.high[0] == pytest.approx(2)


@given(data=labelled())
def test_top_class_counts_down_the_order(data):
    found = TopClass().measure(data)
    for u, x in columns(data):
        # Of images that tie, those of another class than the leader come first: only then is the count unambiguous.
        top = {int(k) for k in data.labels[x == x.max()]}
        if len(top) > 1:
            assert found.value[u] == 0
            continue
        (best,) = top
        others = x[data.labels != best].max()
        assert found.value[u] == (x[data.labels == best] > others).sum()
        assert found.preferred[u] == best
        assert found.extras["share"][u] == found.value[u] / (data.labels == best).sum()


@given(data=labelled())
def test_localist_means_a_range_disjoint_from_all_others(data):
    found = Localist().measure(data)
    for u, x in columns(data):
        ranges = {k: (x[data.labels == k].min(), x[data.labels == k].max()) for k in np.unique(data.labels)}
        gaps = {
            k: min(max(low - b, a - high) for j, (a, b) in ranges.items() if j != k)
            for k, (low, high) in ranges.items()
        }
        assert found.value[u] == float(max(gaps.values()) > 0)
        assert {k for k in gaps if found.per_class[k, u] == 1} == {k for k, gap in gaps.items() if gap > 0}
        if found.value[u]:
            assert found.extras["gap"][u] == pytest.approx(max(gaps.values()))
            assert found.p[u] == found.null_mean[u]
        else:
            assert found.extras["gap"][u] <= 0
            assert found.p[u] == 1


@pytest.mark.parametrize("count", [[2, 3], [1, 4], [2, 2, 2], [1, 2, 3]])
def test_the_null_of_localist_bounds_the_chance_over_all_label_orders(count):
    labels = np.repeat(np.arange(len(count)), count)
    orders = np.array(sorted(set(permutations(labels.tolist()))))
    data = [LabelledResponses(np.arange(len(labels), dtype=float)[:, None], order, len(count)) for order in orders]
    found = [Localist().measure(each) for each in data]
    shares = np.mean([each.per_class[:, 0] for each in found], axis=0)
    n = len(labels)
    apart = [(n - k + 1) / comb(n, k) for k in count]  # side by side in the order; necessary, not sufficient
    assert (shares <= np.array(apart) + 1e-12).all()
    assert chance_of_localist(np.array(count)) == pytest.approx(min(1.0, sum(apart)))
    assert np.mean([each.value[0] for each in found]) <= chance_of_localist(np.array(count)) + 1e-12
    assert chance_of_localist(np.array([1000] * 10 + [0])) < 1e-300


@pytest.mark.parametrize("metric", RANKED, ids=repr)
@settings(max_examples=40)
@given(data=labelled())
def test_rank_nulls_are_the_metric_itself_on_shuffled_labels(metric, data):
    n = 4
    null = metric.null(data, n=n, seed=3)
    draws = np.random.default_rng([3, 0]).permuted(np.broadcast_to(data.labels, (n, len(data.labels))), axis=1)
    for u, x in columns(data):
        order = np.argsort(-x, kind="stable")
        for i, sequence in enumerate(draws):
            shuffled = np.empty_like(sequence)
            shuffled[order] = sequence
            want = metric.measure(LabelledResponses(x[:, None], shuffled, data.n_classes)).value[0]
            assert null[i, u] == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("metric", RANKED, ids=repr)
def test_rank_nulls_have_the_distribution_of_labels_shuffled_over_images(metric):
    rng = np.random.default_rng(0)
    responses = np.maximum(np.round(rng.normal(size=(90, 2)), 1), [-9, 0])
    data = LabelledResponses(responses, np.repeat(np.arange(3), [20, 30, 40]), 3)
    quick, plain = metric.null(data, n=400, seed=1), ResponseMetric.null(Many(metric), data, n=400, seed=2)
    for u in range(2):
        assert ks_2samp(np.round(quick[:, u], 5), np.round(plain[:, u], 5), method="asymp").pvalue > 0.01


class Many(ResponseMetric):
    """Any metric, with as many plain shuffles as asked for."""

    name, label, reference, max_shuffles = "many", "many", "none", 10**6

    def __init__(self, metric):
        self.metric = metric

    def measure(self, data, *, confidence=0.95):
        return self.metric.measure(data, confidence=confidence)


@pytest.mark.parametrize("metric", RANKED, ids=repr)
def test_nulls_in_small_pieces_are_the_same(metric, monkeypatch):
    rng = np.random.default_rng(0)
    data = LabelledResponses(np.round(rng.normal(size=(60, 9)), 1), np.arange(60) % 4, 4)
    whole = metric.null(data, n=9, seed=0)
    for module in ("responses", "informedness", "information"):
        monkeypatch.setattr(f"auditor.selectivity.{module}.DRAW_BYTES", 20_000)
    np.testing.assert_allclose(metric.null(data, n=9, seed=0), whole, atol=1e-6)


@pytest.mark.parametrize("metric", ALL, ids=repr)
class TestEveryMetric:
    def test_is_blind_to_units_beside_and_to_rising_transforms(self, metric):
        rng = np.random.default_rng(0)
        data = LabelledResponses(rng.normal(size=(50, 6)), np.arange(50) % 3, 3)
        whole = metric.measure(data)
        for change in (lambda x: x[:, 2:4], lambda x: np.exp(x[:, 2:4] + 5)):
            part = metric.measure(LabelledResponses(change(data.responses), data.labels, 3))
            np.testing.assert_allclose(part.value, whole.value[2:4], atol=1e-12)
            np.testing.assert_array_equal(part.preferred, whole.preferred[2:4])

    def test_interval_holds_the_value_and_widens_with_confidence(self, metric):
        rng = np.random.default_rng(0)
        labels = np.arange(120) % 3
        data = LabelledResponses(rng.normal(size=(120, 20)) + (labels == 1)[:, None] * rng.random(20) * 4, labels, 3)
        narrow, wide = metric.measure(data, confidence=0.8), metric.measure(data, confidence=0.99)
        if narrow.low is None:
            assert isinstance(metric, TopClass | Localist)
            return
        assert (wide.low <= narrow.low).all()
        assert (narrow.low <= narrow.value + 1e-12).all()
        assert (narrow.value <= narrow.high + 1e-12).all()
        assert (narrow.high <= wide.high).all()
        assert (narrow.high > narrow.low).all()

    def test_leaves_its_input_alone_and_says_what_it_is(self, metric):
        responses = np.random.default_rng(0).normal(size=(30, 4))
        before = responses.copy()
        metric.measure(LabelledResponses(responses, np.arange(30) % 2, 2))
        np.testing.assert_array_equal(responses, before)
        assert metric.signed
        assert metric.name.isidentifier()
        assert metric.label
        assert metric.reference
        assert isinstance(metric, RankMetric | Localist)


@given(data=labelled())
def test_ranks_equal_scipy_and_ties_are_its_groups(data):
    ranks = Ranks(data.responses)
    for u, x in columns(data):
        falling = -x.astype(float)
        np.testing.assert_array_equal(ranks.at_least[u], rankdata(falling, "max"))
        np.testing.assert_array_equal(ranks.more[u], rankdata(falling, "min") - 1)
        np.testing.assert_array_equal(ranks.ordered[u], np.sort(x)[::-1])
        mine = ranks.ties.unit == u
        sizes = np.unique(x, return_counts=True)[1][::-1]
        ends = np.cumsum(sizes)
        np.testing.assert_array_equal(ranks.ties.end[mine], ends[sizes > 1])
        np.testing.assert_array_equal(ranks.ties.start[mine], (ends - sizes)[sizes > 1])
    joined = Ties.join([ranks.ties, ranks.ties])
    assert joined.n_units == 6
    np.testing.assert_array_equal(joined.unit, np.concatenate([ranks.ties.unit, ranks.ties.unit + 3]))


def test_negative_zero_ties_with_zero():
    data = LabelledResponses(np.array([[0.0], [-0.0], [1.0]]), np.array([0, 1, 0]), 2)
    assert AUC().measure(data).value[0] == 0.75


@given(auc=st.floats(0, 1), n_in=st.integers(1, 500), n_out=st.integers(2, 5000))
def test_newcombes_interval_solves_its_equation(auc, n_in, n_out):
    low, high = newcombe_interval(auc, n_in, n_out, 0.95)
    assert low <= auc <= high
    m = (n_in + n_out) / 2 - 1
    for end in (float(low), float(high)):
        if 0 < end < 1:
            # Hanley & McNeil (1982), with the group sizes of both terms averaged as Newcombe (2006) does
            variance = (end * (1 - end) + m * (end / (2 - end) - end**2) + m * (2 * end**2 / (1 + end) - end**2)) / (
                n_in * n_out
            )
            assert (auc - end) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-3, abs=1e-12)
    assert high > low


@given(data=labelled())
def test_the_auc_interval_is_delongs_on_log_odds(data):
    found = AUC().measure(data)
    for u, x in columns(data):
        inside = data.labels == found.preferred[u]
        wins = (np.sign(x[inside][:, None] - x[~inside][None, :]).astype(float) + 1) / 2
        m, n = wins.shape
        if min(m, n) > 1:
            variance = wins.mean(axis=1).var(ddof=1) / m + wins.mean(axis=0).var(ddof=1) / n
        if min(m, n) > 1 and variance > 0 and 0 < wins.mean() < 1:
            half = 1.959964 * np.sqrt(variance) / (wins.mean() * (1 - wins.mean()))
            odds = np.log(wins.mean() / (1 - wins.mean()))
            ends = [1 / (1 + np.exp(half - odds)), 1 / (1 + np.exp(-half - odds))]
        else:
            ends = newcombe_interval(wins.mean(), m, n, 0.95)
        np.testing.assert_allclose([found.low[u], found.high[u]], ends, atol=1e-6)
    assert auc_interval(1.0, 0.0, 5, 50, 0.95)[0] < 1


def test_the_difference_interval_matches_newcombes_example():
    low, high = difference_interval(56, 70, 48, 80, 0.95)
    assert (low, high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


@pytest.mark.parametrize("build", [lambda: Precision(n=0), lambda: MutualInformation(bins=1)])
def test_impossible_parameters_are_named(build):
    with pytest.raises(OptionError, match="at least"):
        build()
