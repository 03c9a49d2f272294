"""Whether the tests of "selectivity predicts importance" keep their level, and find what was planted.

Each rate is held against the interval in which it falls with a probability of 99.9 % if the level is as stated.
"""

import numpy as np
import pytest
import scipy.stats

from auditor.causal.correlation import layer_correlations
from auditor.causal.own_class import own_class_damage
from auditor.causal.pooling import pool_correlations


def nominal(hits, trials, rate=0.05):
    low, high = scipy.stats.binom.interval(0.999, trials, rate)
    return low <= hits <= high


def layers(n_layers, n, seed):
    rng = np.random.default_rng(seed)
    return rng, np.repeat(np.arange(n_layers), n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "tied"])
def test_false_positives_of_a_layer(n, kind):
    rng, codes = layers(800, n, n)
    score, importance, covariate = rng.normal(size=(3, len(codes)))
    if kind == "tied":  # many units do nothing
        score, importance = np.round(score, 1), np.maximum(importance, 0)
    table = layer_correlations(score, importance, codes, covariates=covariate, n_boot=2).table
    defined = table["rho"].notna()
    assert nominal((table["p"] <= 0.05).sum(), defined.sum())
    assert nominal((table["partial_p"] <= 0.05).sum(), table["partial_p"].notna().sum())


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 64, 256])
@pytest.mark.parametrize("kind", ["normal", "uneven"])
def test_intervals_over_units_cover(n, kind):
    rng, codes = layers(400, n, n)

    def draw(size):
        score, noise = rng.normal(size=(2, size))
        # Noise that grows with the score breaks formulas that assume one spread.
        return score, 0.6 * score + 0.8 * noise * (np.exp(score) if kind == "uneven" else 1)

    truth = scipy.stats.spearmanr(*draw(1_000_000)).statistic
    table = layer_correlations(*draw(len(codes)), codes, n_boot=200).table
    covered = ((table["low"] <= truth) & (truth <= table["high"])).mean()
    assert 0.91 <= covered <= 0.995


def test_planted_causal_units_are_found():
    rng, codes = layers(200, 64, 0)
    score, activation, noise = rng.normal(size=(3, len(codes)))
    found = layer_correlations(score, 0.5 * score + noise, codes, covariates=activation, n_boot=2)
    # Power on Fisher's scale, with the variance of Bonett & Wright.
    truth = 6 / np.pi * np.arcsin(np.sqrt(0.2) / 2)
    power = scipy.stats.norm.sf(1.96 / np.sqrt(61), np.arctanh(truth), np.sqrt((1 + truth**2 / 2) / 61))
    assert power > 0.9
    for name in ("p", "partial_p"):
        assert (found.table[name] <= 0.05).sum() >= scipy.stats.binom.ppf(0.001, 200, power)
    for pooled in (found.pooled(), found.pooled(partial=True)):
        assert pooled.mean == pytest.approx(truth, abs=0.03)
        assert pooled.low > 0.35


@pytest.mark.slow
def test_a_planted_confound_does_not_fool_the_partial_correlation():
    rng, codes = layers(600, 100, 1)
    activation = rng.gamma(2, 1, len(codes))
    score = np.log(activation) + rng.normal(0, 0.7, len(codes))
    importance = np.exp(np.log(activation) + rng.normal(0, 0.7, len(codes)))
    found = layer_correlations(score, importance, codes, covariates=activation, n_boot=2)
    assert (found.table["q"] <= 0.05).mean() > 0.95
    assert found.table["rho"].mean() > 0.4
    assert nominal((found.table["partial_p"] <= 0.05).sum(), 600)
    # a weak dependence is left, since the ranks are not exactly linear in each other
    assert abs(found.table["partial_rho"].mean()) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 0.2])
def test_false_positives_and_coverage_of_the_mean_over_layers(between):
    rng = np.random.default_rng(2)
    n = np.array([16, 32, 64, 64, 128, 128, 256, 256])
    trials, rejected, covered = 1500, 0, 0
    for _ in range(trials):
        drawn = []
        for size in n:
            r = np.tanh(rng.normal(0, between)) if between else 0.0
            x, noise = rng.normal(size=(2, size))
            y = r * x + np.sqrt(1 - r * r) * noise
            # Spearman's correlation without ties, from the ranks
            d = x.argsort().argsort() - y.argsort().argsort()
            drawn.append(1 - 6 * (d.astype(float) ** 2).sum() / (size * (size**2 - 1)))
        pooled = pool_correlations(drawn, n)
        rejected += pooled.p <= 0.05
        covered += pooled.low <= 0 <= pooled.high
    assert covered == trials - rejected
    # Where layers do not differ, the standard error is not allowed to fall below theirs: cautious by design.
    assert nominal(rejected, trials) if between else 0.01 * trials < rejected <= 0.05 * trials


@pytest.mark.slow
def test_prediction_interval_covers_another_layer():
    rng = np.random.default_rng(3)
    n, trials, covered = np.full(12, 128), 600, 0
    for _ in range(trials):
        true = rng.normal(0.3, 0.2, 13)
        z = true[:12] + rng.normal(0, 125**-0.5, 12)
        pooled = pool_correlations(np.tanh(z), n, se=np.full(12, 125**-0.5))
        covered += pooled.prediction_low <= np.tanh(true[12]) <= pooled.prediction_high
    assert 0.92 <= covered / trials <= 0.98


