"""``auditor finetune``: the options reach the verb under the same names and defaults."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import auditor
from auditor.cli.finetune import command
from auditor.cli.main import main

SUPPORT = Path(__file__).parents[1] / "support"
MODEL = ("--model", "factories:small_cnn", "--weights", "none", "--limit", "40")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setattr("auditor.report.style.save", lambda *_arguments, **_options: ())
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["finetune", *arguments], catch_exceptions=False)


def test_names_and_defaults_are_those_of_the_verb() -> None:
    parameters = inspect.signature(auditor.finetune).parameters
    given = command.make_context("finetune", ["--alpha", "0"]).params
    own = {"run", "runs", "reporter", "alpha"}
    assert {name: given[name] for name in set(parameters) - own} == {
        name: parameters[name].default for name in set(parameters) - own
    }


def test_the_help_is_grouped() -> None:
    shown = call("--help").output
    headings = ("Experiment:", "Start:", "Training:", "Regularizer:", "Training images:", "Machine:")
    places = [shown.index(heading) for heading in headings]
    assert places == sorted(places)
    assert shown.count("--from-scratch") == 1


def test_a_run_and_a_new_profile_exclude_each_other(folder: Path) -> None:
    result = call("--alpha", "-1", "--run", "x", "--model", "resnet18")
    assert result.exit_code == 2
    assert "--model begins with a new profile" in result.output


def test_a_network_is_profiled_first_and_only_once(folder: Path) -> None:
    first = call("--alpha", "-1", "--epochs", "1", *MODEL)
    assert first.exit_code == 0, first.output
    profiles = [run for run in sorted((folder / "runs").iterdir()) if "alpha" not in run.name and run.is_dir()]
    assert len(profiles) == 1
    written = (profiles[0] / "units.csv").stat().st_mtime_ns
    options = ("--regularize", "1,3", "--schedule", "step", "--alpha-schedule", "until:2", "--keep", "best",
               "--augment", "flip-shift", "--class-means", "running:0.5", "--clip-norm", "1", "--json")  # fmt: skip
    second = call("--alpha", "-1", "--epochs", "2", "--seed", "7", *MODEL, *options)
    assert second.exit_code == 0, second.output
    document: dict[str, Any] = json.loads(second.stdout)
    assert (profiles[0] / "units.csv").stat().st_mtime_ns == written
    tuned = document["manifest"]["identity"]["finetune"]
    assert tuned["sites"] == ["1", "3"]
    assert tuned["plan"]["class_means"] == "running:0.5"
    assert tuned["plan"]["seed"] == 7
    assert [row["alpha"] for row in document["history"]] == [-1.0, 0.0]
    assert {row["site"] for row in document["layer_history"]} == {"1", "3", "5"}
    # Equal to what the two commands do one after the other.
    profiled = CliRunner().invoke(main, ["profile", *MODEL, "--json", "--quiet"], catch_exceptions=False)
    assert json.loads(profiled.stdout)["run"] == str(Path("runs") / profiles[0].name)


def test_a_misspelt_layer_names_the_closest(folder: Path) -> None:
    call("--alpha", "0", "--epochs", "1", *MODEL)
    result = CliRunner().invoke(main, ["finetune", "--alpha", "-1", "--regularize", "33"])
    assert result.exit_code == 1
    assert "no profiled layer named '33'" in result.output
    assert "closest: 3" in result.output
