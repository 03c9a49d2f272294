"""The command line: a thin shell over the verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from auditor.cli.main import COMMANDS, main

SUPPORT = Path(__file__).parents[1] / "support"
QUICK = ["--shuffles", "199", "--bootstraps", "100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


def call(folder: Path, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(SUPPORT)
        return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def profiled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        return call(folder, "profile", "--model", "factories:small_cnn", *QUICK)


def test_the_three_commands_in_order(folder: Path, profiled: Result) -> None:
    assert profiled.exit_code == 0, profiled.output
    assert "Class selectivity by layer" in profiled.stdout
    assert "Network mean SI" in profiled.stdout
    assert "Accuracy on the score split" in profiled.stdout
    ablated = call(folder, "ablate", "--top-selective", "5", "--random-orders", "2", "--curve-points", "3")
    assert ablated.exit_code == 0, ablated.output
    assert "Chosen on the select split, scored on the score split" in ablated.stdout
    tuned = call(folder, "finetune", "--alpha", "-1", "--epochs", "1")
    assert tuned.exit_code == 0, tuned.output
    assert "alpha -1" in tuned.stdout
    runs = call(folder, "runs", "--json")
    names = [row["name"] for row in json.loads(runs.stdout)]
    assert len(names) == 2
    compared = call(folder, "compare", *reversed(names), "--out", "side")
    assert compared.exit_code == 0, compared.output
    assert (folder / "side" / "comparison.png").exists()


def test_json_is_one_document_on_stdout(folder: Path, profiled: Result) -> None:
    result = call(folder, "profile", "--model", "factories:small_cnn", "--json", *QUICK)
    document = json.loads(result.stdout)
    assert len(document["units"]) == 52
    assert document["summary"]["accuracy"]["split"] == "score"
    assert "finished before" in result.stderr


def test_quiet_says_nothing_but_results(folder: Path, profiled: Result) -> None:
    result = call(folder, "profile", "--model", "factories:small_cnn", "--quiet", *QUICK)
    assert result.stderr == ""
    assert "Network mean SI" in result.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["profile", "--model", "resnet81"], "closest: "),
        (["profile", "--model", "factories:small_cnn", "--layers", "layer9"], "layer9"),
        (["profile", "--data", "no/such/folder"], "no/such/folder"),
        (["profile", "--model", "factories:small_cnn", "--metric", "ginny"], "selectivity metric"),
        (["ablate", "--run", "nowhere"], "There is no run named 'nowhere'"),
        (["ablate", "--runs", "elsewhere"], "There is no finished run in elsewhere"),
        (["ablate", "--top-selective", "0"], "at least 1"),
        (["ablate", "--top-selective", "99999"], "has 52 units"),
        (["finetune", "--alpha", "nan"], "finite"),
        (["finetune", "--alpha", "-1", "--runs", "elsewhere"], "no finished run"),
    ],
)
def test_errors_are_one_message_and_exit_code_1(
    folder: Path, profiled: Result, arguments: list[str], message: str
) -> None:
    result = call(folder, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ") or "\nError: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["profil"], ["ablate", "--nonsense"], ["finetune"]])
def test_wrong_usage_is_exit_code_2(folder: Path, arguments: list[str]) -> None:
    assert call(folder, *arguments).exit_code == 2


def test_a_misspelt_command_is_answered_with_the_closest(folder: Path) -> None:
    assert "Did you mean 'profile'?" in call(folder, "profil").stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(folder: Path, command: str) -> None:
    result = call(folder, command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize("command", ["profile", "ablate", "finetune"])
def test_shared_options_are_the_same_everywhere(folder: Path, command: str) -> None:
    text = call(folder, command, "--help").stdout
    for option in ("--json", "--quiet", "--device", "--batch-size", "--workers", "--seed", "--limit", "--runs"):
        assert option in text


def test_layers_lists_reused_calls(folder: Path) -> None:
    result = call(folder, "layers", "--model", "torchvision:resnet18", "--json")
    assert result.exit_code == 0, result.output
    names = [site["name"] for site in json.loads(result.stdout)]
    assert len(names) == 17
    assert {"layer1.0.relu@1", "layer1.0.relu@2"} <= set(names)


def test_layers_are_those_of_the_input_size(folder: Path) -> None:
    listing = call(folder, "layers", "--model", "timm:test_vit", "--input-size", "64", "--json")
    assert listing.exit_code == 0, listing.output
    shapes = {tuple(site["shape"]) for site in json.loads(listing.stdout)}
    assert shapes == {(1 + (64 // 16) ** 2, 192)}
    assert call(folder, "layers", "--model", "timm:test_vit", "--input-size", "0").exit_code == 1


def test_models_and_plugins_are_listed(folder: Path) -> None:
    models = call(folder, "models", "resnet18")
    assert "timm:resnet18" in models.stdout.split()
    assert "torchvision:resnet18" in models.stdout.split()
    plugins = json.loads(call(folder, "plugins", "--json").stdout)
    assert {"index", "ccmas", "dprime"} <= set(plugins["metrics"])
    assert {"digits", "folder"} <= set(plugins["data_sources"])


def test_interruption_is_told_without_a_traceback(
    folder: Path, profiled: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor.api import ablate

    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "_measure", interrupted)
    result = call(folder, "ablate", "--top-selective", "4")
    assert result.exit_code == 1
    assert "repeat the command to go on" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; sys.argv = ['auditor', '--help']\nfrom auditor.cli.main import main\n" + (
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'timm', 'h5py', 'matplotlib', 'rich', 'scipy'} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "profile" in result.stdout


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_unreachable_weights_are_a_quick_clear_error(name: str, tmp_path: Path, tiny_folder: Path) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
        "TORCH_HOME": str(tmp_path),
        # Nothing listens here: the same as no network, on any machine.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    result = subprocess.run(
        [sys.executable, "-m", "auditor", "profile", "--model", name, "--data", str(tiny_folder)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "--checkpoint FILE" in result.stderr
    assert "--weights none" in result.stderr
