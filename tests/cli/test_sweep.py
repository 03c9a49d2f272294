"""``auditor sweep``: a thin shell over the verb."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from auditor.cli.main import main
from auditor.cli.sweep import command

SUPPORT = Path(__file__).parents[1] / "support"
SMALL = ("--seeds", "1", "--epochs", "1", "--limit", "60", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


def call(folder: Path, *arguments: str, fails: float | None = None) -> Result:
    """Run a command without figures, which take seconds; networks of alpha `fails` fail."""
    from auditor.api import sweep_work
    from auditor.api.compare import Comparison
    from auditor.api.run import Run
    from auditor.api.sweep import Sweep

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(SUPPORT)
        for home in (Run, Sweep):
            patch.setattr(home, "save_figures", lambda _: [])
        patch.setattr(Comparison, "save", lambda *_: None)
        patch.setattr("auditor.api.finetune._save_history_figure", lambda _: None)
        original = sweep_work.finetune

        def training(*args: Any, **options: Any) -> Any:
            if options["alpha"] == fails:
                raise MemoryError("too large")
            return original(*args, **options)

        patch.setattr(sweep_work, "finetune", training)
        return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def swept(folder: Path) -> Result:
    profiled = call(
        folder, "profile", "--model", "factories:small_cnn", "--weights", "none", "--limit", "60", "--shuffles", "199",
        "--bootstraps", "100", "--name", "it", "--quiet",
    )  # fmt: skip
    assert profiled.exit_code == 0, profiled.output
    return call(folder, "sweep", "--alphas", "-1,1", *SMALL, "--name", "s")


def test_it_ends_in_a_table_and_where_things_are(folder: Path, swept: Result) -> None:
    assert swept.exit_code == 0, swept.output
    rows = [line.split("│")[1].strip() for line in swept.stdout.splitlines() if line.count("│") > 5]
    assert rows == ["-1", "0", "1", "-1", "1"]
    assert "95% intervals over images" in swept.stdout
    assert "Mean SI " in swept.stdout
    assert "halved" in swept.stdout
    assert "Every alpha has one network only" in swept.stdout
    assert str(Path("runs") / "s") in swept.stdout
    assert "alpha 0 is added" in swept.stderr
    assert (folder / "runs" / "s" / "networks" / "alpha--1-seed0" / "manifest.json").exists()


@pytest.mark.parametrize("alphas", [("--alphas=-1,1",), ("--alphas", "-1,0,1")])
def test_both_ways_to_write_alphas_are_the_same_sweep(folder: Path, swept: Result, alphas: tuple[str, ...]) -> None:
    result = call(folder, "sweep", *alphas, *SMALL, "--name", "s", "--json")
    document = json.loads(result.stdout)
    assert [row["alpha"] for row in document["alphas"]] == [-1, 0, 1]
    assert len(document["networks"]) == 3
    assert "3 of them finished before" in result.stderr


def test_a_failure_is_named_and_is_the_exit_code(folder: Path, swept: Result) -> None:
    result = call(folder, "sweep", "--alphas", "2", *SMALL, "--name", "f", "--quiet", fails=2)
    assert result.exit_code == 1
    assert "Failed: alpha 2, seed 0: MemoryError: too large" in result.stdout
    assert "1 networks failed" in result.stderr
    assert (folder / "runs" / "f" / "alphas.csv").exists()


@pytest.mark.parametrize("text, wanted", [("3", 3), ("3,4", (3, 4)), ("7,", (7,))])
def test_seeds_are_a_count_or_a_list(text: str, wanted: object) -> None:
    seeds = next(option for option in command.params if option.name == "seeds")
    assert seeds.type.convert(text, None, None) == wanted


@pytest.mark.parametrize("option, value", [("--alphas", "1,x"), ("--seeds", "1.5"), ("--seeds", "a,b")])
def test_what_is_no_number_is_a_usage_error(folder: Path, option: str, value: str) -> None:
    result = call(folder, "sweep", "--alphas", "1", option, value)
    assert result.exit_code == 2
    assert repr(value) in result.stderr


def test_defaults_are_those_of_the_verb() -> None:
    from auditor.api.finetune import finetune
    from auditor.api.sweep import sweep

    verb = inspect.signature(sweep).parameters
    training = inspect.signature(finetune).parameters
    own = {"run_name", "runs", "as_json", "quiet", "alphas"}
    given = {
        option.name: option.default for option in command.params if option.name not in own and option.name != "help"
    }
    for name, default in given.items():
        wanted = (verb if name in verb else training)[name].default
        if name != "regularize":
            assert default == wanted or str(default) == "Sentinel.UNSET", name
