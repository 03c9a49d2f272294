import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from auditor.errors import DataError, OptionError
from auditor.representations import linear_probe


def blobs(n, seed=0, apart=1.5, n_units=6):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centres = np.random.default_rng(99).normal(size=(3, n_units))
    return (apart * centres[labels] + rng.normal(size=(n, n_units))) * np.logspace(-3, 3, n_units) + 1, labels


def test_agrees_with_a_scikit_learn_pipeline():
    (x, y), (a, b) = blobs(150), blobs(90, seed=1)
    found = linear_probe(x, y, a, b, C=0.5)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000)).fit(x, y)
    assert found.accuracy == pytest.approx(model.score(a, b))
    wilson = binomtest(round(found.accuracy * 90), 90).proportion_ci(method="wilson")
    np.testing.assert_allclose([found.low, found.high], [wilson.low, wilson.high])
    assert (found.C, found.cross_validated, found.converged) == (0.5, {}, True)
    assert (found.n_train, found.n_test, found.n_units) == (150, 90, 6)


def test_classes_that_lie_apart_are_read_off():
    (x, y), (a, b) = blobs(60, apart=20.0), blobs(30, seed=1, apart=20.0)
    assert linear_probe(x, y, a, b).accuracy == 1.0


def test_labels_without_relation_are_read_at_chance():
    x, y = blobs(300, apart=0.0)
    a, b = blobs(300, seed=1, apart=0.0)
    found = linear_probe(x, y, a, b)
    assert found.low < 1 / 3 < found.high
    assert found.chance == pytest.approx(1 / 3)


def test_the_penalty_is_the_best_in_cross_validation_and_seeded():
    (x, y), (a, b) = blobs(90), blobs(30, seed=1)
    found = linear_probe(x, y, a, b, seed=4)
    best = max(found.cross_validated.values())
    assert min(c for c, value in found.cross_validated.items() if value == best) == found.C
    assert linear_probe(x, y, a, b, seed=4) == found
    assert set(found.to_dict()) >= {"accuracy", "low", "high", "C", "chance"}


def test_dead_units_are_ignored():
    (x, y), (a, b) = blobs(90), blobs(30, seed=1)
    dead, alive_later = np.zeros((90, 1)), np.ones((30, 1))
    found = linear_probe(np.hstack([x, dead]), y, np.hstack([a, alive_later]), b, C=1.0)
    assert found.accuracy == linear_probe(x, y, a, b, C=1.0).accuracy


def test_refusals():
    (x, y), (a, b) = blobs(90), blobs(30, seed=1)
    with pytest.raises(DataError, match="do not fit"):
        linear_probe(x, y, a[:, :3], b)
    with pytest.raises(DataError, match="do not fit"):
        linear_probe(x, y, a, b[:5])
    with pytest.raises(DataError, match="two classes"):
        linear_probe(x, y * 0, a, b)
    with pytest.raises(DataError, match="of each class"):
        linear_probe(x[:4], y[:4], a, b)
    with pytest.raises(DataError, match="not finite"):
        linear_probe(x, y, a * np.nan, b)
    with pytest.raises(OptionError, match="positive"):
        linear_probe(x, y, a, b, C=0)
    with pytest.raises(OptionError, match="folds"):
        linear_probe(x, y, a, b, folds=1)
