import numpy as np
import pandas as pd
import pytest
import scipy.stats

from auditor.causal.agreement import metric_agreement
from auditor.errors import DataError, OptionError


def scores(n=40, layers=3, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n * layers)
    frame = pd.DataFrame({"a": base, "b": base + rng.normal(size=base.size), "c": rng.normal(size=base.size)})
    return frame, np.repeat(np.arange(layers), n)


def test_mean_of_scipy_over_layers():
    frame, codes = scores()
    frame.loc[[3, 50], "b"] = np.nan
    table = metric_agreement(frame, codes, n_boot=100)
    assert [tuple(pair) for pair in table[["first", "second"]].to_numpy()] == [("a", "b"), ("a", "c"), ("b", "c")]
    for row in table.itertuples():
        want = [
            scipy.stats.spearmanr(*frame.loc[codes == code, [row.first, row.second]].dropna().to_numpy().T).statistic
            for code in range(3)
        ]
        assert row.rho == pytest.approx(np.mean(want))
        assert row.low < row.rho < row.high
        assert row.n_layers == 3


def test_monotone_metrics_agree_fully():
    frame, codes = scores()
    row = metric_agreement(pd.DataFrame({"a": frame["a"], "d": np.exp(frame["a"])}), codes, n_boot=50).iloc[0]
    assert row["rho"] == pytest.approx(1)
    assert 0.99 < row["low"] <= row["high"] <= 1


def test_layers_without_enough_units_are_left_out():
    frame, codes = scores()
    frame.loc[codes == 0, "b"] = np.nan
    frame.loc[codes == 1, "b"] = 1.0
    frame["c"] = np.nan
    table = metric_agreement(frame, codes, n_boot=50)
    assert list(table["n_layers"]) == [1, 0, 0]
    assert table.loc[0, "rho"] == pytest.approx(
        scipy.stats.spearmanr(frame.loc[codes == 2, "a"], frame.loc[codes == 2, "b"]).statistic
    )
    assert table.loc[1:, ["rho", "low", "high"]].isna().all(axis=None)


def test_same_seed_same_result():
    frame, codes = scores()
    assert metric_agreement(frame, codes, n_boot=20, seed=4).equals(metric_agreement(frame, codes, n_boot=20, seed=4))


def test_one_metric_agrees_with_nobody():
    frame, codes = scores()
    table = metric_agreement(frame[["a"]], codes, n_boot=20)
    assert table.empty
    assert "rho" in table


def test_interval_covers_the_mean_correlation():
    rng = np.random.default_rng(5)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    hits = 0
    for seed in range(200):
        x, noise = rng.normal(size=(2, 90))
        frame = pd.DataFrame({"x": x, "y": 0.6 * x + 0.8 * noise})
        row = metric_agreement(frame, np.repeat([0, 1, 2], 30), n_boot=100, seed=seed).iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert 0.9 <= hits / 200 <= 0.99


def test_wrong_input_is_refused():
    frame, codes = scores()
    with pytest.raises(DataError, match="same units"):
        metric_agreement(frame, codes[1:])
    with pytest.raises(OptionError):
        metric_agreement(frame, codes, n_boot=0)
