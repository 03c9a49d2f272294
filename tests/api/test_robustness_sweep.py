"""Robustness over networks: against scipy and by hand, and on a real small sweep."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import auditor
from auditor.api.robustness import robustness
from auditor.api.robustness_networks import Network
from auditor.api.robustness_sweep import alpha_table, association_table, matched_table, partial_spearman
from auditor.cli.robustness import command

ALPHAS, SEEDS, N = (-2.0, 0.0, 2.0), (0, 1, 2), 50


def made(alpha: float, seed: int, index: float) -> Network:
    network = {"mean_index": index, "low": index, "high": index, "null_mean": 0.1}
    run: Any = SimpleNamespace(summary={"network": network})
    return Network(f"{alpha:g}-{seed}", alpha, seed, run)


@pytest.fixture
def networks() -> list[Network]:
    return [made(a, s, 0.4 + 0.1 * a + 0.01 * s) for a in ALPHAS for s in SEEDS]


@pytest.fixture
def values(networks: list[Network]) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        one.name: {
            "clean": (rng.random(N) < 0.8).astype(float),
            "corrupted": rng.random(N) * (0.8 - 0.05 * float(one.alpha or 0)),
            "pgd@2": (rng.random(N) < 0.4 + 0.1 * float(one.alpha or 0)).astype(float),
        }
        for one in networks
    }


def test_alphas_are_compared_seed_by_seed(networks: list[Network], values: Any) -> None:
    table = alpha_table(networks, values, 0.95).set_index(["measure", "alpha"])
    row = table.loc["corrupted", -2.0]
    mine, control = ([values[f"{a}-{s}"]["corrupted"].mean() for s in SEEDS] for a in ("-2", "0"))
    test = stats.ttest_rel(mine, control)
    interval = test.confidence_interval(0.95)
    assert row["mean"] == pytest.approx(np.mean(mine))
    assert row["difference"] == pytest.approx(np.mean(mine) - np.mean(control))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((interval.low, interval.high))
    assert row["p"] == pytest.approx(test.pvalue)
    p = table.loc["corrupted"]["p"].dropna()
    np.testing.assert_allclose(table.loc["corrupted"]["q"].dropna(), stats.false_discovery_control(p))
    assert row["over"] == "seeds"
    assert np.isnan(table.loc["corrupted", 0.0]["difference"])


def test_one_seed_is_compared_image_by_image_and_says_so(networks: list[Network], values: Any) -> None:
    single = [one for one in networks if one.seed == 1]
    row = alpha_table(single, values, 0.95).set_index(["measure", "alpha"]).loc["pgd@2", 2.0]
    assert row["over"] == "images"
    assert np.isnan(row["mean_low"])
    test = stats.ttest_rel(values["2-1"]["pgd@2"], values["0-1"]["pgd@2"])
    assert row["p"] == pytest.approx(test.pvalue)


def test_association_is_scipys(networks: list[Network], values: Any) -> None:
    table = association_table(networks, values, 0.95).set_index("measure")
    index = [one.mean_si[0] for one in networks]
    for measure in ("corrupted", "pgd@2"):
        y = [values[one.name][measure].mean() for one in networks]
        assert table.loc[measure, "rho"] == pytest.approx(stats.spearmanr(index, y).statistic)
        assert table.loc[measure, "rho_low"] < table.loc[measure, "rho"] < table.loc[measure, "rho_high"]
    assert np.isnan(table.loc["clean", "partial_rho"])


def test_equal_accuracies_are_ties_whatever_the_order_of_the_sums(networks: list[Network]) -> None:
    parts = np.array([0.1, 0.2, 0.3])
    values = {
        one.name: {"clean": parts, "corrupted": parts[:: 1 - 2 * (k % 2)] + (k == 8)} for k, one in enumerate(networks)
    }
    assert parts.mean() != parts[::-1].mean()
    expected = stats.spearmanr([one.mean_si[0] for one in networks], np.arange(9) == 8).statistic
    assert association_table(networks, values, 0.95)["rho"].iloc[1] == pytest.approx(expected)


def test_partial_correlation_is_that_of_residual_ranks() -> None:
    rng = np.random.default_rng(1)
    given = rng.normal(size=25)
    x, y = given + rng.normal(size=25), given + rng.normal(size=25)
    ranks = [stats.rankdata(v) for v in (x, y, given)]
    residuals = [stats.linregress(ranks[2], r) for r in ranks[:2]]
    left = [r - f.intercept - f.slope * ranks[2] for r, f in zip(ranks[:2], residuals, strict=True)]
    found = partial_spearman(x, y, given)
    assert found.estimate == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found.low < found.estimate < found.high
    assert partial_spearman(x, y, np.ones(25)).estimate == pytest.approx(stats.spearmanr(x, y).statistic)
    assert np.isnan(partial_spearman(x[:3], y[:3], given[:3]).estimate)
    assert np.isnan(partial_spearman(np.ones(25), y, given).estimate)


def test_networks_are_matched_within_a_point_or_left_out(networks: list[Network]) -> None:
    def share(k: int) -> np.ndarray:
        return (np.arange(1000) < k).astype(float)

    clean = {
        "0-0": 900,
        "0-1": 910,
        "0-2": 920,
        "-2-0": 912,
        "-2-1": 931,
        "-2-2": 905,
        "2-0": 600,
        "2-1": 600,
        "2-2": 1,
    }
    values = {name: {"clean": share(k), "corrupted": share(k // 2)} for name, k in clean.items()}
    table = matched_table(networks, values, 0.95).set_index("alpha")
    low = table.loc[-2.0]
    assert low["n_controls"] == 2
    assert (low["n_pairs"], low["unmatched"]) == (2, 1)  # 912 with 910, 905 with 900; 931 is 11 from 920
    assert low["clean_gap"] == pytest.approx((0.002 + 0.005) / 2)
    assert low["difference"] == pytest.approx((456 - 455 + 452 - 450) / 2 / 1000)
    high = table.loc[2.0]
    assert (high["n_pairs"], high["unmatched"]) == (0, 3)
    assert np.isnan(high["difference"])


@pytest.mark.slow
def test_sweep_is_measured_checked_by_transfer_and_extended(
    shared_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (auditor.Run, auditor.Sweep):  # figures of the training are others' to test, and take their time
        monkeypatch.setattr(kind, "save_figures", lambda _: [])
    shutil.copytree(shared_runs / "base", tmp_path / "base")
    run = auditor.Run.open("base", runs=tmp_path)
    training: dict[str, Any] = {"epochs": 1, "limit": 60}
    sweep = auditor.sweep(run, alphas=[-5, 0], seeds=2, name="sw", **training)
    quick: dict[str, Any] = {
        "corruptions": ["contrast", "gaussian_noise"], "severities": (3,), "epsilons": (4, 16), "steps": (1, 4),
        "pgd_steps": 4, "step_epsilon": 4.0, "n_images": 40,
    }  # fmt: skip
    found = robustness(sweep, reference=run, **quick)
    assert found.is_sweep
    assert found.overall["alpha"].tolist() == [-5, -5, 0, 0]
    assert found.overall["mce"].notna().all()
    transfer = found.masking[found.masking["check"] == "transfer"]
    assert set(transfer["outcome"]) <= {"passed", "failed"}
    assert set(found.alphas["measure"]) == {"clean", "corrupted", "fgsm@4", "fgsm@16", "pgd@4", "pgd@16", "jacobian"}
    assert found.figures() == ["corruptions", "epsilon", "steps", "attacks"]
    assert "4 networks" in found.summary()
    # The same as each network alone.
    alone = robustness(sweep.members[1].run, **quick)
    mine = found.attacks[found.attacks["network"] == alone.overall["network"].iloc[0]]
    assert mine["accuracy"].tolist() == alone.attacks["accuracy"].tolist()
    # More networks later: only they are measured.
    stamps = {path: path.stat().st_mtime_ns for path in (found.path / "per_image").iterdir()}
    larger = auditor.sweep(run, alphas=[-5, 0, 5], seeds=[0], name="sw", **training)
    again = robustness(larger, reference=run, **quick)
    assert again.path == found.path
    assert again.overall["alpha"].tolist() == [-5, -5, 0, 0, 5]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    options = ["--runs", str(tmp_path), "--sweep", "sw", "--reference", "base", "--corruptions",
               "contrast,gaussian_noise", "--severities", "3", "--epsilons", "4,16", "--steps", "1,4", "--pgd-steps",
               "4", "--step-epsilon", "4", "--images", "40", "--quiet"]  # fmt: skip
    shown = CliRunner().invoke(command, options, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "Mean corruption accuracy by alpha" in shown.stdout
    assert "Accuracy under PGD at 4/255 by alpha" in shown.stdout
