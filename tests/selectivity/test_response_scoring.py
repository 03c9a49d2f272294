"""Scoring with both kinds of metric: nulls, intervals, blocks and the table that comes of it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from auditor.api.settings import SelectivitySettings
from auditor.api.tables import score_sites
from auditor.errors import DataError, PluginError, UnknownNameError
from auditor.progress import NullReporter
from auditor.registry import registry
from auditor.selectivity import (
    AUC,
    AveragePrecision,
    Informedness,
    LabelledResponses,
    LifetimeSparseness,
    Localist,
    Measured,
    MutualInformation,
    ResponseMetric,
    TopClass,
    response_scores,
    score_metrics,
    score_units,
)
from auditor.selectivity.builtin import auditor_metrics
from auditor.stats.moments import ClassMoments
from auditor.units import Site

ARRAYS = ("value", "preferred", "low", "high", "null_mean", "null_high", "excess", "p")


class Spread(ResponseMetric):
    """What a plugin would write: the range of the class medians, without interval or null of its own."""

    name, label, reference, bounds, max_shuffles = "spread", "range of medians", "none", (0.0, float("inf")), 40

    def measure(self, data, *, confidence=0.95):
        medians = np.stack([np.median(data.responses[rows], axis=0) for rows in data.members if len(rows)])
        return Measured(
            np.ptp(medians, axis=0).astype(float), medians.argmax(axis=0), extras={"top": medians.max(axis=0)}
        )


def noise(n=120, n_units=6, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_units)).astype(np.float32), np.arange(n) % n_classes


def score(responses, labels, metric, n_classes=4, seed=0, **options):
    options = {"n_shuffles": 99, "n_boot": 50, **options}
    return score_units(responses, labels, n_classes=n_classes, metric=metric, seed=seed, **options)


def test_together_as_alone():
    responses, labels = noise()
    responses = np.abs(responses)
    metrics = [*auditor_metrics(), Spread()]
    together = score_metrics(responses, labels, n_classes=4, metrics=metrics, n_shuffles=99, n_boot=50, seed=0)
    for metric, scores in zip(metrics, together, strict=True):
        alone = score(responses, labels, metric)
        for name in ARRAYS:
            np.testing.assert_allclose(getattr(scores, name), getattr(alone, name), atol=1e-6, err_msg=metric.name)
        assert scores.extras.keys() == alone.extras.keys()
        assert scores.layer_mean == pytest.approx(alone.layer_mean, abs=1e-6, nan_ok=True)


def test_blocks_of_units_do_not_matter(monkeypatch):
    responses, labels = noise(n_units=11)
    metrics = [m for m in [*auditor_metrics(), Spread()] if isinstance(m, ResponseMetric)]
    options = {"n_classes": 4, "metrics": metrics, "n_shuffles": 50, "n_boot": 5, "seed": 0}
    whole = score_metrics(responses, labels, **options)
    monkeypatch.setattr(response_scores, "BLOCK_BYTES", 2 * 120 * response_scores.BYTES_PER_RESPONSE)
    monkeypatch.setattr(response_scores, "GATHERED", 5)
    for one, other in zip(whole, score_metrics(responses, labels, **options), strict=True):
        for name in ARRAYS:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-9, err_msg=name)
        for name, values in one.extras.items():
            np.testing.assert_allclose(values, other.extras[name], err_msg=name)
        assert one.layer_mean == pytest.approx(other.layer_mean, nan_ok=True)
        assert one.n_shuffles == other.n_shuffles


@pytest.mark.parametrize("metric", [m for m in auditor_metrics() if isinstance(m, ResponseMetric)], ids=repr)
def test_a_unit_with_class_signal_is_told_from_noise(metric):
    responses, labels = noise(n=200, n_units=3)
    responses[labels == 2, 1] += 9
    scores = score(responses, labels, metric)
    assert scores.preferred[1] == 2
    assert scores.p[1] <= 1 / 100
    assert scores.p[[0, 2]].min() > 1 / 100
    assert scores.excess[1] > scores.excess[[0, 2]].max()
    if metric.name not in ("top_class", "localist"):
        assert ((scores.low <= scores.value) & (scores.value <= scores.high)).all()
        assert (scores.low[1] > scores.null_high[1]) or metric.name == "precision"  # 50 of 100 images at best


def test_intervals_reach_chance_where_the_null_is_not_rejected():
    responses, labels = noise(n_units=60)
    labels = np.sort(labels % 3)  # classes of 60, 30 and 30 images: chance of a precision depends on the class
    for metric in (AUC(), AveragePrecision(), Informedness(), MutualInformation()):
        scores = score(responses, labels, metric)
        chance = scores.extras.get("prevalence", np.full(60, metric.chance))
        kept = scores.p > 0.05
        assert kept.sum() > 40
        assert (scores.low[kept] <= chance[kept]).all()


@pytest.mark.parametrize("metric", [m for m in auditor_metrics() if isinstance(m, ResponseMetric)], ids=repr)
def test_noise_is_seldom_significant(metric):
    responses, labels = noise(n=120, n_units=400, seed=3)
    responses = np.maximum(np.round(responses, 1), 0)
    p = score(responses, labels, metric, n_shuffles=399).p
    for level in (0.01, 0.05, 0.1, 0.5):
        # Units share the draws, so both they and the draws are a sample.
        assert np.mean(p <= level) <= level + 4 * np.sqrt(level * (1 - level) * (1 / 400 + 1 / 399))
    if metric.name in ("auc", "average_precision", "mutual_information"):  # the others take few values: p has atoms
        assert kstest(p, "uniform").pvalue > 0.001


def test_dead_units_are_undefined_and_signed_ones_are_not():
    responses, labels = noise()
    responses[:, 1] = 0
    for metric in (AUC(), Informedness(), TopClass(), Localist(), MutualInformation()):
        scores = score(responses, labels, metric)
        assert np.isnan(scores.value).tolist() == [u == 1 for u in range(6)]
        assert scores.preferred[1] == -1
        assert all(np.isnan(values[1]) for values in scores.extras.values())
        assert scores.layer_mean["estimate"] == pytest.approx(np.nanmean(scores.value))
        assert scores.layer_mean["null_mean"] == pytest.approx(np.nanmean(scores.null_mean))
    for metric in (LifetimeSparseness(), Spread()):
        assert np.isnan(score(responses, labels, metric).value).all()
    responses[:, 2] = np.abs(responses[:, 2])
    assert np.flatnonzero(~np.isnan(score(responses, labels, Spread()).value)).tolist() == [2]


def test_a_metric_without_labels_has_no_null_but_an_interval():
    responses, labels = noise()
    scores = score(np.abs(responses), labels, LifetimeSparseness())
    assert np.isnan(scores.p).all()
    assert scores.n_shuffles == 0
    assert (scores.low < scores.value).all()
    assert (scores.value < scores.high).all()


def test_fewer_shuffles_than_asked_for_are_said():
    responses, labels = noise()
    scores = score(np.abs(responses), labels, Spread())
    assert scores.n_shuffles == 40
    assert scores.p.min() >= 1 / 41
    assert np.isfinite(scores.layer_mean["null_high"])
    assert score(responses, labels, AUC()).n_shuffles == 99
    assert score(responses, labels, Localist()).n_shuffles == 0
    assert np.isnan(score(responses, labels, AUC(), n_shuffles=0).p).all()


def test_half_precision_and_missing_classes_are_taken():
    responses, labels = noise()
    keep = labels != 1
    scores = score(responses[keep].astype(np.float16), labels[keep], AUC(), n_classes=6)
    assert set(scores.preferred) <= {0, 2, 3}
    assert scores.per_class.shape == (6, 6)
    assert np.isnan(scores.per_class[[1, 4, 5]]).all()


def test_what_is_no_metric_is_named():
    responses, labels = noise()
    with pytest.raises(PluginError, match="neither kind"):
        score(responses, labels, SimpleNamespace(name="odd"))
    with pytest.raises(DataError, match="not finite"):
        score(np.full((120, 2), np.inf), labels, AUC())


def tables(metrics, responses, labels):
    moments = ClassMoments(4, responses.shape[1])
    moments.update(responses, labels)
    site = Site(
        "a", call=1, calls=1, unit_axis=1, n_units=responses.shape[1], shape=(responses.shape[1], 2, 2), kind="ReLU"
    )
    store = SimpleNamespace(
        splits=np.ones(len(labels), dtype=int), labels=labels, responses=lambda _, rows: responses[rows]
    )
    settings = SelectivitySettings(tuple(metrics), shuffles=99, bootstraps=50)
    both = {"select": {"a": moments}, "score": {"a": moments}}
    return score_sites(store, both, [site], list("wxyz"), settings, seed=0, reporter=NullReporter())


def test_the_table_has_the_extras_of_every_metric():
    responses, labels = noise()
    responses = np.maximum(responses, 0)
    responses[:, 3] = 0
    found = tables(["all"], responses, labels)
    units = found.units
    for name in registry().metrics():
        assert {name, f"{name}_low", f"{name}_high", f"{name}_null", f"{name}_p", f"{name}_q"} <= {*units}, name
        assert np.isnan(units[name][3])
        assert f"mean_{name}" in found.layers
    assert {"informedness_threshold", "informedness_hit_rate", "informedness_false_alarm_rate"} <= {*units}
    assert {"precision_hit_rate", "precision_false_alarm_rate", "localist_gap", "average_precision_prevalence"} <= {
        *units
    }
    data = LabelledResponses(responses, labels, 4)
    pd.testing.assert_series_equal(
        units["informedness_threshold"].drop(3),
        pd.Series(Informedness().measure(data).extras["threshold"], name="informedness_threshold").drop(3),
    )
    assert units["auc_preferred"][3] == ""


def test_an_extra_that_takes_a_column_of_the_table_is_refused(monkeypatch):
    class Greedy(Spread):
        name = "greedy"

        def measure(self, data, *, confidence=0.95):
            found = super().measure(data)
            return Measured(found.value, found.preferred, extras={"q": found.value})

    known = {**registry().metrics(), "greedy": Greedy()}
    monkeypatch.setattr(registry(), "metric", known.__getitem__)
    responses, labels = noise()
    with pytest.raises(PluginError, match="greedy_q"):
        tables(["greedy"], np.abs(responses), labels)


def test_all_stands_for_every_registered_metric_once():
    names = SelectivitySettings(("all", "auc")).metrics
    assert names[0] == "index"
    assert sorted(names) == sorted(registry().metrics())
    assert SelectivitySettings(("dprime",)).metrics == ("index", "dprime")
    assert SelectivitySettings(("auc", "index", "auc")).metrics == ("auc", "index")
    with pytest.raises(UnknownNameError):
        [registry().metric(name) for name in SelectivitySettings(("al",)).metrics]
