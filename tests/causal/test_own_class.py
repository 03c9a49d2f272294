import json
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from auditor.causal.own_class import own_class_damage
from auditor.errors import DataError, OptionError


def sample(n_units=24, n_images=60, seed=0, *, ties=True):
    rng = np.random.default_rng(seed)
    effects = rng.gamma(0.5, 2, (n_units, n_images))
    if ties:
        effects = np.round(effects)
    labels = rng.permutation(np.arange(n_images) % 5) * 2  # classes 0, 2, ..., 8
    return effects, labels, rng.integers(5, size=n_units) * 2, np.repeat([1, 4], n_units // 2)


def test_units_match_scipy_and_sklearn():
    effects, labels, preferred, codes = sample()
    units = own_class_damage(effects, labels, preferred, codes, n_null=20, confidence=0.9).units
    for u, row in enumerate(units.itertuples(index=False)):
        own, others = effects[u, labels == preferred[u]], effects[u, labels != preferred[u]]
        want = scipy.stats.ttest_ind(own, others, equal_var=False)
        interval = want.confidence_interval(0.9)
        assert (row.own, row.others) == pytest.approx((own.mean(), others.mean()))
        assert (row.p, row.low, row.high) == pytest.approx((want.pvalue, interval.low, interval.high))
        u_statistic = scipy.stats.mannwhitneyu(own, others).statistic
        assert row.superiority == pytest.approx(u_statistic / (len(own) * len(others)))
        assert row.superiority == pytest.approx(roc_auc_score(labels == preferred[u], effects[u]))
        peers = [
            roc_auc_score(labels == preferred[u], effects[v])
            for v in np.flatnonzero((codes == codes[u]) & (preferred != preferred[u]))
        ]
        assert row.above_layer == pytest.approx(row.superiority - np.mean(peers))
    np.testing.assert_allclose(units["q"], scipy.stats.false_discovery_control(units["p"]))


def test_layers_and_overall_are_means_over_units():
    effects, labels, preferred, codes = sample()
    found = own_class_damage(effects, labels, preferred, codes, n_null=50)
    everything = [*found.layers.to_dict("records"), found.overall]
    for row, members in zip(everything, (codes == 1, codes == 4, codes > 0), strict=True):
        units = found.units[members]
        for name, values in {
            "own": units["own"],
            "difference": units["difference"],
            "excess": units["superiority"] - 0.5,
        }.items():
            want = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), values.sem())
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((values.mean(), *want))
        assert row["n_units"] == len(units)
    np.testing.assert_allclose(found.layers["excess_q"], scipy.stats.false_discovery_control(found.layers["excess_p"]))


def test_null_permutes_preferred_classes_within_the_layer():
    effects, labels, preferred, codes = sample(6, 40)
    codes = np.repeat(7, 6)
    found = own_class_damage(effects, labels, preferred, codes, n_null=4000, seed=3)
    tables = {
        "difference": [[e[labels == c].mean() - e[labels != c].mean() for c in range(0, 10, 2)] for e in effects],
        "excess": [[roc_auc_score(labels == c, e) - 0.5 for c in range(0, 10, 2)] for e in effects],
    }
    orders = [[preferred[i] // 2 for i in order] for order in permutations(range(6))]
    want = {name: np.array(table)[np.arange(6), orders].mean(axis=1) for name, table in tables.items()}
    for name, draws in want.items():
        assert np.isin(found.null[name].round(9), draws.round(9)).all()
        assert found.null[name].mean() == pytest.approx(draws.mean(), abs=4 * draws.std() / 4000**0.5)
        observed = found.overall[name]
        assert found.overall[f"{name}_p"] == pytest.approx(((found.null[name] >= observed - 1e-9).sum() + 1) / 4001)
        assert found.overall[f"{name}_null_mean"] == pytest.approx(found.null[name].mean())


@pytest.mark.slow
def test_interval_over_images_is_that_of_the_stratified_bootstrap():
    effects, labels, preferred, codes = sample(30, 150, ties=False)
    found = own_class_damage(effects, labels, preferred, codes, n_null=1)
    rng = np.random.default_rng(1)
    means = []
    for _ in range(300):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in range(0, 10, 2)])
        again = own_class_damage(effects[:, rows], labels[rows], preferred, codes, n_null=1).overall
        means.append([again["difference"], again["excess"]])
    for name, spread in zip(("difference", "excess"), np.std(means, axis=0, ddof=1), strict=True):
        half = (found.overall[f"{name}_high_images"] - found.overall[f"{name}_low_images"]) / 2
        # the bootstrap's variance is (n - 1) / n of it; 300 draws have an error of 4 %
        assert half == pytest.approx(1.96 * spread * np.sqrt(30 / 29), rel=0.12)


