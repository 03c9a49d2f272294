"""The tree is formatted, typed and layered as CONTRIBUTING.md says."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 350


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_ruff_check() -> None:
    run("-m", "ruff", "check", ".")


@pytest.mark.slow
def test_ruff_format() -> None:
    run("-m", "ruff", "format", "--check", ".")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mypy_strict() -> None:
    run("-m", "mypy")


@pytest.mark.slow
def test_imports_point_downward() -> None:
    run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")


def sources() -> list[Path]:
    return sorted((ROOT / "auditor").rglob("*.py"))


def test_no_module_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {canonical(requirement.split(">")[0]) for requirement in project["dependencies"]}
    provided_by = packages_distributions()
    imported = set().union(*map(imported_packages, sources())) - sys.stdlib_module_names - {"auditor"}
    undeclared = {name for name in imported if not declared.intersection(map(canonical, provided_by.get(name, [name])))}
    assert undeclared == set()


def test_constraints_name_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        canonical(requirement.split(">")[0])
        for requirement in [*project["dependencies"], *extras["test"], *extras["dev"]]
        if not requirement.startswith("auditor[")
    }
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    assert wanted <= pinned
