"""Signed responses: d' and AUC stand in where the index is not defined, and what builds on it follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import auditor
from auditor.api.ablation_settings import AblationSettings
from auditor.api.selection import curve_score, main_metric, resolve, scored_by, signed_metrics
from auditor.api.settings import SelectivitySettings
from auditor.cli import ablate as ablate_command
from auditor.cli import compare as compare_command
from auditor.cli import profile as profile_command
from auditor.errors import OptionError

QUICK = {"shuffles": 199, "bootstraps": 100, "weights": "none"}
ABLATION = {"random_orders": 2, "curve_points": 3, "limit": 30, "q": 0.5}


@pytest.fixture(scope="module")
def runs(factories: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs ``signed``, ``other`` (other weights) and ``mixed``."""
    folder = tmp_path_factory.mktemp("signed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        for name, model, seed in (("signed", "signed", 0), ("other", "signed", 1), ("mixed", "mixed", 0)):
            auditor.profile(f"factories:{model}", name=name, seed=seed, limit=120, runs=folder, **QUICK)
    return folder


@pytest.fixture
def signed(runs: Path) -> auditor.Run:
    return auditor.Run.open("signed", runs=runs)


@pytest.fixture
def mixed(runs: Path) -> auditor.Run:
    return auditor.Run.open("mixed", runs=runs)


def stored(run: auditor.Run, site: str, split: int = 1) -> tuple[np.ndarray, np.ndarray]:
    with run.store() as store:
        rows = np.flatnonzero(store.splits == split)
        return np.asarray(store.responses(site, rows), dtype=np.float64), store.labels[rows]


def dprime(values: np.ndarray, inside: np.ndarray) -> float:
    a, b = values[inside], values[~inside]
    return float((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))


@pytest.mark.parametrize("name, site", [("signed", "act"), ("mixed", "1")])
def test_values_equal_other_implementations_on_the_stored_responses(runs: Path, name: str, site: str) -> None:
    run = auditor.Run.open(name, runs=runs)
    responses, labels = stored(run, site)
    held, held_labels = stored(run, site, split=2)
    assert (responses < 0).any()
    table = run.selectivity[run.selectivity["site"] == site]
    for row in table.to_dict("records"):
        values = responses[:, row["unit"]]
        areas = [roc_auc_score(labels == c, values) for c in range(10)]
        assert row["auc"] == pytest.approx(max(areas), abs=1e-9)
        assert row["auc_preferred"] == str(int(np.argmax(areas)))
        found = [dprime(values, labels == c) for c in range(10)]
        assert row["dprime"] == pytest.approx(max(found), rel=1e-6)
        assert row["dprime_preferred"] == str(int(np.argmax(found)))
        again = dprime(held[:, row["unit"]], held_labels == int(np.argmax(found)))
        assert row["dprime_heldout"] == pytest.approx(again, rel=1e-6)
    for metric in ("dprime", "auc"):
        assert (table[f"{metric}_low"] <= table[metric]).all()
        assert (table[metric] <= table[f"{metric}_high"]).all()
        assert table[f"{metric}_p"].between(1 / 200, 1).all()
        assert (table[f"{metric}_q"] >= table[f"{metric}_p"] - 1e-12).all()
        np.testing.assert_allclose(table[f"{metric}_excess"], table[metric] - table[f"{metric}_null"])


def test_a_signed_network_has_no_index_mean(signed: auditor.Run) -> None:
    layer = signed.layers.iloc[0]
    assert layer["scored_by"] == "dprime"
    assert np.isnan(layer["mean_index"])
    assert np.isnan(layer["index_excess"])
    units = signed.selectivity
    assert layer["significant"] == (units["dprime_q"] <= 0.05).sum()
    network = signed.summary["network"]
    assert network["mean_index"] is None
    assert network["signed"]["sites"] == 1
    assert network["signed"]["units"] == 6
    for metric in ("dprime", "auc"):
        assert network["signed"][metric]["mean"] == pytest.approx(units[metric].mean())
        assert network["signed"][metric]["null_mean"] == pytest.approx(layer[f"{metric}_null_mean"])
        assert layer[f"{metric}_excess"] == pytest.approx(units[f"{metric}_excess"].mean())
    assert network["signed"]["dprime"]["low"] < network["signed"]["dprime"]["mean"]
    assert network["signed"]["auc"]["low"] is None
    json.dumps(signed.to_dict(), allow_nan=False)


def test_a_mixed_network_has_each_where_it_is_defined(mixed: auditor.Run) -> None:
    assert scored_by(mixed.layers) == {"1": "dprime", "3": "index"}
    assert main_metric(mixed.layers) == "index"
    assert signed_metrics(mixed.layers) == ("dprime", "auc")
    units = mixed.selectivity
    gelu, relu = units[units["site"] == "1"], units[units["site"] == "3"]
    assert gelu[["dprime", "auc"]].notna().all(axis=None)
    assert relu[["dprime", "auc", "dprime_q", "auc_null"]].isna().all(axis=None)
    assert (relu["dprime_preferred"] == "").all()
    assert gelu.loc[gelu["signed"], "index"].isna().all()
    network = mixed.summary["network"]
    assert network["mean_index"] == pytest.approx(relu["index"].mean())
    assert network["low"] <= network["mean_index"] <= network["high"]
    assert network["signed"]["dprime"]["mean"] == pytest.approx(gelu["dprime"].mean())
    assert mixed.summary["significant"] == (relu["index_q"] <= 0.05).sum() + (gelu["dprime_q"] <= 0.05).sum()


def test_a_network_without_signed_layers_is_as_it_was(base: auditor.Run) -> None:
    assert not [column for column in (*base.selectivity, *base.layers) if "auc" in column or "heldout" in column[:8]]
    assert "scored_by" not in base.layers
    assert "signed" not in base.summary["network"]
    assert base.selectivity["dprime"].notna().any()  # asked for
    assert signed_metrics(base.layers) == ()
    assert not (base.path / "figures" / "selectivity.png").exists()


def test_the_rule_is_part_of_the_identity(signed: auditor.Run, base: auditor.Run) -> None:
    for run in (signed, base):
        assert run.manifest.identity["selectivity"]["signed"] == ["dprime", "auc"]
    with pytest.raises(OptionError, match="not defined for signed"):
        SelectivitySettings(signed=("index",))


def test_asked_for_metrics_still_score_every_layer(factories: str, runs: Path, tmp_path: Path) -> None:
    run = auditor.profile("factories:mixed", metrics=["dprime"], limit=120, runs=tmp_path, **QUICK)
    units, before = run.selectivity, auditor.Run.open("mixed", runs=runs)
    assert units.loc[~units["dead"], "dprime"].notna().all()
    assert units.loc[units["site"] == "3", "auc"].isna().all()
    assert run.summary["network"]["signed"] == before.summary["network"]["signed"]
    names = {path.stem for path in (run.path / "figures").glob("*.png")}
    assert names == {"selectivity", "selectivity_dprime", "class_tuning"}


def test_figures_show_what_stands_in(signed: auditor.Run, mixed: auditor.Run) -> None:
    assert {path.stem for path in (signed.path / "figures").glob("*.png")} == {"selectivity", "class_tuning"}
    assert [axes.get_xlabel() for axes in signed.plot().axes] == ["d'", "ROC-AUC of the best class"]
    labels = [axes.get_xlabel() for axes in mixed.plot().axes]
    assert labels == ["class selectivity index", "d'", "ROC-AUC of the best class"]
    assert [axes.get_xlabel() for axes in mixed.plot("index").axes] == ["class selectivity index"]
    assert set(signed.tuning()["unit_id"]) <= set(signed.selectivity["unit_id"])
    best = signed.selectivity.sort_values("dprime_excess", ascending=False)["unit_id"].iloc[0]
    assert signed.tuning(1)["unit_id"].tolist() == [best] * 10
    assert mixed.tuning()["unit_id"].str.startswith("3:").all()


def test_a_profile_prints_them(
    signed: auditor.Run, mixed: auditor.Run, base: auditor.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    profile_command.show(signed)
    text = capsys.readouterr().out
    assert "(without an interval)" in " ".join(text.split())
    assert "signed responses (120 images" in text
    assert "mean d' [95%]" in text
    assert "SI [95%]" not in text
    assert "Network mean d'" in text
    profile_command.show(mixed)
    text = capsys.readouterr().out
    assert "Class selectivity by layer (1 of 2 layers, 120 images" in text
    assert "1 layer with signed responses: mean d'" in text
    assert "1 layer without signed responses: mean SI" in text
    profile_command.show(base)
    text = capsys.readouterr().out
    assert "d'" not in text
    assert "Network mean SI" in text


def test_ablation_of_a_signed_network_ranks_by_dprime(signed: auditor.Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = signed.ablate(2, **ABLATION)
    ranked = signed.selectivity.sort_values("dprime_excess", ascending=False)
    assert found.effects["unit_id"].tolist() == ranked["unit_id"].head(2).tolist()
    assert found.effects["preferred"].tolist() == ranked["dprime_preferred"].head(2).tolist()
    assert found.manifest.identity["by"] == "dprime_excess"
    assert found.results["ranked_by"] == "dprime_excess"
    assert found.results["left_out"] == []
    assert "Ranked by d' above shuffled labels (dprime_excess); every layer has signed responses" in found.summary()
    assert found.plot().axes[0].get_xlabel() == "d' above shuffled labels"
    ablate_command.show(found)
    assert "Ranked by d'" in capsys.readouterr().out
    assert signed.ablate(2, by="dprime_excess", **ABLATION).path == found.path


def test_ablation_of_a_mixed_network_ranks_by_the_index_and_says_what_it_leaves_out(mixed: auditor.Run) -> None:
    found = mixed.ablate(2, **ABLATION)
    assert set(found.effects["site"]) == {"3"}
    assert found.manifest.identity["by"] == "excess"
    assert found.results["left_out"] == ["1"]
    assert "Left out of the ranking: 1 layer with signed responses, which have no index: 1." in found.summary()
    with pytest.raises(OptionError, match="1 layer with signed responses"):
        mixed.ablate(14, **ABLATION)
    assert "left out" not in mixed.ablate(2, by="dprime", **ABLATION).summary().lower()


def test_curves_rank_signed_layers_among_themselves(mixed: auditor.Run) -> None:
    units, layers = mixed.selectivity, mixed.layers
    expected = np.where(units["site"] == "1", units["dprime_excess"], units["index_excess"])
    np.testing.assert_array_equal(curve_score(units, layers, AblationSettings()), expected)
    over = curve_score(units, layers, AblationSettings(curve_over="network"))
    assert np.isnan(over[units["site"] == "1"]).all()
    named = AblationSettings(by="dprime")
    np.testing.assert_array_equal(curve_score(units, layers, named), units["dprime"])
    assert resolve(named, layers) == (named, ())


def test_earlier_runs_rank_by_the_index(base: auditor.Run) -> None:
    settings = AblationSettings()
    assert resolve(settings, base.layers) == (settings, ())
    np.testing.assert_array_equal(
        curve_score(base.selectivity, base.layers, settings), base.selectivity["index_excess"]
    )


def test_signed_runs_can_be_compared(runs: Path, signed: auditor.Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = auditor.compare(signed, auditor.Run.open("other", runs=runs))
    overall = found.to_frame()
    assert overall["mean_index"].isna().all()
    assert overall["index_change"].isna().all()
    assert overall["mean_dprime"].tolist() == pytest.approx(
        [run.selectivity["dprime"].mean() for run in (signed, auditor.Run.open("other", runs=runs))]
    )
    assert "d'" in found.plot().axes[0].get_xlabel()
    json.dumps(found.to_dict(), allow_nan=False)
    compare_command.show(found)
    text = capsys.readouterr().out
    assert "mean d'" in text
    assert text.count("d' ") >= 2


def test_other_networks_can_be_compared(runs: Path, mixed: auditor.Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = auditor.compare(auditor.Run.open("other", runs=runs), mixed)
    assert found.to_frame()["mean_index"].notna().tolist() == [False, True]
    assert found.to_frame()["index_change"].isna().all()
    assert len(found.plot().axes) == 4
    compare_command.show(found)
    assert "act" in capsys.readouterr().out


def test_tables_read_back_as_they_were_written(mixed: auditor.Run) -> None:
    written = pd.read_csv(mixed.path / "units.csv")
    assert list(written.columns).count("dprime_q") == 1
    assert list(mixed.layers.columns[:7]) == ["site", "kind", "n_units", "dead", "signed", "scored_by", "significant"]