def test_one_class_for_all_units_is_no_evidence():
    effects, labels, _, codes = sample()
    effects[:, labels == 2] += 3
    found = own_class_damage(effects, labels, np.full(24, 2), codes, n_null=99)
    assert found.overall["excess"] > 0.3
    assert (found.overall["excess_p"], found.overall["difference_p"]) == (1, 1)
    assert found.units["above_layer"].isna().all()


def test_units_without_a_class_are_left_out():
    effects, labels, preferred, codes = sample()
    preferred[:2] = [-1, 3]
    found = own_class_damage(effects, labels, preferred, codes, n_null=20)
    assert found.units.iloc[:2].isna().all(axis=None)
    assert found.units.iloc[2:].notna().all(axis=None)
    rest = own_class_damage(effects[2:], labels, preferred[2:], codes[2:], n_null=20)
    assert found.overall == rest.overall
    preferred[codes == 1] = -1
    layers = own_class_damage(effects, labels, preferred, codes, n_null=20).layers
    assert list(layers["n_units"]) == [0, 12]
    assert layers.iloc[0].drop(["site", "n_units"]).isna().all()


def test_silent_units_have_no_test():
    effects, labels, preferred, codes = sample()
    effects[0] = 0
    row = own_class_damage(effects, labels, preferred, codes, n_null=5).units.iloc[0]
    assert (row["difference"], row["superiority"]) == (0, 0.5)
    assert np.isnan(row[["low", "high", "p", "q"]].astype(float)).all()


def test_blocks_change_nothing(monkeypatch):
    effects, labels, preferred, codes = sample()
    whole = own_class_damage(effects, labels, preferred, codes, n_null=30)
    monkeypatch.setattr("auditor.causal.own_class.BLOCK", 130)
    blocks = own_class_damage(effects, labels, preferred, codes, n_null=30)
    assert blocks.units.equals(whole.units)
    assert blocks.overall == pytest.approx(whole.overall)


def test_result_is_plain_and_reproducible():
    arguments = sample()
    found, again = (own_class_damage(*arguments, n_null=30, seed=5) for _ in range(2))
    assert json.loads(json.dumps(found.to_dict())) == again.to_dict()
    assert "24 units" in found.summary()


def test_wrong_input_is_refused():
    effects, labels, preferred, codes = sample()
    with pytest.raises(DataError, match="do not fit"):
        own_class_damage(effects, labels[1:], preferred, codes)
    with pytest.raises(DataError, match="whole numbers"):
        own_class_damage(effects, labels, preferred + 0.5, codes)
    with pytest.raises(DataError, match="No unit prefers"):
        own_class_damage(effects, labels, np.full(24, 99), codes)
    with pytest.raises(DataError, match="No unit prefers"):
        own_class_damage(effects, np.zeros(60, dtype=int), np.zeros(24, dtype=int), codes)
    with pytest.raises(DataError, match="not finite"):
        own_class_damage(np.where(effects > 1, np.nan, effects), labels, preferred, codes)
    with pytest.raises(OptionError):
        own_class_damage(effects, labels, preferred, codes, n_null=0)
