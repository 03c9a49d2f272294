"""Simulations behind the docstring of score_units: coverage, false positives, uniform p values."""

import numpy as np
import pytest
from scipy.stats import kstest

from auditor.selectivity import (
    AUC,
    AveragePrecision,
    ClassSelectivityIndex,
    DPrime,
    Informedness,
    LabelledResponses,
    MutualInformation,
    score_units,
)

N_CLASSES = 10


def simulate(rng, *, per_class, index, n_units, firing=1.0, ties=1):
    """Gamma responses (CV 1) whose population index is `index`, with `ties` equally preferred classes."""
    labels = np.repeat(np.arange(N_CLASSES), per_class)
    ratio = (1 + index) / (1 - index)  # mu_max / mu_rest
    # mu_rest = ((ties - 1) x + C - ties) / (C - 1) with the other classes at 1, and x = ratio * mu_rest
    top = ratio * (N_CLASSES - ties) / (N_CLASSES - 1 - ratio * (ties - 1))
    means = np.ones(N_CLASSES)
    means[:ties] = top
    responses = rng.gamma(1.0, 1.0, (len(labels), n_units)) * means[labels][:, None]
    return responses * (rng.random(responses.shape) < firing), labels


CONDITIONS = [  # per class, index, firing rate, equally preferred classes, least coverage
    (45, 0.0, 1.0, 1, 0.93),
    (45, 0.0, 0.1, 1, 0.93),
    (45, 0.2, 1.0, 1, 0.93),
    (45, 0.5, 1.0, 1, 0.90),
    (45, 0.9, 1.0, 1, 0.90),
    (45, 0.5, 0.1, 1, 0.95),
    (45, 0.8, 0.05, 1, 0.89),
    (45, 0.3, 1.0, 2, 0.93),
    (1000, 0.0, 1.0, 1, 0.92),
    (1000, 0.0, 0.1, 1, 0.92),
    (1000, 0.2, 1.0, 1, 0.92),
    (1000, 0.5, 1.0, 1, 0.92),
    (1000, 0.9, 1.0, 1, 0.92),
    (1000, 0.5, 0.1, 1, 0.92),
    (1000, 0.3, 1.0, 2, 0.92),
]


@pytest.mark.slow
@pytest.mark.parametrize("per_class, index, firing, ties, least", CONDITIONS)
def test_unit_intervals_cover_the_population_index(per_class, index, firing, ties, least):
    rng = np.random.default_rng([per_class, int(100 * index), int(100 * firing), ties])
    responses, labels = simulate(rng, per_class=per_class, index=index, n_units=500, firing=firing, ties=ties)
    scores = score_units(
        responses, labels, n_classes=N_CLASSES, metric=ClassSelectivityIndex(), n_shuffles=400, n_boot=400, seed=1
    )
    coverage = np.mean((scores.low <= index + 1e-12) & (scores.high >= index - 1e-12))
    assert coverage >= least


@pytest.mark.slow
@pytest.mark.parametrize("metric", [ClassSelectivityIndex(), DPrime()], ids=repr)
@pytest.mark.parametrize("firing", [1.0, 0.1])
def test_p_values_of_noise_units_are_uniform(metric, firing):
    responses, labels = simulate(np.random.default_rng(5), per_class=20, index=0.0, n_units=1500, firing=firing)
    scores = score_units(responses, labels, n_classes=N_CLASSES, metric=metric, n_shuffles=500, n_boot=0, seed=2)
    if firing == 1:
        assert kstest(scores.p, "uniform").pvalue > 0.001
    # Where one large response alone makes a class the preferred one, many shuffles tie at the smallest index they can
    # have: such p values have an atom at 1, and are uniform below.
    for level in (0.01, 0.1, 0.2, 0.5):
        assert np.mean(scores.p <= level) <= level + 4 * np.sqrt(level * (1 - level) / len(scores.p))
    assert np.mean(scores.p <= 0.05) == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
def test_layer_interval_covers_the_expected_layer_mean():
    rng = np.random.default_rng(7)
    estimates, ends = [], []
    for seed in range(150):
        noise, labels = simulate(rng, per_class=45, index=0.0, n_units=20)
        tuned, _ = simulate(rng, per_class=45, index=0.4, n_units=20)
        scores = score_units(
            np.hstack([noise, tuned]), labels, n_classes=N_CLASSES, metric=ClassSelectivityIndex(), n_shuffles=0,
            n_boot=300, seed=seed,
        )  # fmt: skip
        estimates.append(scores.layer_mean["estimate"])
        ends.append((scores.layer_mean["low"], scores.layer_mean["high"]))
    expected = np.mean(estimates)
    assert np.mean([low <= expected <= high for low, high in ends]) >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("per_class, index", [(45, 0.5), (1000, 0.2)])
@pytest.mark.parametrize(
    "metric, least", [(AUC(), 0.91), (AveragePrecision(), 0.93), (Informedness(), 0.86), (MutualInformation(), 0.94)]
)
def test_analytic_intervals_cover_the_population_value(metric, least, per_class, index):
    rng = np.random.default_rng([per_class, 11])
    many, labels = simulate(rng, per_class=20_000, index=index, n_units=3, firing=0.9)
    truth = metric.measure(LabelledResponses(many, labels, N_CLASSES)).value.mean()
    responses, labels = simulate(rng, per_class=per_class, index=index, n_units=300, firing=0.9)
    scores = score_units(responses, labels, n_classes=N_CLASSES, metric=metric, n_shuffles=199, n_boot=0, seed=1)
    assert np.mean((scores.low <= truth) & (truth <= scores.high)) >= least
