import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from auditor.causal.agreement import rank_correlations, resample_counts
from auditor.causal.correlation import layer_correlations, partial_correlation
from auditor.errors import DataError, OptionError


def sample(n=60, layers=2, seed=0):
    rng = np.random.default_rng(seed)
    score = np.round(rng.normal(size=n * layers), 1)  # with ties
    return score, score + rng.normal(size=n * layers), np.repeat(np.arange(layers) * 3, n), rng


def test_matches_scipy_within_each_layer():
    score, importance, codes, _ = sample()
    table = layer_correlations(score, importance, codes, n_boot=50).table
    assert list(table["site"]) == [0, 3]
    for row in table.itertuples():
        want = scipy.stats.spearmanr(score[codes == row.site], importance[codes == row.site])
        assert row.rho == pytest.approx(want.statistic)
        assert row.p == pytest.approx(want.pvalue)
        assert (row.n_units, row.reason) == (60, "")
        assert row.low < row.rho < row.high
    np.testing.assert_allclose(table["q"], scipy.stats.false_discovery_control(table["p"]))
    assert table[["low_images", "high_images", "partial_rho", "partial_p", "partial_q"]].isna().all(axis=None)


def test_p_agrees_with_the_permutation_test_where_effects_tie():
    rng = np.random.default_rng(1)
    score, importance = rng.normal(size=14), np.maximum(rng.normal(0.3, 1, 14), 0)
    importance[np.argsort(score)[-4:]] += 0.6
    row = layer_correlations(score, importance, np.zeros(14, dtype=int), n_boot=2).table.iloc[0]
    exact = scipy.stats.permutation_test(
        (score,), lambda x: scipy.stats.spearmanr(x, importance).statistic, permutation_type="pairings",
        n_resamples=2000, rng=2,
    )  # fmt: skip
    assert row["p"] == pytest.approx(exact.pvalue, abs=0.02)


def test_partial_is_the_correlation_of_residual_ranks():
    score, importance, codes, rng = sample(80, 1)
    covariates = np.column_stack([score + rng.normal(size=80), rng.exponential(size=80)])
    row = layer_correlations(score, importance, codes, covariates=covariates, n_boot=50).table.iloc[0]
    ranks = scipy.stats.rankdata(np.column_stack([score, importance, covariates]), axis=0)
    left = ranks[:, :2] - LinearRegression().fit(ranks[:, 2:], ranks[:, :2]).predict(ranks[:, 2:])
    want = scipy.stats.pearsonr(*left.T).statistic
    assert row["partial_rho"] == pytest.approx(want)
    t = want * np.sqrt((80 - 2 - 2) / (1 - want**2))
    assert row["partial_p"] == pytest.approx(2 * scipy.stats.t.sf(abs(t), 76))
    assert row["partial_low"] < want < row["partial_high"]


def test_a_covariate_given_twice_counts_once():
    score, importance, codes, rng = sample(40, 1)
    once = rng.normal(size=40)
    tables = [
        layer_correlations(score, importance, codes, covariates=c, n_boot=20).table
        for c in (once, np.column_stack([once, once]))
    ]
    for name in ("partial_rho", "partial_p", "partial_low"):
        assert tables[0][name][0] == pytest.approx(tables[1][name][0])


def test_a_constant_covariate_changes_nothing():
    score, importance, codes, rng = sample(40, 1)
    other = rng.normal(size=40)
    nothing, both, one = (
        layer_correlations(score, importance, codes, covariates=c, n_boot=20).table.iloc[0]
        for c in (np.ones(40), np.column_stack([np.ones(40), other]), other)
    )
    assert nothing["partial_rho"] == pytest.approx(nothing["rho"])
    assert (nothing["partial_low"], nothing["partial_p"]) == pytest.approx((nothing["low"], nothing["p"]))
    assert (both["partial_rho"], both["partial_p"]) == pytest.approx((one["partial_rho"], one["partial_p"]))


@given(st.lists(st.integers(0, 4), min_size=5, max_size=12), st.integers(0, 2**32 - 1))
def test_ranks_of_a_resample_are_those_of_the_drawn_rows(column, seed):
    rng = np.random.default_rng(seed)
    values = np.column_stack([column, rng.integers(0, 3, len(column)), rng.normal(size=len(column))]).astype(float)
    counts = resample_counts(len(column), 3, rng)
    for weights, got in zip(counts, rank_correlations(values, counts), strict=True):
        drawn = np.repeat(values, weights.astype(int), axis=0)
        with np.errstate(invalid="ignore"):
            want = np.corrcoef(scipy.stats.rankdata(drawn, axis=0).T)
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_resamples_keep_classes():
    labels = np.array([0, 1, 1, 5, 5, 5, 1, 0])
    counts = resample_counts(8, 200, np.random.default_rng(0), labels)
    for label, size in ((0, 2), (1, 3), (5, 3)):
        assert (counts[:, labels == label].sum(axis=1) == size).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(8), abs=0.25)