@pytest.mark.slow
def test_interval_over_images_covers_with_little_noise():
    rng = np.random.default_rng(4)
    score = rng.normal(size=60)
    true = np.exp((0.8 * score + 0.6 * rng.normal(size=60)) / 2)

    def images():
        return true[:, None] * rng.gamma(0.5, 2, 200) + rng.normal(0, 1, (60, 200))

    # The correlation to be expected with 200 images; the one with infinitely many is larger.
    expected = np.tanh(np.mean([np.arctanh(scipy.stats.spearmanr(score, images().mean(1))[0]) for _ in range(400)]))
    covered = 0
    for seed in range(200):
        effects = images()
        row = layer_correlations(
            score, effects.mean(axis=1), np.zeros(60, dtype=int), images=effects, n_boot=200, seed=seed
        ).table.iloc[0]
        covered += row["low_images"] <= expected <= row["high_images"]
    assert 0.85 <= covered / 200 <= 0.99


def damage(rng, n_units, n_images, n_classes, *, own):
    """Units of uneven importance, classes of uneven difficulty and popularity."""
    labels = np.arange(n_images) % n_classes
    popularity = rng.dirichlet(np.full(n_classes, 2.0))
    preferred = rng.choice(n_classes, n_units, p=popularity)
    difficulty = rng.gamma(1, 1, n_classes)[labels]
    strength = rng.gamma(1, 1, n_units)[:, None]
    noise = rng.gamma(0.5, 2, (n_units, n_images))
    return strength * (difficulty + noise + own * (labels == preferred[:, None])), labels, preferred


@pytest.mark.slow
def test_fragile_classes_are_no_own_class_damage():
    rng, trials, codes = np.random.default_rng(5), 600, np.repeat([0, 1], 20)
    rejected, fooled = np.zeros(2), 0
    for seed in range(trials):
        effects, labels, preferred = damage(rng, 40, 60, 6, own=0.0)
        found = own_class_damage(effects, labels, preferred, codes, n_null=199, seed=seed).overall
        rejected += [found["difference_p"] <= 0.05, found["excess_p"] <= 0.05]
        fooled += not found["excess_low"] <= 0 <= found["excess_high"]
    assert nominal(rejected[0], trials)
    assert nominal(rejected[1], trials)
    # without the null, differences between classes would pass for it
    assert fooled / trials > 0.3


def test_planted_own_class_damage_is_found():
    rng = np.random.default_rng(6)
    effects, labels, preferred = damage(rng, 100, 200, 10, own=1.0)
    found = own_class_damage(effects, labels, preferred, np.repeat([0, 1], 50), n_null=999)
    assert found.overall["excess_p"] == found.overall["difference_p"] == 0.001
    assert (found.layers["excess_q"] <= 0.01).all()
    assert found.overall["excess_low"] > found.overall["excess_null_high"]
    assert found.units["above_layer"].mean() > 0.1


@pytest.mark.slow
def test_units_with_own_class_damage_keep_the_false_discovery_rate():
    rng = np.random.default_rng(7)
    planted = np.arange(400) < 100
    labels, preferred = np.arange(200) % 10, rng.integers(10, size=400)
    effects = rng.normal(size=(400, 200)) + 1.5 * (planted[:, None] & (labels == preferred[:, None]))
    q = own_class_damage(effects, labels, preferred, np.zeros(400, dtype=int), n_null=9).units["q"].to_numpy()
    assert (q[planted] <= 0.05).mean() > 0.9
    # expected: at most 5 % of what is found; 99.9 % bound for some 105 discoveries
    assert (q[~planted] <= 0.05).sum() <= scipy.stats.binom.ppf(0.999, 105, 0.05)


@pytest.mark.slow
def test_own_class_intervals_cover():
    rng = np.random.default_rng(8)
    labels, sizes = np.arange(120) % 6, 0.8
    over_images, over_units = np.zeros(2), np.zeros(2)
    for _ in range(400):
        # images: units and classes fixed, every unit damages its class by the same
        preferred = rng.integers(6, size=20)
        effects = rng.normal(size=(20, 120)) + rng.normal(size=120) + sizes * (labels == preferred[:, None])
        found = own_class_damage(effects, labels, preferred, np.zeros(20, dtype=int), n_null=1).overall
        truth = {"difference": sizes, "excess": scipy.stats.norm.cdf(sizes / 2) - 0.5}
        for i, name in enumerate(truth):
            over_images[i] += found[f"{name}_low_images"] <= truth[name] <= found[f"{name}_high_images"]
        # units: no error that they share
        spread = rng.normal(0.5, 0.5, 20)[:, None]
        effects = rng.normal(size=(20, 120)) + spread * (labels == preferred[:, None])
        found = own_class_damage(effects, labels, preferred, np.zeros(20, dtype=int), n_null=1).overall
        mean = 0.5, scipy.stats.norm.cdf(0.5 / np.sqrt(2 + 0.25)) - 0.5
        for i, name in enumerate(truth):
            over_units[i] += found[f"{name}_low"] <= mean[i] <= found[f"{name}_high"]
    assert ((over_images / 400 > 0.91) & (over_images / 400 < 0.98)).all()
    assert ((over_units / 400 > 0.91) & (over_units / 400 < 0.98)).all()
