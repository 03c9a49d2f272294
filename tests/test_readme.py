"""What README.md and CONTRIBUTING.md say works: the commands as written, the options, the links."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")


def text_of(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def command(marker: str) -> str:
    """Return the fenced block after ``<!-- command: marker -->`` in the README."""
    match = re.search(rf"^<!-- command: {marker} -->\n```bash\n(.*?)^```$", text_of("README.md"), re.M | re.S)
    assert match, f"README.md has no {marker} command"
    return match[1].strip()


def auditor_calls(document: str) -> list[list[str]]:
    """Return every ``auditor X ...`` in a code span or block, split into words, without a path before it."""
    text = text_of(document)
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```$", text, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    found = []
    for line in [line for block in blocks for line in block.splitlines()] + spans:
        for part in re.split(r"&&|\|\||;|\|", line):
            match = re.match(r"\s*(?:\$ )?(?:\S*/)?auditor\s+([a-z-].*)", part)
            if match:
                found.append(shlex.split(match[1], comments=True))
    return found


@pytest.mark.parametrize("marker", ["main", "test"])
def test_each_command_is_one_line(marker: str) -> None:
    assert len(command(marker).splitlines()) == 1


def test_the_main_command_runs_the_three_verbs() -> None:
    verbs = [call[0] for call in auditor_calls("README.md")]
    assert [verb for verb in verbs if verb in {"profile", "ablate", "finetune"}][:3] == [
        "profile",
        "ablate",
        "finetune",
    ]


def test_ci_takes_the_test_command_from_the_readme() -> None:
    assert "README.md" in text_of(".ci/run")
    assert "pip install" not in text_of(".ci/run")


def test_ci_runs_the_command_between_the_marks(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    readme = "```bash\nexit 9\n```\n<!-- command: test -->\n```bash\necho seen && exit 3\n```\n\n```bash\nexit 4\n```\n"
    (tmp_path / "README.md").write_text(readme, "utf-8")
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == "seen"
    (tmp_path / "README.md").write_text("nothing", "utf-8")
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no test command" in done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_exists(document: str) -> None:
    import click

    from auditor.cli.main import main

    context = click.Context(main, info_name="auditor")
    common = {"--help", *(option for parameter in main.params for option in parameter.opts)}
    for words in auditor_calls(document):
        if words[0].startswith("-"):
            assert words[0].split("=")[0] in common, words
            continue
        subcommand = main.get_command(context, words[0])
        assert subcommand is not None, f"{document} mentions `auditor {words[0]}`, which does not exist"
        known = {o for parameter in subcommand.params for o in (*parameter.opts, *parameter.secondary_opts)} | common
        options = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
        assert options <= known, f"{document}: `auditor {' '.join(words)}`"


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "plugins/auditor-gini/README.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text_of(document))
    targets += re.findall(r"<img[^>]+src=\"(?!https?:)([^\"]+)\"", text_of(document))
    base = (ROOT / document).parent
    assert [target for target in targets if not (base / target).exists()] == []


def unmet_constraints() -> list[str]:
    """Return the run-time constraints that the running environment does not meet; pip would download those."""
    unmet = []
    for name in ("torch", "torchvision", "timm", "captum", "h5py", "pandas", "scipy", "scikit-learn", "matplotlib"):
        wanted = re.search(rf"^{name}==(\S+)$", text_of("constraints.txt"), re.M)
        try:
            if wanted is None or version(name).split("+")[0] != wanted[1]:
                unmet.append(name)
        except PackageNotFoundError:
            unmet.append(name)
    return unmet


def copy_tracked_files(target: Path) -> None:
    """Copy what a fresh clone would hold, with uncommitted changes and new files."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_the_main_command_works_as_written(tmp_path: Path) -> None:
    """Run it in a copy of the tree whose `.venv` already sees this environment's packages, so that pip is quick."""
    if unmet := unmet_constraints():
        pytest.skip(f"this environment differs from constraints.txt: {', '.join(unmet)}")
    clone = tmp_path / "clone"
    copy_tracked_files(clone)

    # The interpreter behind this environment, as `python3`: it has pip of its own, and no packages to confuse things.
    tools = tmp_path / "bin"
    tools.mkdir()
    python = tools / "python3"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys._base_executable)} "$@"\n', "utf-8")
    python.chmod(0o755)
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("the base interpreter has no pip")

    subprocess.run([python, "-m", "venv", "--without-pip", ".venv"], cwd=clone, check=True)
    site = subprocess.run(
        [clone / ".venv/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    seen = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(site) / "outer.pth").write_text("\n".join(seen) + "\n", "utf-8")

    home = tmp_path / "home"
    home.mkdir()
    dropped = ("AUDITOR_", "PYTHONPATH", "PYTEST_", "HF_", "TORCH_HOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        # pip keeps its user settings, everything else starts empty.
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "HOME": str(home),
    }
    done = subprocess.run(
        ["bash", "-c", command("main")],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert (Path(site) / "auditor" / "__init__.py").is_file(), "pip did not install this tree"
    manifests = sorted((clone / "runs").glob("*/manifest.json"))
    assert manifests, done.stdout[-8000:]
    assert list((clone / "runs").glob("*/activations.h5")), done.stdout[-8000:]
