"""A run of another confidence than 95 %: its figures, reports and tables say so, and hold its intervals."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

import auditor
from auditor.api.audit import audit
from auditor.api.audit_result import REPORT, Audit
from auditor.api.audit_settings import AuditSettings
from auditor.api.geometry import geometry
from auditor.api.geometry_result import Geometry
from auditor.cli import ablate as ablate_command
from auditor.cli import selectivity as selectivity_command

QUICK = {"shuffles": 99, "bootstraps": 50}


def words(figure: Figure) -> str:
    text = " ".join(each.get_text() for each in figure.findobj(Text))
    for other in ("components for 95 % of the variance", "middle 95 % of them", "their middle 95 %"):
        text = text.replace(other, "")
    return text


def says(figure: Figure, level: str) -> bool:
    return set(re.findall(r"[\d.]+ %", words(figure))) == {level}


@pytest.fixture(scope="module")
def runs(shared_runs: Path, factories: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with runs of confidence 0.9 and 0.95; the network is in the cache."""
    folder = tmp_path_factory.mktemp("confidence")
    shutil.copytree(shared_runs / "base", folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditor.Run, "save_figures", lambda _: [])
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.getbasetemp() / "auditor-cache"))
        auditor.profile(factories, metrics=["index"], name="ninety", runs=folder, confidence=0.9, **QUICK)
    return folder


@pytest.fixture
def ninety(runs: Path) -> auditor.Run:
    return auditor.Run.open("ninety", runs=runs)


def test_figures_of_a_run_name_its_confidence(ninety: auditor.Run) -> None:
    figure = ninety.plot_tuning()
    assert says(figure, "90 %")
    mine = ninety.tuning(1)
    bars = figure.axes[0].containers[1].lines[2][0].get_segments()
    ends = np.array(bars)[:, :, 0]
    half = stats.norm.ppf(0.95) * mine["se"].to_numpy()
    np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) / 2, half)


def test_an_ablation_names_the_confidence_of_its_run(
    ninety: auditor.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auditor.Ablation, "save_figures", lambda _: [])
    found = ninety.ablate(6, random_orders=2, curve_points=2, check=0)
    assert says(found.plot(), "90 %")
    assert "middle 95 % of them" in " ".join(each.get_text() for each in found.plot_sets().findobj(Text))
    ablate_command.show(found)
    assert "[90%]" in capsys.readouterr().out
    x, y = (found.effects[name].to_numpy() for name in ("index_excess", "loss_change"))
    rho = stats.spearmanr(x, y).statistic
    half = stats.norm.ppf(0.95) * np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    low, high = (f"{np.tanh(np.arctanh(rho) + end):+.2f}".replace("-", "\N{MINUS SIGN}") for end in (-half, half))
    assert f"[{low}, {high}]" in words(found.plot())


def test_runs_of_unlike_confidence_are_each_named(ninety: auditor.Run, runs: Path) -> None:
    alike = auditor.compare(ninety, ninety).plot()
    assert says(alike, "90 %")
    unlike = words(auditor.compare(auditor.Run.open("base", runs=runs), ninety).plot())
    assert "95 % for base, 90 % for ninety" in unlike


def test_geometry_names_the_confidence_of_each_network(
    ninety: auditor.Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Geometry, "save_figures", lambda _: [])
    base = auditor.Run.open("base", runs=runs)
    found = geometry(ninety, parts=("probes",), layers="5", others=[base], probe_images=150)
    assert says(found.plot("probes-1"), "90 %")
    assert says(found.plot("probes-2"), "95 %")
    wide, narrow = (found.probes.set_index("run").loc[name] for name in ("base", "ninety"))
    assert wide["accuracy"] == narrow["accuracy"]
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_no_level_is_rounded(ninety: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor.Run, "confidence", 0.975)
    assert selectivity_command._header(ninety, "index") == "SI [97.5%]"


@pytest.mark.slow
def test_an_audit_names_its_own_confidence_and_that_of_its_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Audit, "save_figures", lambda _: [])
    settings = AuditSettings(
        alpha=0.1, draws=200, keep_draws=20, resamples=200, shares=(0.2,), keep_shares=(0.5,), limit=40, check=0
    )
    found = audit(auditor.Run.open("base", runs=runs), settings=settings, device="cpu")
    assert found.confidence == 0.9
    drawn = {each.key: each.draw() for each in found.drawings()}
    assert not [name for name, figure in drawn.items() if "95 %" in words(figure)]
    assert {name for name, figure in drawn.items() if "90 %" in words(figure)} == drawn.keys() - {"selectivity"}
    page = (found.run.path / REPORT).read_text(encoding="utf-8")
    assert "Brackets: 90 % interval" in page
    # Selectivity has the intervals of the profile.
    assert "class selectivity index, 95 % interval" in page
