"""One small trained network, profiled once, that the tests of the verbs share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import auditor

SUPPORT = Path(__file__).parents[1] / "support"
QUICK = {"shuffles": 199, "bootstraps": 100}


@pytest.fixture(scope="session")
def factories() -> str:
    """Make ``factories:small_cnn`` a model that can be named."""
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    return "factories:small_cnn"


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory, factories: str) -> Path:
    """Folder with the run ``base``; read only."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        auditor.profile(factories, metrics=["dprime"], name="base", runs=runs, **QUICK)
    return runs


@pytest.fixture
def base(shared_runs: Path) -> auditor.Run:
    """Open the shared run anew."""
    return auditor.Run.open("base", runs=shared_runs)
