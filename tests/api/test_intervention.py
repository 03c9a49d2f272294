"""Networks that were fine-tuned with several alpha: which are found, and what is said of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import auditor
from auditor.api import audit as verb
from auditor.api import finetune as training
from auditor.api import intervention as module
from auditor.api.audit import audit
from auditor.api.audit_result import Audit
from auditor.api.audit_settings import AuditSettings
from auditor.api.compare import Comparison
from auditor.api.intervention import Arm, find_arms, intervention
from auditor.causal import Outcome
from auditor.errors import DataError, OptionError
from auditor.manifest import Manifest

SETTINGS = AuditSettings(
    hypotheses=("correlation",), draws=200, keep_draws=20, resamples=200, shares=(0.2,), limit=30, check=0
)
PLAN = {"epochs": 1, "learning_rate": 0.01, "optimizer": "sgd"}


@pytest.fixture
def run(base: auditor.Run, tmp_path: Path) -> auditor.Run:
    shutil.copytree(base.path, tmp_path / "base", ignore=shutil.ignore_patterns("ablations", "audits"))
    return auditor.Run.open("base", runs=tmp_path)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_save_history_figure", lambda _: None)
    monkeypatch.setattr(Comparison, "save", lambda *_: None)
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _: [])
    monkeypatch.setattr(Audit, "save_figures", lambda _: [])
    monkeypatch.setattr(Audit, "write_report", lambda _, **__: None)


def tuned(
    run: auditor.Run, alpha: float, seed: int, *, complete: bool = True, parent: str | None = None, **plan: Any
) -> str:
    """Write the manifest of a fine-tuned network; returns its name."""
    finetune = {
        "parent": parent or run.manifest.digest(), "sites": ["1", "3"], "limit": None,
        "plan": {**PLAN, **plan, "alpha": alpha, "seed": seed},
    }  # fmt: skip
    manifest = Manifest("profile", {**run.manifest.identity, "finetune": finetune}, {"classes": []}, complete)
    folder = run.path.parent / f"tuned-{manifest.digest()[:8]}-{complete}"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest.to_dict()), encoding="utf-8")
    return folder.name


def found(run: auditor.Run) -> dict[float, dict[int, str]]:
    return {arm.alpha: {seed: each.name for seed, each in sorted(arm.runs.items())} for arm in find_arms(run)}


def test_networks_of_one_plan_are_paired_by_alpha_and_seed(run: auditor.Run) -> None:
    assert find_arms(run) == []
    names = {alpha: {seed: tuned(run, alpha, seed) for seed in (0, 1)} for alpha in (1.0, -1.0, 0.0)}
    assert found(run) == names
    assert [arm.alpha for arm in find_arms(run)] == [-1.0, 0.0, 1.0]


def test_without_a_control_there_are_none(run: auditor.Run) -> None:
    for alpha in (-1.0, 1.0):
        tuned(run, alpha, 0)
    assert find_arms(run) == []
    tuned(run, 0.0, 1)  # of another seed
    assert find_arms(run) == []
    tuned(run, 0.0, 0)
    assert set(found(run)) == {-1.0, 0.0, 1.0}


def test_what_cannot_be_paired_is_left_out(run: auditor.Run) -> None:
    for alpha, seed in ((0.0, 0), (-1.0, 0), (1.0, 3)):
        tuned(run, alpha, seed)
    assert set(found(run)) == {-1.0, 0.0}


def test_others_networks_and_damaged_ones_are_passed_over(run: auditor.Run) -> None:
    names = {alpha: {0: tuned(run, alpha, 0)} for alpha in (-1.0, 0.0)}
    tuned(run, 1.0, 0, parent="0" * 64)
    tuned(run, 2.0, 0, complete=False)
    damaged = run.path.parent / tuned(run, 3.0, 0) / "manifest.json"
    damaged.write_text(damaged.read_text(encoding="utf-8").replace('"epochs": 1', '"epochs": 2'), encoding="utf-8")
    broken = run.path.parent / tuned(run, 4.0, 0) / "manifest.json"
    broken.write_bytes(b'{"kind": ')
    assert found(run) == names


def test_of_several_plans_the_one_with_most_networks_is_taken(run: auditor.Run) -> None:
    for alpha in (-1.0, 0.0):
        tuned(run, alpha, 0, epochs=5)
    more = {alpha: {seed: tuned(run, alpha, seed) for seed in (0, 1)} for alpha in (-1.0, 0.0)}
    tuned(run, 2.0, 0, epochs=7)  # no control
    assert found(run) == more


class Fake:
    """A run of which only accuracy, correct images and mean index are known."""

    def __init__(self, right: np.ndarray, index: float) -> None:
        self.right, self.index = right, index
        self.summary = {"accuracy": {"accuracy": float(right.mean())}}


def arms_of(accuracies: dict[float, list[float]], index: dict[float, float], n: int = 400) -> list[Arm]:
    def right(accuracy: float, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(np.arange(n) < round(accuracy * n))

    return [
        Arm(alpha, {seed: Fake(right(value, seed), index[alpha]) for seed, value in enumerate(values)})  # type: ignore[misc]
        for alpha, values in sorted(accuracies.items())
    ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    import pandas as pd

    class Compared:
        def __init__(self, control: Fake, arm: Fake) -> None:
            change = arm.index - control.index
            row = {"index_change": change, "index_change_low": change - 0.02, "index_change_high": change + 0.02}
            self.overall = pd.DataFrame([row, row])

    monkeypatch.setattr(module, "compare", Compared)
    monkeypatch.setattr(module, "correct_images", lambda one: one.right)

    def judge(accuracies: dict[float, list[float]], index: dict[float, float], **options: Any) -> Any:
        return intervention(arms_of(accuracies, index), **{"margin": 0.01, "alpha": 0.05, **options})

    return judge


INDEX = {-1.0: 0.1, 0.0: 0.3, 1.0: 0.5}


def test_no_cost_and_harm_support_the_claim(fake: Callable[..., Any]) -> None:
    lower, control, higher = [0.900, 0.905, 0.910, 0.8975], [0.8975, 0.905, 0.9075, 0.8975], [0.80, 0.81, 0.79, 0.80]
    verdict, table = fake({-1.0: lower, 0.0: control, 1.0: higher}, INDEX)
    assert verdict.outcome is Outcome.SUPPORTED, verdict
    table = table.set_index("alpha")
    for alpha, arm in ((-1.0, lower), (1.0, higher)):
        difference = np.subtract(arm, control)
        interval = stats.t.interval(0.95, 3, difference.mean(), stats.sem(difference))
        assert table.loc[alpha, "accuracy_difference"] == pytest.approx(difference.mean())
        assert [table.loc[alpha, "low"], table.loc[alpha, "high"]] == pytest.approx(list(interval))
    assert table.loc[-1.0, "p"] == pytest.approx(
        stats.ttest_1samp(np.subtract(lower, control), -0.01, alternative="greater").pvalue
    )
    assert table.loc[1.0, "p"] == pytest.approx(stats.ttest_rel(higher, control, alternative="less").pvalue)
    assert (table["over"] == "seeds").all()
    assert table["moved"].all()
    assert "8 pairs of networks" in verdict.n


def test_a_cost_refutes_it(fake: Callable[..., Any]) -> None:
    verdict, _ = fake({-1.0: [0.7, 0.71, 0.69], 0.0: [0.9, 0.905, 0.895], 1.0: [0.8, 0.81, 0.79]}, INDEX)
    assert verdict.outcome is Outcome.REFUTED
    assert verdict.effect == pytest.approx(-20, abs=0.6)
    assert verdict.margin == -1.0
    assert "would have" in verdict.reversed_by


def test_a_network_that_did_not_move_shows_nothing(fake: Callable[..., Any]) -> None:
    verdict, table = fake({-1.0: [0.5], 0.0: [0.9], 1.0: [0.5]}, {-1.0: 0.3, 0.0: 0.3, 1.0: 0.29})
    assert not table["moved"].any()
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "No network shows what lowering selectivity does" in verdict.sentence
    assert np.isnan(verdict.effect)
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_half_of_the_claim_is_not_all_of_it(fake: Callable[..., Any]) -> None:
    verdict, _ = fake({0.0: [0.9, 0.91, 0.9], 1.0: [0.5, 0.5, 0.52]}, INDEX)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "No network shows what lowering selectivity does" in verdict.sentence


def test_one_seed_is_judged_over_images_and_says_so(fake: Callable[..., Any]) -> None:
    verdict, table = fake({-1.0: [0.9], 0.0: [0.9], 1.0: [0.5]}, INDEX)
    assert (table["over"] == "images").all()
    assert any("holds for these networks" in text for text in verdict.limits)
    assert table.set_index("alpha").loc[1.0, "outcome"] == "supported"


@pytest.mark.slow
def test_an_audit_tests_the_networks_that_are_there(run: auditor.Run, plain: None) -> None:
    networks = {alpha: run.finetune(alpha, epochs=1, limit=100) for alpha in (-20.0, 0.0, 20.0)}
    assert {arm.alpha: arm.runs[0].path for arm in find_arms(run)} == {a: n.path for a, n in networks.items()}
    result = audit(run, settings=SETTINGS, device="cpu")
    assert [verdict.key for verdict in result.verdicts] == ["correlation", "intervention"]
    table = result.table("intervention").set_index("alpha")
    assert list(table.index) == [-20.0, 20.0]
    before = networks[0.0].summary["accuracy"]["accuracy"]
    for alpha in table.index:
        difference = networks[alpha].summary["accuracy"]["accuracy"] - before
        # The adjusted Wald estimate is shrunk a little.
        assert table.loc[alpha, "accuracy_difference"] == pytest.approx(difference, abs=0.02)
    # Other networks are another audit.
    shutil.rmtree(networks[20.0].path)
    other = audit(run, settings=SETTINGS, device="cpu")
    assert other.path != result.path
    assert other.table("intervention")["alpha"].tolist() == [-20.0]


@pytest.mark.slow
def test_intervene_tests_the_networks_that_it_trained(run: auditor.Run, plain: None, monkeypatch: Any) -> None:
    for alpha, seed in ((-1.0, 0), (0.0, 0), (1.0, 0), (-2.0, 0)):
        tuned(run, alpha, seed)  # more of them, but of another plan
    seen: list[list[Arm]] = []

    def look(arms: list[Arm], **options: Any) -> Any:
        seen.append(arms)
        return intervention(arms, **options)

    monkeypatch.setattr(verb, "intervention", look)
    audit(run, settings=SETTINGS, intervene=True, alphas=(-1.0,), epochs=1, device="cpu")
    ((lower, control),) = seen
    assert (lower.alpha, control.alpha) == (-1.0, 0.0)
    for arm in (lower, control):
        assert arm.runs[0].manifest.identity["finetune"]["plan"]["epochs"] == 1
        assert not arm.runs[0].name.startswith("tuned-")


def test_what_cannot_be_trained_is_said_before_the_ablations(
    factories: str, tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "measure", lambda *_: pytest.fail("measured"))
    run = auditor.profile(
        factories, weights="none", fractions=(0.0, 0.5, 0.5), limit=40, shuffles=199, bootstraps=100, runs=tmp_path
    )
    with pytest.raises(DataError, match="train split is empty"):
        audit(run, settings=SETTINGS, intervene=True, device="cpu")


def test_without_networks_it_cannot_be_asked_for(run: auditor.Run) -> None:
    with pytest.raises(OptionError, match="no fine-tuned networks") as caught:
        audit(run, settings=AuditSettings(hypotheses=("intervention",)), device="cpu")
    assert "--intervene trains them" in str(caught.value)
