"""The verb ``audit`` on networks built by hand, of which it is known what their selective units do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import auditor
from auditor.api.audit import audit
from auditor.api.audit_result import Audit
from auditor.api.audit_settings import AuditSettings
from auditor.causal import Outcome, Verdict
from auditor.data.base import LabelledData
from auditor.models.preprocessing import Preprocessing

CLASSES, UNITS, SELECTIVE, SIZE, PER_CLASS = 3, 60, 6, 16, 80
AREA = SIZE * SIZE // UNITS  # pixels that each unit averages
SETTINGS = AuditSettings(
    hypotheses=("necessity", "correlation", "own_class"), shares=(0.05, 0.1), draws=200, neighbours=8, resamples=200,
    check=1,
)  # fmt: skip


class Network(nn.Module):
    """A layer of units, each the mean of its own patch of the image, and a readout of them."""

    def __init__(self, readout: torch.Tensor) -> None:
        super().__init__()
        self.flatten, self.units, self.act = nn.Flatten(), nn.Linear(3 * SIZE * SIZE, UNITS), nn.ReLU()
        self.readout = nn.Linear(UNITS, CLASSES)
        with torch.no_grad():
            self.units.weight.zero_()
            for unit in range(UNITS):
                self.units.weight[unit, unit * AREA : (unit + 1) * AREA] = 1 / AREA
            self.units.bias.zero_()
            self.readout.weight.copy_(readout)
            self.readout.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.readout(self.act(self.units(self.flatten(x))))


def pictures() -> LabelledData:
    """Units 0 to 5 respond to one class each, the others to all, with a hint of one class; equal means."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS).astype(np.int64)
    prefers = np.arange(UNITS) % CLASSES
    own = labels[:, None] == prefers
    levels = 0.30 + 0.05 * own + rng.normal(0, 0.07, own.shape)
    levels[:, :SELECTIVE] = (0.06 + 0.78 * own + rng.normal(0, 0.03, own.shape))[:, :SELECTIVE]
    pixels = np.zeros((len(labels), 3 * SIZE * SIZE), dtype=np.uint8)
    pixels[:, : UNITS * AREA] = np.repeat((255 * levels.clip(0, 1)).astype(np.uint8), AREA, axis=1)
    images = [Image.fromarray(row.reshape(3, SIZE, SIZE).transpose(1, 2, 0)) for row in pixels]
    number = np.tile(np.arange(PER_CLASS), CLASSES)
    return LabelledData(
        name="planted", origin="made by the tests", classes=("a", "b", "c"), labels=labels,
        ids=tuple(f"{label}/{n}" for label, n in zip(labels, number, strict=True)),
        splits={
            "train": np.flatnonzero(number < 8),
            "select": np.flatnonzero((number >= 8) & (number < 40)),
            "score": np.flatnonzero(number >= 40),
        },
        read=images.__getitem__,
    )  # fmt: skip


def audited(causal: bool, folder: Path, settings: AuditSettings = SETTINGS) -> Audit:
    """Let the selective units alone carry the answer, or all others."""
    readout = torch.zeros(CLASSES, UNITS)
    for unit in range(UNITS):
        if (unit < SELECTIVE) == causal:
            readout[unit % CLASSES, unit] = 10.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditor.Run, "save_figures", lambda _: [])
        patch.setattr(Audit, "save_figures", lambda _: [])
        patch.setattr(Audit, "write_report", lambda _, **__: None)
        run = auditor.profile(
            Network(readout).eval(), data=pictures(), metrics=["dprime"], shuffles=199, bootstraps=100, runs=folder,
            preprocessing=Preprocessing((3, SIZE, SIZE), (SIZE,), mean=(0.0,) * 3, std=(1.0,) * 3),
        )  # fmt: skip
        return audit(run, settings=settings, device="cpu")


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audited(True, tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audited(False, tmp_path_factory.mktemp("idle"))


def verdicts(found: Audit) -> dict[str, Outcome]:
    return {verdict.key: verdict.outcome for verdict in found.verdicts}


@pytest.mark.parametrize("which", ["causal", "idle"])
def test_the_planted_units_are_chosen(which: str, request: pytest.FixtureRequest) -> None:
    found: Audit = request.getfixturevalue(which)
    assert set(found.units.loc[found.units["chosen"], "unit"]) == set(range(SELECTIVE))
    assert found.results["accuracy"]["estimate"] > 0.75


def test_causal_selective_units_are_called_necessary(causal: Audit) -> None:
    necessity = causal.verdicts[0]
    assert verdicts(causal)["necessity"] is Outcome.SUPPORTED, necessity
    # Without all six the network knows nothing: what is left of the accuracy is chance.
    lost = causal.table("necessity_curve")["selected"].iloc[-1]
    assert lost == pytest.approx(100 * (causal.results["accuracy"]["estimate"] - 1 / CLASSES), abs=0.5)
    assert necessity.p is None or necessity.p <= 0.05
    assert verdicts(causal)["own_class"] is not Outcome.REFUTED
    assert causal.verdicts[1].effect > 0


def test_idle_selective_units_are_not_called_important(idle: Audit) -> None:
    assert (idle.units.loc[idle.units["chosen"], ["loss_change", "accuracy_change"]] == 0).all(axis=None)
    assert idle.table("necessity_curve")["selected"].tolist() == [0.0, 0.0]
    found = verdicts(idle)
    assert found["necessity"] is not Outcome.SUPPORTED
    assert found["correlation"] is not Outcome.SUPPORTED
    assert not idle.answer.startswith("Yes")


def necessity_with(causal: bool, folder: Path, **changes: Any) -> Verdict:
    (found,) = audited(causal, folder, replace(SETTINGS, hypotheses=("necessity",), check=0, **changes)).verdicts
    return found


def test_an_effect_over_sets_that_do_not_match_is_held_back(tmp_path: Path) -> None:
    # Drawn from everywhere, the stand-ins are less active than the selective units.
    found = necessity_with(True, tmp_path, shares=(0.1,), neighbours=60, pool="others")
    assert abs(found.details["matching"]["smd"]) > 0.1
    assert found.low > found.margin
    assert found.p is not None
    assert found.p <= 0.05
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.details["reason"].endswith("above the margin, but the random sets are not matched closely")
    assert "within 0.1 standard deviations of the selected units would have supported" in found.reversed_by


def test_sets_that_differ_as_much_leave_a_refutation_open(tmp_path: Path) -> None:
    found = necessity_with(False, tmp_path, shares=(0.5,), q=0.9)
    assert found.high < found.margin
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "the whole interval lies below the margin, but p =" in found.details["reason"]
    assert "would have refuted the claim if at most 0.05 of the random sets" in found.reversed_by
