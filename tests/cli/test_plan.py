"""``auditor plan``: a thin shell over the verb."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from auditor.cli.main import main
from auditor.cli.plan import command

SUPPORT = Path(__file__).parents[1] / "support"
SMALL = ("--model", "factories:small_cnn", "--limit", "40", "--seconds", "0.1", "--device", "cpu",
         "--top-selective", "5", "--epochs", "1", "--check", "0")  # fmt: skip


def call(folder: Path, *arguments: str) -> Result:
    from auditor.api.plan_clock import Timed

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(SUPPORT)
        # Both take seconds.
        patch.setattr("auditor.api.plan.measure_start", lambda: Timed(1, 1, 1))
        patch.setattr("auditor.api.run.Run.save_figures", lambda _: [])
        return CliRunner().invoke(main, ["plan", *arguments])


def test_json_is_one_document(tmp_path: Path) -> None:
    done = call(tmp_path, *SMALL, "--job", "profile", "--devices", "4", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["devices"] == 4
    assert {row["job"] for row in document["parts"]} == {"profile"}
    assert document["about"]["units"] == 52
    assert list(tmp_path.iterdir()) == []


def test_tables_for_people(tmp_path: Path) -> None:
    done = call(tmp_path, *SMALL, "--quiet", "--job", "ablate", "--devices", "8")
    assert done.exit_code == 0, done.output
    for text in ("5 units alone", "sets together", "8 devices", "52 units in 3 sites", "Weights: random"):
        assert text in done.stdout
    assert "finetune" not in done.stdout


def test_a_run_brings_its_own_network(tmp_path: Path) -> None:
    done = call(tmp_path, "--run", "it", "--model", "resnet50")
    assert done.exit_code == 2
    assert "--model belongs to a new profile" in done.output


def test_errors_come_before_work(tmp_path: Path) -> None:
    done = call(tmp_path, *SMALL, "--devices", "0")
    assert done.exit_code == 1
    assert "devices must be at least 1" in done.output


def test_names_and_defaults_are_those_of_the_verb() -> None:
    from auditor.api.plan import plan

    verb = inspect.signature(plan).parameters
    given = command.make_context("plan", []).params
    options = {name: value for name, value in given.items() if name not in {"run_name", "runs", "as_json", "quiet"}}
    assert set(options) == set(verb) - {"run", "preprocessing", "reporter"}
    own = {"layers": (), "metrics": (), "jobs": ()}  # what is repeated is empty, and filled in by the command
    for name, value in options.items():
        assert value == own.get(name, verb[name].default), name
