"""The verbs ``finetune`` and ``compare``."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import auditor
from auditor.errors import ModelError, OptionError, RunError

SUPPORT = Path(__file__).parents[1] / "support"


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


def test_interrupted_training_resumes_to_the_same_weights(
    tuned: auditor.FineTuned, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.api import finetune as module

    shutil.copytree(runs / "base", tmp_path / "base")
    run = auditor.Run.open("base", runs=tmp_path)
    original, calls = module.accuracy, []

    def failing(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(module, "accuracy", failing)
    with pytest.raises(KeyboardInterrupt):
        run.finetune(-1, epochs=2)
    again = run.finetune(-1, epochs=2)
    assert len(calls) == 3
    for name in ("weights.safetensors", "units.csv"):
        assert filecmp.cmp(again.path / name, tuned.path / name, shallow=False), name


def test_signed_layers_cannot_be_regularized(factories: str, tmp_path: Path) -> None:
    run = auditor.profile("factories:signed", weights="none", runs=tmp_path, shuffles=99, bootstraps=50, limit=60)
    with pytest.raises(ModelError, match="negative responses"):
        run.finetune(-1)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [run.name]


def test_comparing_needs_two_runs_on_the_same_images(base: auditor.Run, factories: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two runs"):
        auditor.compare(base)
    other = auditor.profile(factories, weights="none", limit=50, runs=tmp_path, shuffles=99, bootstraps=50)
    with pytest.raises(RunError, match="different images"):
        auditor.compare(base, other)


@pytest.mark.slow
def test_alpha_moves_the_selectivity_of_a_digits_network(
    factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over three seeds alpha -1 lowers and alpha +1 raises the mean SI of images that were not trained on."""
    monkeypatch.setattr("auditor.report.style.save", lambda *_arguments: [])  # slow, and not looked at
    for seed in range(3):
        run = auditor.profile("factories:normed_cnn", seed=seed, runs=tmp_path, shuffles=99, bootstraps=100)
        found = {
            alpha: run.finetune(alpha, epochs=4, learning_rate=0.01, seed=seed).summary["network"]["mean_index"]
            for alpha in (-1, 0, 1)
        }
        assert found[-1] < found[0] < found[1], (seed, found)
