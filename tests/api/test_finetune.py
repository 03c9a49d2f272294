"""The verbs ``finetune`` and ``compare``."""

from __future__ import annotations

import filecmp
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import auditor
from auditor.api.compare import Comparison
from auditor.api.sweep_board import Board
from auditor.api.sweep_grid import Cell
from auditor.api.training_data import check_classes
from auditor.api.tuned import FineTuned
from auditor.errors import DataError, ModelError, OptionError, RunError, UnknownNameError
from auditor.manifest import Manifest
from auditor.progress import NullReporter

QUICK: dict[str, Any] = {"shuffles": 99, "bootstraps": 50}


class Lines(NullReporter):
    """Keeps what is said."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def say(self, text: str) -> None:
        self.lines.append(text)


def profiled(model: nn.Module, data: Any, runs: Path) -> auditor.Run:
    preprocessing = auditor.Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    return auditor.profile(model, data=data, preprocessing=preprocessing, runs=runs, **QUICK)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which takes longer than the training."""
    monkeypatch.setattr("auditor.report.style.save", lambda *_arguments, **_options: ())
    monkeypatch.setattr(FineTuned, "plot_history", lambda _: None)
    monkeypatch.setattr(Comparison, "plot", lambda _: None)
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _: [])


@pytest.fixture(scope="module")
def runs(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    shutil.copytree(shared_runs / "base", folder / "base")
    return folder


@pytest.fixture(scope="module")
def tuned(runs: Path, factories: str) -> auditor.FineTuned:
    return auditor.finetune(auditor.Run.open("base", runs=runs), alpha=-1, epochs=2)


def test_the_tuned_network_is_a_run_of_its_own(tuned: auditor.FineTuned, runs: Path) -> None:
    assert tuned.path.parent == runs
    assert tuned.parent == runs / "base"
    assert len(tuned.history) == 2
    reopened = auditor.Run.open(runs=runs)
    assert reopened.path == tuned.path
    assert isinstance(reopened, auditor.FineTuned)
    # Rebuilt from the folder alone, the weights must be those that were profiled.
    from auditor.api.forward import Execution

    module = reopened.model(Execution()).module
    saved = load_file(tuned.path / "weights.safetensors")
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), saved[name].numpy())


def test_comparison_is_before_against_after(tuned: auditor.FineTuned) -> None:
    overall = tuned.comparison.overall.set_index("run")
    assert list(overall.index) == ["before", "alpha -1"]
    before, after = overall.loc["before"], overall.loc["alpha -1"]
    assert after["accuracy_change"] == pytest.approx(after["accuracy"] - before["accuracy"])
    assert after["index_change"] == pytest.approx(after["mean_index"] - before["mean_index"])
    assert after["accuracy_change_low"] < after["accuracy_change"] < after["accuracy_change_high"]
    assert after["index_change_low"] < after["index_change"] < after["index_change_high"]
    for name in ("overall.csv", "layers.csv", "comparison.json", "comparison.png"):
        assert (tuned.path / "comparison" / name).exists()
    json.dumps(tuned.to_dict(), allow_nan=False)


def test_fine_tuning_starts_from_the_original_again(tuned: auditor.FineTuned, runs: Path) -> None:
    assert auditor.Run.open(runs=runs).path == tuned.path
    assert auditor.Run.open(runs=runs, original=True).path == runs / "base"