def test_draws_over_images_are_correlations_of_resampled_means():
    score, _, codes, rng = sample(30, 2)
    images = (score[:, None] * 0.2 + rng.normal(size=(60, 25))).astype(np.float32)
    covariates, labels = rng.normal(size=60), np.arange(25) % 3
    found = layer_correlations(
        score, images.mean(axis=1), codes, covariates=covariates, images=images, labels=labels, n_boot=40, seed=7
    )
    counts = resample_counts(25, 40, np.random.default_rng([7, 11]), labels)
    for column, code in enumerate((0, 3)):
        rows = codes == code
        means = images[rows].astype(float) @ counts.T / 25
        want = [scipy.stats.spearmanr(score[rows], mean).statistic for mean in means.T]
        np.testing.assert_allclose(found.image_draws[:, column], want, atol=1e-6)
        ranks = scipy.stats.rankdata(np.column_stack([score[rows], means[:, 0], covariates[rows]]), axis=0)
        r = np.corrcoef(ranks.T)
        want = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
        assert found.partial_image_draws[0, column] == pytest.approx(want)
        row = found.table.iloc[column]
        half = scipy.stats.norm.ppf(0.975) * np.arctanh(found.image_draws[:, column]).std(ddof=1)
        assert row["low_images"] == pytest.approx(np.tanh(np.arctanh(row["rho"]) - half))


def test_rows_of_a_memory_map_are_read_in_blocks(tmp_path, monkeypatch):
    score, _, codes, rng = sample(30, 1)
    images = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float32, shape=(30, 20))
    images[:] = rng.normal(size=(30, 20)) + score[:, None]
    want = layer_correlations(score, images.mean(axis=1), codes, images=np.array(images), n_boot=30)
    monkeypatch.setattr("auditor.causal.correlation.IMAGE_BLOCK", 70)
    monkeypatch.setattr("auditor.causal.correlation.RANK_BLOCK", 100)
    monkeypatch.setattr("auditor.causal.agreement.RANK_BLOCK", 150)
    got = layer_correlations(score, images.mean(axis=1), codes, images=images, n_boot=30)
    np.testing.assert_allclose(got.image_draws, want.image_draws)


def test_units_with_a_missing_value_are_left_out():
    score, importance, codes, _ = sample(30, 1)
    score[3], importance[5] = np.nan, np.nan
    kept = np.isfinite(score) & np.isfinite(importance)
    got = layer_correlations(score, importance, codes, n_boot=30).table
    want = layer_correlations(score[kept], importance[kept], codes[kept], n_boot=30).table
    assert got.equals(want)
    assert got["n_units"][0] == 28


def test_undefined_layers_say_why():
    score, importance, _, rng = sample(20, 4)
    codes = np.repeat([0, 1, 2, 3, 4], [20, 20, 20, 7, 13])
    score[codes == 0] = 0.5
    importance[codes == 1] = 0.0
    covariates = rng.normal(size=80)
    covariates[codes == 2] = 2 * score[codes == 2]
    found = layer_correlations(
        score, importance, codes, covariates=covariates, images=np.tile(importance[:, None], 9), n_boot=20
    )
    assert list(found.table["reason"]) == [
        "constant score",
        "constant importance",
        "partial: covariates determine the score or the importance",
        "7 units, fewer than 8",
        "",
    ]
    assert list(found.table["rho"].isna()) == [True, True, False, True, False]
    assert list(found.table["partial_rho"].isna()) == [True, True, True, True, False]
    assert list(np.isnan(found.image_draws).all(axis=0)) == [True, True, False, True, False]
    assert list(np.isnan(found.partial_image_draws).all(axis=0)) == [True, True, True, True, False]
    assert found.pooled().n_layers == 2
    assert found.pooled(partial=True).n_layers == 1


def test_same_rank_everywhere():
    score = np.arange(20.0)
    row = layer_correlations(score, score**3, np.zeros(20, dtype=int), n_boot=50).table.iloc[0]
    assert row["rho"] == 1
    assert row["p"] == 0
    assert 0.9 < row["low"] <= row["high"] <= 1


def test_same_seed_same_result():
    score, importance, codes, _ = sample()
    first, again, other = (layer_correlations(score, importance, codes, n_boot=40, seed=s).table for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    # a layer's resamples do not depend on which others are there
    alone = layer_correlations(score[codes == 3], importance[codes == 3], codes[codes == 3], n_boot=40, seed=1).table
    assert alone["low"][0] == first["low"][1]


def test_partial_correlation_is_missing_where_nothing_is_left():
    matrices = np.array([[[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]], np.full((3, 3), np.nan), np.eye(3)])
    np.testing.assert_array_equal(partial_correlation(matrices), [np.nan, np.nan, 0])


def test_wrong_input_is_refused():
    score, importance, codes, rng = sample(20, 1)
    with pytest.raises(DataError, match="same units"):
        layer_correlations(score, importance[1:], codes)
    with pytest.raises(DataError, match="covariate of a unit is missing"):
        layer_correlations(score, importance, codes, covariates=np.full(20, np.nan))
    with pytest.raises(DataError, match="effects do not fit"):
        layer_correlations(score, importance, codes, images=np.zeros((19, 4)))
    with pytest.raises(DataError, match="labels do not fit"):
        layer_correlations(score, importance, codes, images=np.zeros((20, 4)), labels=np.zeros(5))
    with pytest.raises(DataError, match="not the mean"):
        layer_correlations(score, importance, codes, images=rng.normal(size=(20, 4)))
    with pytest.raises(DataError, match="not finite"):
        layer_correlations(score, importance, codes, images=np.full((20, 4), np.nan))
    with pytest.raises(DataError, match="Site codes"):
        layer_correlations(score, importance, codes + 0.5)
    with pytest.raises(OptionError):
        layer_correlations(score, importance, codes, n_boot=1)
    with pytest.raises(OptionError):
        layer_correlations(score, importance, codes, confidence=95)
