"""The verb ``ablate``: units chosen on one split, scored on another, against matched sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import auditor
from auditor.api import joint
from auditor.api.forward import Execution
from auditor.errors import ModelError, OptionError, UnknownNameError
from auditor.store.blocks import BlockCache

QUICK = {"random_orders": 2, "curve_points": 4}


@pytest.fixture(scope="module")
def runs(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablate")
    shutil.copytree(shared_runs / "base", folder / "base")
    return folder


@pytest.fixture(scope="module")
def ablation(runs: Path, factories: str) -> auditor.Ablation:
    return auditor.ablate(auditor.Run.open(runs=runs), top_selective=6, **QUICK)


def test_the_units_are_the_significant_ones_of_highest_excess(ablation: auditor.Ablation) -> None:
    units = ablation.run.selectivity
    eligible = units[units["index_q"] <= 0.05].sort_values("index_excess", ascending=False)
    assert ablation.effects["unit_id"].tolist() == eligible["unit_id"].head(6).tolist()
    assert ablation.results["chosen_on"] == "select"
    assert ablation.results["scored_on"] == "score"


def test_single_units_equal_ablation_by_hand(ablation: auditor.Ablation) -> None:
    run = ablation.run
    model, data = run.model(Execution()), run.data()
    transform = model.preprocessing.build()
    images = torch.stack([transform(data.read(i)) for i in data.splits["score"]])
    labels = data.labels[data.splits["score"]]
    rows = np.arange(len(labels))
    with torch.no_grad():
        intact = model.module(images).numpy()
    for row in ablation.effects.to_dict("records"):
        layer = dict(model.module.named_modules())[row["site"]]

        def zero(_m: object, _a: object, out: torch.Tensor, unit: int = row["unit"]) -> torch.Tensor:
            out = out.clone()
            out[:, unit] = 0
            return out

        handle = layer.register_forward_hook(zero)
        with torch.no_grad():
            ablated = model.module(images).numpy()
        handle.remove()
        drop = (intact[rows, labels] - ablated[rows, labels]).mean()
        assert row["target_logit_drop"] == pytest.approx(drop, abs=1e-5)
        change = (ablated.argmax(1) == labels).mean() - (intact.argmax(1) == labels).mean()
        assert row["accuracy_change"] == pytest.approx(change, abs=1e-9)


def test_random_sets_match_by_layer_and_are_fixed(ablation: auditor.Ablation) -> None:
    sets = ablation.sets
    assert len(sets) == 100
    sites = sorted(unit.rsplit(":", 1)[0] for unit in ablation.effects["unit_id"])
    for text in sets["units"]:
        assert sorted(unit.rsplit(":", 1)[0] for unit in text.split()) == sites
        assert len(set(text.split())) == 6
    test = ablation.results["tests"]["loss_change"]
    assert test["p_greater"] == pytest.approx((np.sum(sets["loss_change"] >= test["observed"]) + 1) / 101)
    assert test["low"] < test["effect"] < test["high"]


def test_the_curve_begins_intact_and_ends_at_a_constant_answer(ablation: auditor.Ablation) -> None:
    curve = ablation.curve
    assert set(curve["order"]) == {"selective first", "least selective first", "random"}
    intact = ablation.results["intact"]["accuracy"]
    total = len(ablation.run.selectivity)
    assert curve.loc[curve["n_silenced"] == 0, "accuracy"].tolist() == [intact] * 3
    last = curve[curve["n_silenced"] == total]
    assert last["accuracy"].nunique() == 1
    assert last["accuracy"].iloc[0] < 0.2


def test_files_and_words(ablation: auditor.Ablation) -> None:
    for name in ("units.csv", "curve.csv", "sets.csv", "results.json", "manifest.json"):
        assert (ablation.path / name).exists()
    for figure in ("importance", "sets", "curve"):
        assert (ablation.path / "figures" / f"{figure}.png").stat().st_size > 5000
    text = ablation.summary()
    assert "Chosen on the select split, scored on the score split" in text
    assert "100 matched random sets" in text
    json.dumps(ablation.to_dict(), allow_nan=False)
    assert not list((ablation.path / "blocks").glob("*.npz"))


def test_an_interrupted_ablation_goes_on_to_the_same_tables(
    runs: Path, ablation: auditor.Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "base", tmp_path / "base", ignore=shutil.ignore_patterns("ablations"))
    run = auditor.Run.open("base", runs=tmp_path)
    original, calls = joint.set_logits, []

    def failing(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(joint, "set_logits", failing)
    with pytest.raises(KeyboardInterrupt):
        run.ablate(6, **QUICK)
    again = run.ablate(6, **QUICK)
    n_batches = -(-ablation.results["n_images"] // 64)
    assert len(calls) == 1 + n_batches
    for name in ("units.csv", "curve.csv", "sets.csv", "results.json"):
        assert (again.path / name).read_bytes() == (ablation.path / name).read_bytes()


def test_a_finished_ablation_is_shown_not_repeated(runs: Path, ablation: auditor.Ablation) -> None:
    before = (ablation.path / "units.csv").stat().st_mtime_ns
    blocks = BlockCache(ablation.path / "blocks")
    blocks.put("left", {"by": np.zeros(1)})  # as where it was killed while it cleared away
    again = auditor.Run.open("base", runs=runs).ablate(6, **QUICK)
    assert again.path == ablation.path
    assert blocks.keys() == []
    assert (again.path / "units.csv").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again.effects, ablation.effects)


def test_ranking_by_another_metric(runs: Path) -> None:
    run = auditor.Run.open("base", runs=runs)
    found = run.ablate(3, by="dprime", **QUICK)
    top = run.selectivity[run.selectivity["dprime_q"] <= 0.05].sort_values("dprime", ascending=False)
    assert found.effects["unit_id"].tolist() == top["unit_id"].head(3).tolist()


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"top_selective": 0}, OptionError, "at least 1"),
        ({"top_selective": 10_000}, OptionError, "has 52 units"),
        ({"top_selective": 3, "by": "exces"}, UnknownNameError, "excess"),
        ({"top_selective": 3, "by": "gini"}, UnknownNameError, "ranking"),
        ({"top_selective": 3, "random_sets": 20}, OptionError, "at least 100"),
        ({"top_selective": 3, "curve_over": "units"}, UnknownNameError, "layers"),
        ({"top_selective": 3, "edit": "zeros"}, UnknownNameError, "closest: zero"),
        ({"top_selective": 3, "edit": "noise=loud"}, OptionError, "noise=NUMBER"),
        ({"top_selective": 3, "edit": "zero=1"}, OptionError, "takes no value"),
        ({"top_selective": 3, "engine": "exakt"}, UnknownNameError, "closest: exact"),
        ({"top_selective": 3, "engine": "captum", "dtype": "bfloat16"}, OptionError, "float32"),
        ({"top_selective": 3, "dtype": "bfloat61"}, UnknownNameError, "closest: bfloat16"),
        ({"top_selective": 3, "methods": ("deep_lift",)}, UnknownNameError, "closest: deeplift"),
        ({"top_selective": 3, "screen": 0}, OptionError, "at least 1"),
        ({"top_selective": 3, "top_important": 99}, OptionError, "has 52 units"),
        ({"top_selective": 3, "memory": 0.0}, OptionError, "positive"),
        ({"top_selective": 3, "delta": 1.0}, OptionError, "delta"),
    ],
)
def test_bad_input_is_refused_before_work(
    base: auditor.Run, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        auditor.ablate(base, **options)
    assert message in str(caught.value)
    assert not (base.path / "ablations").exists()


def test_a_module_in_training_mode_is_measured_in_evaluation_mode(
    tiny_resnet: torch.nn.Module, tiny_folder: Path, tmp_path: Path
) -> None:
    small = auditor.Preprocessing(input_size=(3, 16, 16), resize=(16,))
    found = []
    for mode in (True, False):
        run = auditor.profile(
            tiny_resnet.train(mode), data=str(tiny_folder), preprocessing=small, runs=tmp_path / f"runs-{mode}",
            shuffles=199, bootstraps=100,
        )  # fmt: skip
        found.append(run.ablate(1, q=1.0, **QUICK).effects)
        assert all(part.training is mode for part in tiny_resnet.modules())
    pd.testing.assert_frame_equal(*found)


def test_outputs_that_are_not_the_classes_are_refused(
    tiny_cnn: torch.nn.Module, tiny_folder: Path, tmp_path: Path
) -> None:
    wide = torch.nn.Sequential(*tiny_cnn[:-1], torch.nn.Linear(10, 7))
    small = auditor.Preprocessing(input_size=(3, 16, 16), resize=(16,))
    run = auditor.profile(
        wide, data=str(tiny_folder), preprocessing=small, runs=tmp_path / "runs", shuffles=199, bootstraps=100
    )
    assert run.summary["accuracy"] is None
    with pytest.raises(ModelError, match="cannot be scored"):
        run.ablate(1)
