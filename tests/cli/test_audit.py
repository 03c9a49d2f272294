"""``auditor audit`` and ``auditor report``: thin shells over the verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from auditor.cli.main import main

SUPPORT = Path(__file__).parents[1] / "support"
DECLARATION = """
hypotheses = ["necessity", "correlation"]
shares = [0.2]
draws = 200
resamples = 200
q = 0.5
limit = 40
check = 0

[margins]
accuracy = 0.02
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "audit.toml").write_text(DECLARATION, encoding="utf-8")
    return folder


def call(folder: Path, *arguments: str) -> Result:
    """Run a command without the figures in files, which take seconds."""
    from auditor.api.audit_result import Audit
    from auditor.api.run import Run

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(SUPPORT)
        patch.setattr(Run, "save_figures", lambda _: [])
        patch.setattr(Audit, "save_figures", lambda _: [])
        return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def profiled(folder: Path) -> Result:
    return call(
        folder, "profile", "--model", "factories:small_cnn", "--weights", "none", "--limit", "100", "--shuffles", "199",
        "--bootstraps", "100", "--name", "it",
    )  # fmt: skip


AUDIT = ("audit", "--run", "it", "--declaration", "audit.toml", "--device", "cpu")


@pytest.fixture(scope="module")
def audited(folder: Path, profiled: Result) -> Result:
    assert profiled.exit_code == 0, profiled.output
    return call(folder, *AUDIT)


def test_it_ends_in_a_table_and_the_answer(folder: Path, audited: Result) -> None:
    assert audited.exit_code == 0, audited.output
    assert "Verdicts on it" in audited.stdout
    assert "Necessity of the set" in audited.stdout
    assert "(necessity " in audited.stdout
    assert f"Report: {Path('runs') / 'it' / 'report.html'}" in audited.stdout
    assert "Declared on" in audited.stderr
    assert audited.stderr.index("Declared on") < audited.stderr.index("Audit of it")
    assert (folder / "runs" / "it" / "report.html").exists()


def test_json_is_one_document_on_stdout(folder: Path, audited: Result) -> None:
    result = call(folder, *AUDIT, "--json")
    document = json.loads(result.stdout)
    assert [verdict["key"] for verdict in document["verdicts"]] == ["necessity", "correlation"]
    assert document["manifest"]["identity"]["declaration"]["margins"]["accuracy"] == 0.02
    assert len(document["units"]) == 52
    assert "finished before" in result.stderr
    assert call(folder, *AUDIT, "--quiet").stderr == ""


def test_options_change_what_the_file_declares(folder: Path, audited: Result) -> None:
    result = call(folder, *AUDIT, "--shares", "0.1,0.3", "--seed", "4", "--score-limit", "30", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    declared = json.loads(result.stdout)["manifest"]["identity"]["declaration"]
    assert (declared["shares"], declared["seed"], declared["limit"], declared["q"]) == ([0.1, 0.3], 4, 30, 0.5)
    names = sorted(path.name for path in (folder / "runs" / "it" / "audits").iterdir())
    assert len(names) == 2


def test_report_is_built_again_in_the_same_bytes(folder: Path, audited: Result) -> None:
    page = folder / "runs" / "it" / "report.html"
    first = call(folder, *AUDIT)
    name = Path(first.stdout.rstrip().rsplit(maxsplit=1)[-1]).name
    made = call(folder, "report", "--audit", name, "--device", "cpu")
    assert made.exit_code == 0, made.output
    before = page.read_bytes()
    page.unlink()
    again = call(folder, "report", "--run", "it", "--audit", name, "--json", "--device", "cpu")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["report"].endswith("report.html")
    assert page.read_bytes() == before
    assert b"Verdicts" in before or b"verdict" in before


def test_report_finds_the_run_that_was_audited(folder: Path, audited: Result) -> None:
    other = call(
        folder, "profile", "--model", "factories:small_cnn", "--weights", "none", "--limit", "40", "--shuffles", "199",
        "--bootstraps", "100", "--name", "later",
    )  # fmt: skip
    assert other.exit_code == 0, other.output
    found = call(folder, "report", "--device", "cpu")
    assert found.exit_code == 0, found.output
    assert str(Path("runs") / "it") in found.stdout
    missing = call(folder, "report", "--run", "later")
    assert missing.exit_code == 1
    assert "has no finished audit" in missing.stderr


@pytest.mark.parametrize(
    "options, name",
    [
        (["--model", "resnet18"], "--model"),
        (["--metric", "dprime"], "--metric"),
        (["--layers", "blocks"], "--layers"),
        (["--limit", "10"], "--limit"),
        (["--input-size", "16"], "--input-size"),
        (["--restrict-outputs"], "--restrict-outputs"),
        (["--max-bad", "3"], "--max-bad"),
    ],
)
def test_options_of_a_new_profile_have_no_place_beside_a_run(folder: Path, options: list[str], name: str) -> None:
    result = call(folder, "audit", "--run", "it", *options)
    assert result.exit_code == 2
    assert f"{name} belongs to a new profile" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "options, message",
    [
        (["--run", "it", "--declaration", "missing.toml"], "cannot be read"),
        (["--run", "it", "--declaration", "wrong.toml"], "closest: draws"),
        (["--run", "it", "--draws", "10"], "at least 200"),
        (["--run", "it", "--match", "norm"], "covariate"),
        (["--run", "it", "--edit", "zeros"], "closest: zero"),
        (["--run", "nowhere"], "There is no run named 'nowhere'"),
        (["--run", "it", "--intervene", "--alphas", "0"], "another alpha than 0"),
    ],
)
def test_errors_are_one_message_and_exit_code_1(
    folder: Path, profiled: Result, options: list[str], message: str
) -> None:
    (folder / "wrong.toml").write_text("drwas = 300", encoding="utf-8")
    result = call(folder, "audit", *options)
    assert result.exit_code == 1, result.output
    assert "Error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from auditor.cli.main import main\n"
        "for name in ('audit', 'report'):\n"
        "    found = CliRunner().invoke(main, [name, '--help'])\n"
        "    assert found.exit_code == 0, found.output\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'scipy', 'jinja2', 'timm'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert done.stdout.strip() == "[]"