def test_the_same_call_finds_the_finished_run(tuned: auditor.FineTuned, runs: Path) -> None:
    before = (tuned.path / "weights.safetensors").stat().st_mtime_ns
    again = auditor.Run.open("base", runs=runs).finetune(-1, epochs=2)
    assert again.path == tuned.path
    assert (tuned.path / "weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.usefixtures("plain")
def test_interrupted_training_resumes_to_the_same_weights(
    tuned: auditor.FineTuned, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.api import finetune as module

    shutil.copytree(runs / "base", tmp_path / "base")
    run = auditor.Run.open("base", runs=tmp_path)
    original, calls = module.evaluate_network, []

    def failing(*args: object, **options: Any) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(module, "evaluate_network", failing)
    with pytest.raises(KeyboardInterrupt):
        run.finetune(-1, epochs=2)
    # Where the images are kept in between does not matter.
    again = run.finetune(-1, epochs=2, cache_images="never")
    assert len(calls) == 3
    names = ("weights.safetensors", "units.csv", "training/history.csv", "training/layers.csv",
             "training/best.safetensors", "training/last.safetensors")  # fmt: skip
    for name in names:
        assert filecmp.cmp(again.path / name, tuned.path / name, shallow=False), name


def test_the_last_epoch_is_judged_as_the_profile_judges(tuned: auditor.FineTuned) -> None:
    """The history's evaluation selectivity and dead units are those that the profile finds, by other code."""
    last, profiled = tuned.history.iloc[-1], tuned.summary
    assert last["val_si"] == pytest.approx(profiled["network"]["mean_index"], abs=1e-6)
    assert last["dead"] == profiled["dead"]
    layers = tuned.layer_history[tuned.layer_history["epoch"] == 2].set_index("site")
    expected = tuned.layers.set_index("site")
    np.testing.assert_allclose(layers["val_si"], expected["mean_index"], atol=1e-6)
    np.testing.assert_array_equal(layers["dead"], expected["dead"])
    # One shuffle against the mean of many.
    np.testing.assert_allclose(layers["val_si_floor"], expected["index_null_mean"], atol=0.03)


def test_new_options_leave_the_identity_of_earlier_runs(tuned: auditor.FineTuned) -> None:
    assert set(tuned.manifest.identity["finetune"]) == {"parent", "sites", "plan", "limit"}
    assert "metric" not in tuned.plan


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("plain")
def test_streamed_images_train_the_same_network(runs: Path, tmp_path: Path, factories: str, workers: int) -> None:
    run = auditor.Run.open("base", runs=runs)
    options: dict[str, Any] = {"epochs": 2, "limit": 60, "augment": "shift", "batch_size": 20}
    kept = run.finetune(-1, runs=tmp_path / "kept", **options)
    read = run.finetune(-1, runs=tmp_path / "read", cache_images="never", workers=workers, **options)
    assert kept.path.name == read.path.name
    for name in ("weights.safetensors", "training/history.csv", "training/layers.csv"):
        assert filecmp.cmp(kept.path / name, read.path / name, shallow=False), name


@pytest.mark.usefixtures("plain")
def test_another_folder_leaves_the_latest_run_alone(runs: Path, tmp_path: Path, factories: str) -> None:
    run = auditor.Run.open("base", runs=runs)
    before = (runs / ".latest").read_text() if (runs / ".latest").exists() else None
    elsewhere = run.finetune(0, epochs=1, limit=40, runs=tmp_path, name="one")
    assert elsewhere.path == tmp_path / "one"
    assert elsewhere.parent == run.path
    assert ((runs / ".latest").read_text() if (runs / ".latest").exists() else None) == before


@pytest.mark.usefixtures("plain")
def test_from_scratch_every_seed_has_its_own_start(
    runs: Path, tmp_path: Path, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factories import small_cnn

    from auditor.api import finetune as module

    started = []
    train = module.train

    def spy(model: nn.Module, *args: Any, **options: Any) -> Any:
        started.append({name: value.clone() for name, value in model.state_dict().items()})
        return train(model, *args, **options)

    monkeypatch.setattr(module, "train", spy)
    run = auditor.Run.open("base", runs=runs)
    found = [run.finetune(0, epochs=1, limit=40, from_scratch=True, seed=seed, runs=tmp_path) for seed in (0, 1)]
    assert found[0].manifest.identity["finetune"]["from_scratch"] is True
    for seed, start in enumerate(started):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = small_cnn().state_dict()
        assert all(torch.equal(start[name], value) for name, value in expected.items())
    assert found[0].comparison.overall["run"].iloc[0] == "before"
    continued = run.finetune(0, epochs=1, limit=40, runs=tmp_path)
    assert continued.path not in {each.path for each in found}


@pytest.mark.usefixtures("plain")
def test_a_module_from_python_can_start_anew(tmp_path: Path, tiny_data: Any, tiny_resnet: nn.Module) -> None:
    run = profiled(tiny_resnet, tiny_data, tmp_path)
    before = {name: value.clone() for name, value in tiny_resnet.state_dict().items()}
    tuned = run.finetune(-1, epochs=2, batch_size=6, from_scratch=True, patience=1, keep="best")
    assert all(torch.equal(value, before[name]) for name, value in tiny_resnet.state_dict().items())
    assert len(tuned.history) <= 2
    assert tuned.manifest.identity["finetune"]["plan"]["keep"] == "best"


@pytest.mark.parametrize(
    "options, sites",
    [({"signed": "rectify"}, ["blocks.0.act", "blocks.1.act"]), ({"metric": "dprime", "regularize": "first:1"},
                                                                  ["blocks.0.act"])],
)  # fmt: skip
@pytest.mark.usefixtures("plain")
def test_a_transformer_with_signed_units(
    tmp_path: Path, tiny_data: Any, tiny_vit: nn.Module, options: dict[str, Any], sites: list[str]
) -> None:
    run = profiled(tiny_vit, tiny_data, tmp_path)
    with pytest.raises(ModelError, match="rectify"):
        run.finetune(-1)
    lines: list[str] = []
    tuned = run.finetune(5, epochs=3, batch_size=6, learning_rate=0.05, reporter=Lines(lines), **options)
    identity = tuned.manifest.identity["finetune"]
    assert identity["sites"] == sites
    assert options.items() <= identity["plan"].items()
    assert ("rectified" in " ".join(lines)) == ("signed" in options)
    control = run.finetune(0, epochs=3, batch_size=6, learning_rate=0.05, **options)
    assert tuned.history["val_si"].iloc[-1] > control.history["val_si"].iloc[-1]
    assert set(tuned.layer_history["site"]) == {"blocks.0.act", "blocks.1.act"}


class FunctionalNet(nn.Module):
    """Its nonlinearity is a function, at the end of a module."""

    class Part(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.relu(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.part = self.Part(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.part(x).mean((2, 3)))


@pytest.mark.usefixtures("plain")
def test_nonlinearities_that_are_functions_are_regularized(tmp_path: Path, tiny_data: Any) -> None:
    torch.manual_seed(0)
    run = profiled(FunctionalNet(), tiny_data, tmp_path)
    low, high = (run.finetune(alpha, epochs=4, batch_size=6) for alpha in (-5, 5))
    assert low.manifest.identity["finetune"]["sites"] == ["part"]
    assert low.history["val_si"].iloc[-1] < high.history["val_si"].iloc[-1]


@pytest.mark.usefixtures("plain")
def test_calls_of_one_relu_are_told_apart(tmp_path: Path, tiny_data: Any, tiny_resnet: nn.Module) -> None:
    run = profiled(tiny_resnet, tiny_data, tmp_path)
    tuned = run.finetune(-1, epochs=1, batch_size=6, regularize=("blocks.*@2",), class_means="running")
    assert tuned.manifest.identity["finetune"]["sites"] == ["blocks.0.relu@2", "blocks.1.relu@2"]
    regularized = tuned.layer_history["batch_si"].notna()
    assert list(tuned.layer_history.loc[regularized, "site"]) == ["blocks.0.relu@2", "blocks.1.relu@2"]


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"regularize": ("7*",)}, UnknownNameError, "7*"),
        ({"precision": "float16", "device": "cpu"}, OptionError, "needs a GPU"),
        ({"cache_images": "sometimes"}, UnknownNameError, "always"),
        ({"seed": -1}, OptionError, "seed"),
        ({"metric": "gini"}, UnknownNameError, "dprime"),
        ({"alpha_schedule": "from:99"}, OptionError, "from:99"),
    ],
)
def test_what_cannot_be_done_is_refused_before_work(
    runs: Path, factories: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = sorted(runs.iterdir())
    with pytest.raises(error, match=re.escape(words)):
        auditor.Run.open("base", runs=runs).finetune(-1, **options)
    assert sorted(runs.iterdir()) == before


@pytest.mark.usefixtures("plain")
def test_a_damaged_image_is_left_out_in_either_way(tmp_path: Path, tiny_folder: Path, factories: str) -> None:
    run = auditor.profile(factories, data=str(tiny_folder), weights="none", runs=tmp_path, **QUICK)
    row = int(run.data().splits["train"][0])
    (tiny_folder / run.data().ids[row]).write_bytes(b"broken")
    kept = run.finetune(-1, epochs=1, batch_size=6, runs=tmp_path / "kept")
    read = run.finetune(-1, epochs=1, batch_size=6, runs=tmp_path / "read", cache_images="never", workers=0)
    assert "broken" not in (kept.path / "training" / "skipped.csv").read_text()
    for name in ("weights.safetensors", "training/history.csv", "training/skipped.csv"):
        assert filecmp.cmp(kept.path / name, read.path / name, shallow=False), name


@pytest.mark.parametrize("other", ["base", "swept", "notes"])
def test_a_name_that_is_taken_is_refused_before_anything_is_written(runs: Path, tmp_path: Path, other: str) -> None:
    shutil.copytree(runs / "base", tmp_path / "base")
    run = auditor.Run.open("base", runs=tmp_path)
    if other == "swept":
        Board(tmp_path / other).join(Manifest("sweep", {}, {}), [Cell(0.0, 0)])
    elif other == "notes":
        (tmp_path / other).mkdir()
        (tmp_path / other / "text").touch()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / other).rglob("*")}
    with pytest.raises(RunError, match="left as it is"):
        run.finetune(-1, epochs=1, name=other)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / other).rglob("*")} == before


