"""Every unit of a network, by every engine, with estimates, attributions and the race beside."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import auditor
from auditor.ablation import unit_attributions
from auditor.api import measure_units
from auditor.api.forward import Execution

QUICK = {"random_orders": 2, "curve_points": 3}
EFFECTS = ["target_logit_drop", "loss_change", "kl", "accuracy_change", "balanced_accuracy_change"]


@pytest.fixture(scope="module")
def run(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> auditor.Run:
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(shared_runs / "base", folder / "base")
    return auditor.Run.open(runs=folder)


@pytest.fixture(scope="module")
def every(run: auditor.Run) -> auditor.Ablation:
    return run.ablate(6, all_units=True, keep_only=True, methods=("gradient_x_activation",), **QUICK)


def by_unit(ablation: auditor.Ablation) -> pd.DataFrame:
    return ablation.effects.set_index("unit_id").sort_index()


def test_all_units_are_measured_and_the_selected_come_first(run: auditor.Run, every: auditor.Ablation) -> None:
    effects = every.effects
    assert sorted(effects["unit_id"]) == sorted(run.selectivity["unit_id"])
    assert effects["rank"].head(6).tolist() == [1, 2, 3, 4, 5, 6]
    assert effects["rank"].iloc[6:].isna().all()
    alone = run.ablate(6, **QUICK)
    pd.testing.assert_frame_equal(
        by_unit(alone)[EFFECTS], by_unit(every).loc[sorted(alone.effects["unit_id"]), EFFECTS], atol=1e-6
    )


def test_effects_of_each_image_are_kept(run: auditor.Run, every: auditor.Ablation) -> None:
    names, effects = every.per_image()
    assert effects.shape == (len(run.selectivity), every.results["n_images"])
    means = pd.Series(effects.loss_change.mean(1), index=names)
    np.testing.assert_allclose(means.sort_index(), by_unit(every)["loss_change"], atol=1e-6)


@pytest.mark.parametrize("engine", ["captum", "hooks"])
@pytest.mark.parametrize("edit", ["zero", "mean", "resample", "resample-class", "noise=0.5", "clamp=1"])
def test_engines_agree(run: auditor.Run, engine: str, edit: str) -> None:
    found = [run.ablate(20, edit=edit, engine=name, q=1.0, limit=90, **QUICK) for name in ("exact", engine)]
    exact, other = (by_unit(each) for each in found)
    bound = 1e-4 * exact["target_logit_drop"].abs().max()
    assert (exact["target_logit_drop"] - other["target_logit_drop"]).abs().max() < bound
    assert (exact["loss_change"] - other["loss_change"]).abs().max() < 1e-4 * exact["loss_change"].abs().max()
    sets = [each.results["tests"]["loss_change"]["observed"] for each in found]
    assert sets[0] == pytest.approx(sets[1], rel=1e-4)


def test_the_check_against_captum_is_stored(every: auditor.Ablation) -> None:
    check = every.results["engine"]["checks"]["captum"]
    assert check["n_units"] == 4
    assert check["effect"] > 0
    assert check["difference"] < 1e-4 * check["effect"]
    assert "Against Captum on 4 random units" in every.summary()


def test_half_precision_is_compared_with_single(run: auditor.Run) -> None:
    half = run.ablate(6, dtype="bfloat16", check=6, **QUICK)
    check = half.results["engine"]["checks"]["float32"]
    assert 0 < check["difference"] < 0.3 * check["effect"]
    assert check["rank_correlation"] is not None
    assert "Against float32 on 6 random units" in half.summary()


def test_estimates_rank_units_and_say_how_well(every: auditor.Ablation) -> None:
    effects = every.effects
    found = every.results["agreement"]["estimated_loss_change ~ loss_change"]
    assert found["rho"] == pytest.approx(spearmanr(effects["estimated_loss_change"], effects["loss_change"]).statistic)
    assert found["low"] < found["rho"] < found["high"]
    assert found["n"] == len(effects)
    assert "Rank correlation of estimated_loss_change" in every.summary()


def test_screening_measures_the_largest_estimates_and_a_random_sample(
    run: auditor.Run, every: auditor.Ablation
) -> None:
    screened = run.ablate(2, screen=5, **QUICK)
    largest = by_unit(every)["estimated_loss_change"].abs().nlargest(5).index
    assert set(largest) <= set(screened.effects["unit_id"])
    assert screened.results["agreement"]["estimated_loss_change ~ loss_change"]["n"] == 50


def test_attributions_are_captums(run: auditor.Run, every: auditor.Ablation) -> None:
    model, data = run.model(Execution()), run.data()
    transform = model.preprocessing.build()
    rows = data.splits["score"]
    images = torch.stack([transform(data.read(i)) for i in rows])
    site = run.sites[1]
    wanted = unit_attributions(
        model.module, images, torch.from_numpy(data.labels[rows]), site, method="gradient_x_activation"
    ).mean(0)
    found = by_unit(every)["gradient_x_activation"]
    for unit in range(site.n_units):
        assert found[f"{site.name}:{unit}"] == pytest.approx(float(wanted[unit]), abs=1e-5)
    assert every.results["agreement"]["gradient_x_activation ~ target_logit_drop"]["n"] == len(found)


def test_the_race_finds_the_units_whose_silence_costs_most_probability(
    run: auditor.Run, every: auditor.Ablation
) -> None:
    raced = run.ablate(2, top_important=3, **QUICK)
    names, effects = every.per_image()
    joint_loss = raced.results["race"]
    model, data = run.model(Execution()), run.data()
    transform = model.preprocessing.build()
    rows = data.splits["score"]
    with torch.no_grad():
        logits = model.module(torch.stack([transform(data.read(i)) for i in rows])).double()
    p = logits.softmax(1).numpy()[np.arange(len(rows)), data.labels[rows]]
    drop = (p - p * np.exp(-effects.loss_change.astype(np.float64))).mean(1)
    assert set(joint_loss["units"]) == set(names[np.argsort(-drop)[:3]])
    assert joint_loss["evaluations"] <= joint_loss["possible"]
    assert set(joint_loss["units"]) <= set(raced.effects["unit_id"])


def test_curves_by_importance_and_keep_only_have_areas(every: auditor.Ablation) -> None:
    orders = set(zip(every.areas["order"], every.areas["kind"], strict=True))
    names = ["selective first", "least selective first", "most important first", "least important first", "random"]
    assert orders == {(name, kind) for name in names for kind in ("silence", "keep")}
    areas = every.areas[every.areas["kind"] == "silence"].set_index("order")["area"]
    assert areas["most important first"] < areas["least important first"]
    assert (every.path / "figures" / "curve.png").exists()


def test_the_memory_budget_changes_nothing_but_rounding(run: auditor.Run) -> None:
    wide, narrow = (by_unit(run.ablate(12, memory=memory, check=0, **QUICK)) for memory in (2.0, 0.002))
    np.testing.assert_allclose(wide["loss_change"], narrow["loss_change"], atol=1e-6)


def test_an_interrupted_measurement_of_all_units_goes_on_to_the_same_tables(
    run: auditor.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_units, "BLOCK", 8)
    found = []
    for stop in (None, 3):
        folder = tmp_path / str(stop)
        shutil.copytree(run.path, folder / "base", ignore=shutil.ignore_patterns("ablations"))
        copy, original, calls = auditor.Run.open("base", runs=folder), measure_units.measure_block, []

        def failing(*args: object, original=original, calls=calls, stop=stop, **options: object) -> object:
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return original(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(measure_units, "measure_block", failing)
            if stop:
                with pytest.raises(KeyboardInterrupt):
                    copy.ablate(6, all_units=True, **QUICK)
            found.append(copy.ablate(6, all_units=True, **QUICK))
        if stop:
            assert len(calls) == 1 + len(list((found[0].path / "per_image").glob("*.npz")))
    whole, resumed = found
    for name in ("units.csv", "curve.csv", "areas.csv", "sets.csv", "results.json"):
        assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes()


def test_effects_by_class_are_written(run: auditor.Run, every: auditor.Ablation) -> None:
    table = every.by_class
    assert len(table) == 6 * len(run.classes)
    assert table["class_name"].drop_duplicates().tolist() == list(run.classes)
    # The loss over all images is the mean of the classes, each with its share of the images.
    whole = table.groupby("unit_id").apply(lambda rows: np.average(rows["loss_change"], weights=rows["n_images"]))
    np.testing.assert_allclose(whole, by_unit(every).loc[whole.index, "loss_change"], atol=1e-6)
    own = by_unit(every).loc[whole.index]
    mine = table.merge(own["preferred"].rename("class_name").reset_index(), on=["unit_id", "class_name"])
    np.testing.assert_allclose(
        mine.sort_values("unit_id")["accuracy_change"], own["preferred_accuracy_change"], atol=1e-9
    )
