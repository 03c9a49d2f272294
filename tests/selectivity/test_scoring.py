import numpy as np
import pytest
from scipy.stats import kstest

from auditor.errors import DataError, OptionError
from auditor.selectivity import CCMAS, ClassSelectivityIndex, DPrime, Metric, moment_scores, resample, score_units
from auditor.selectivity.resample import bootstrap_moments, class_members, observed_moments, shuffled_moments

INDEX = ClassSelectivityIndex()


def noise(n=120, n_units=6, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(1.0, 1.0, (n, n_units)).astype(np.float32), np.arange(n) % n_classes


def score(responses, labels, metric=INDEX, n_classes=4, seed=0, **options):
    options = {"n_shuffles": 100, "n_boot": 100, **options}
    return score_units(responses, labels, n_classes=n_classes, metric=metric, seed=seed, **options)


def test_null_matches_a_loop_over_permutations():
    responses, labels = noise()
    scores = score(responses, labels, n_shuffles=50, n_boot=0)
    rng = np.random.default_rng([0, 0])
    null = []
    for _ in range(50):
        shuffled = rng.permuted(labels[None], axis=1)[0]
        mean, variance = observed_moments(responses.astype(float), class_members(shuffled, 4))
        null.append(INDEX.values(mean, variance, np.bincount(shuffled)))
    null = np.array(null)
    np.testing.assert_allclose(scores.null_mean, null.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(scores.null_high, np.quantile(null, 0.95, axis=0), atol=1e-6)
    np.testing.assert_allclose(scores.p, ((null >= scores.value).sum(axis=0) + 1) / 51)
    np.testing.assert_allclose(scores.excess, scores.value - scores.null_mean)
    assert scores.layer_mean["null_mean"] == pytest.approx(null.mean(), abs=1e-6)
    assert scores.layer_mean["null_high"] == pytest.approx(np.quantile(null.mean(axis=1), 0.95), abs=1e-6)


@pytest.mark.parametrize("dense_classes", [0, 40], ids=["sparse", "dense"])
@pytest.mark.parametrize("block_bytes", [1, 2**24])
@pytest.mark.parametrize("offset", [0.0, -1.0, 100.0])
def test_shuffled_moments_match_a_loop_in_every_form(monkeypatch, dense_classes, block_bytes, offset):
    monkeypatch.setattr(resample, "DENSE_CLASSES", dense_classes)
    monkeypatch.setattr(resample, "BLOCK_BYTES", block_bytes)
    responses, labels = noise(n=61)
    data = responses.astype(float) + offset
    blocks = list(shuffled_moments(data, labels, 4, n=7, variance=True, seed=3, single=False))
    assert len(blocks) == (7 if block_bytes == 1 else 1)
    mean, variance = (np.concatenate(part) for part in zip(*blocks, strict=True))
    plain = np.concatenate([m for m, _ in shuffled_moments(data, labels, 4, n=7, variance=False, seed=3)])
    rng = np.random.default_rng([3, 0])
    quick = list(shuffled_moments(data, labels, 4, n=7, variance=True, seed=3))
    quick_mean, quick_variance = (np.concatenate(part) for part in zip(*quick, strict=True))
    for i in range(7):
        members = class_members(rng.permuted(labels[None], axis=1)[0], 4)
        want_mean, want_variance = observed_moments(data, members)
        np.testing.assert_allclose(mean[i], want_mean, rtol=1e-12)
        np.testing.assert_allclose(variance[i], want_variance, rtol=1e-9)
        np.testing.assert_allclose(plain[i], want_mean, rtol=1e-6)
        np.testing.assert_allclose(quick_mean[i], want_mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(quick_variance[i], want_variance, rtol=1e-5)


def test_sums_of_zeros_never_fall_below_zero_in_single_precision():
    rng = np.random.default_rng(0)
    data = (rng.gamma(0.5, 1, (400, 300)) * (rng.random((400, 300)) < 0.01)).astype(np.float32).astype(float)
    labels = np.repeat(np.arange(3), [10, 350, 40])
    mean = np.concatenate([m for m, _ in shuffled_moments(data, labels, 3, n=60, variance=False, seed=0)])
    assert mean.min() >= 0


def test_bootstrap_moments_resample_within_classes():
    responses, labels = noise(n=80)
    data = responses.astype(float) + 5
    members = class_members(labels, 4)
    (mean, variance), *rest = bootstrap_moments(data, members, n=4000, variance=True, seed=0, single=False)
    mean = np.concatenate([mean, *(m for m, _ in rest)])
    variance = np.concatenate([variance, *(v for _, v in rest)])
    want_mean, want_variance = observed_moments(data, members)
    n = 20
    np.testing.assert_allclose(mean.mean(axis=0), want_mean, rtol=0.01)
    # The bootstrap's own standard error of a mean is sqrt((n - 1) / n) s / sqrt(n).
    np.testing.assert_allclose(mean.std(axis=0), np.sqrt(want_variance * (n - 1)) / n, rtol=0.06)
    np.testing.assert_allclose(variance.mean(axis=0), want_variance * (n - 1) / n, rtol=0.05)


def test_float32_nulls_agree_with_float64():
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 10
    data = rng.gamma(1, 1, (3000, 20)) * (rng.random((3000, 20)) < rng.random(20))
    assert resample.precise_in_float32(data)
    single = np.concatenate([m for m, _ in shuffled_moments(data, labels, 10, n=20, variance=False, seed=0)])
    double = np.concatenate(
        [m for m, _ in shuffled_moments(data, labels, 10, n=20, variance=True, seed=0, single=False)]
    )
    count = np.bincount(labels)
    np.testing.assert_allclose(
        INDEX.values(single, np.empty(0), count), INDEX.values(double, np.empty(0), count), atol=1e-6
    )
    count = np.bincount(labels)
    for shift in (0, -0.7, 50):
        pair = [
            np.concatenate([DPrime().values(*m, count) for m in shuffled_moments(
                data + shift, labels, 10, n=20, variance=True, seed=0, single=single
            )]) for single in (True, False)
        ]  # fmt: skip
        np.testing.assert_allclose(*pair, atol=1e-6)
    for unfit in (data - 1, data + 100, np.empty((3, 0))):
        assert not resample.precise_in_float32(unfit)


@pytest.mark.parametrize("metric", [INDEX, CCMAS(), DPrime()], ids=repr)
def test_a_unit_with_class_signal_is_told_from_noise(metric):
    responses, labels = noise(n=200, n_units=3)
    responses[labels == 2, 1] += 3
    scores = score(responses, labels, metric)
    assert scores.preferred[1] == 2
    assert scores.p[1] == pytest.approx(1 / 101)
    assert scores.low[1] > scores.null_high[1]
    assert ((scores.low <= scores.value) & (scores.value <= scores.high)).all()
    assert scores.low[scores.p > 0.05].max() <= 0
    assert scores.layer_mean["low"] < scores.layer_mean["estimate"] < scores.layer_mean["high"]


def test_rarely_firing_noise_is_not_significant_though_its_index_is_high():
    responses = np.zeros((200, 2), dtype=np.float32)
    responses[17, 0] = 0.3  # one image: every permutation has the same index, 1
    responses[[3, 8], 1] = [0.1, 0.7]
    scores = score(responses, np.arange(200) % 4)
    assert scores.value[0] == pytest.approx(1, abs=1e-4)
    assert scores.p[0] == 1
    assert scores.low[0] == 0
    assert scores.p[1] > 0.05


def test_intervals_contain_the_value_of_rarely_firing_units():
    rng = np.random.default_rng(0)
    responses = rng.gamma(0.3, 1, (200, 60)) * (rng.random((200, 60)) < 0.03)
    responses[:4] += rng.random((4, 60))
    scores = score(responses, np.arange(200) % 4)
    assert ((scores.low <= scores.value) & (scores.value <= scores.high)).all()


def test_dead_and_signed_units_are_undefined_and_leave_the_layer_mean_alone():
    responses, labels = noise()
    only = score(responses[:, [0, 3, 4, 5]], labels)
    responses[:, 1] = 0
    responses[5, 2] = -0.1
    scores = score(responses, labels)
    missing = [False, True, True, False, False, False]
    for name in ("value", "low", "high", "null_mean", "null_high", "excess", "p"):
        assert np.isnan(getattr(scores, name)).tolist() == missing, name
    assert scores.preferred[1] == -1
    assert scores.preferred[2] >= 0
    assert scores.layer_mean == pytest.approx(only.layer_mean)
    signed = score(responses, labels, DPrime())
    assert np.isnan(signed.value).tolist() == [False, True, False, False, False, False]


def test_all_units_dead():
    scores = score(np.zeros((40, 3), dtype=np.float32), np.arange(40) % 4)
    assert np.isnan(scores.value).all()
    assert all(np.isnan(v) for v in scores.layer_mean.values())


def test_without_draws_only_values_remain():
    responses, labels = noise()
    scores = score(responses, labels, n_shuffles=0, n_boot=0)
    assert np.isfinite(scores.value).all()
    assert np.isnan(scores.p).all()
    assert np.isnan(scores.low).all()
    assert np.isfinite(scores.layer_mean["estimate"])


def test_same_seed_same_scores_whatever_units_stand_beside(monkeypatch):
    responses, labels = noise()
    whole = score(responses, labels)
    monkeypatch.setattr(moment_scores, "UNIT_BLOCK", 2)
    parts = score(responses, labels)
    for name in ("value", "preferred", "low", "high", "null_mean", "p"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6, err_msg=name)
    assert parts.layer_mean == pytest.approx(whole.layer_mean, abs=1e-6)
    assert not np.allclose(score(responses, labels, seed=1).null_mean, whole.null_mean, atol=1e-9)


def test_missing_classes_and_unbalanced_data_are_handled():
    responses, labels = noise()
    keep = (labels != 1) & ~((labels == 3) & (np.arange(120) > 10))
    scores = score(responses[keep], labels[keep], n_classes=6)
    assert set(scores.preferred) <= {0, 2, 3}
    assert np.isfinite(scores.low).all()


def test_a_metric_without_a_fixed_class_gets_an_interval_too():
    class Plain(Metric):
        name, label, reference, bounds = "plain", "plain", "none", (0.0, float("inf"))

        def score(self, mean, variance, count):
            return mean.max(axis=-2) - mean.mean(axis=-2), mean.argmax(axis=-2)

    responses, labels = noise()
    responses[labels == 1] += 2
    scores = score(responses, labels, Plain())
    assert (scores.low <= scores.value).all()
    assert (scores.value <= scores.high).all()


def test_p_values_of_noise_are_uniform():
    responses, labels = noise(n=120, n_units=400, seed=3)
    scores = score(responses, labels, n_shuffles=199, n_boot=0)
    assert kstest(scores.p, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"labels": np.zeros(3, dtype=int)}, DataError, "do not fit"),
        ({"labels": np.zeros(120, dtype=int)}, DataError, "two classes"),
        ({"labels": np.full(120, 9)}, DataError, "out of range"),
        ({"labels": np.zeros(120)}, DataError, "out of range"),
        ({"responses": np.full((120, 2), np.nan)}, DataError, "not finite"),
        ({"responses": np.zeros((120, 0))}, DataError, "at least one unit"),
        ({"confidence": 95}, OptionError, r"Use 0\.95"),
        ({"n_boot": -1}, OptionError, "negative"),
    ],
)
def test_bad_input_is_named(change, error, text):
    responses, labels = noise()
    with pytest.raises(error, match=text):
        score(**{"responses": responses, "labels": labels, **change})