def test_missing_classes_are_said_and_one_class_is_refused(runs: Path, tmp_path: Path, factories: str) -> None:
    run, lines = auditor.Run.open("base", runs=runs), list[str]()
    with pytest.raises(DataError, match="one class only"):
        run.finetune(-1, limit=1, runs=tmp_path)
    data = run.data()
    labels = data.limited(9).labels[data.limited(9).splits["train"]]
    check_classes(labels, data.classes, Lines(lines))
    missing = sorted(set(range(10)) - set(labels.tolist()))
    assert lines[0].startswith(f"Training: {len(missing)} of 10 classes have no image in the train split: {missing[0]}")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("plain")
def test_signed_layers_cannot_be_regularized(factories: str, tmp_path: Path) -> None:
    run = auditor.profile("factories:signed", weights="none", runs=tmp_path, limit=60, **QUICK)
    with pytest.raises(ModelError, match="negative responses"):
        run.finetune(-1)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [run.name]


@pytest.mark.usefixtures("plain")
def test_comparing_needs_two_runs_on_the_same_images(base: auditor.Run, factories: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two runs"):
        auditor.compare(base)
    other = auditor.profile(factories, weights="none", limit=50, runs=tmp_path, **QUICK)
    with pytest.raises(RunError, match="different images"):
        auditor.compare(base, other)


@pytest.mark.usefixtures("plain")
def test_alpha_moves_the_selectivity_of_a_digits_network(factories: str, tmp_path: Path) -> None:
    """Over three seeds alpha -1 lowers and alpha +1 raises the mean SI of images that were not trained on."""
    run = auditor.profile("factories:normed_cnn", runs=tmp_path, limit=300, **QUICK)
    for seed in range(3):
        found = {
            alpha: run.finetune(
                alpha, epochs=3, learning_rate=0.02, batch_size=60, seed=seed, from_scratch=True
            ).summary["network"]["mean_index"]
            for alpha in (-1, 0, 1)
        }
        assert found[-1] < found[0] < found[1], (seed, found)
