"""The verb ``audit``: declare hypotheses, ablate, test them, say what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from auditor.api.ablate import agreement_line, require_scores
from auditor.api.audit_checks import controls
from auditor.api.audit_controls import measure_controls
from auditor.api.audit_measure import ablation_settings, measure
from auditor.api.audit_ranks import correlation, metric_dependence, own_class
from auditor.api.audit_result import Audit
from auditor.api.audit_sets import necessity, sufficiency
from auditor.api.audit_settings import AuditSettings
from auditor.api.audit_tables import write_audit
from auditor.api.findings import Findings
from auditor.api.finetune import finetune
from auditor.api.forward import Execution
from auditor.api.intervention import Arm, find_arms, intervention
from auditor.api.profile import profile
from auditor.api.run import Run
from auditor.api.settings import ALL, at_least
from auditor.api.workspace import claim, locked, write_manifest
from auditor.causal import Verdict
from auditor.errors import DataError, OptionError
from auditor.manifest import Manifest, provenance
from auditor.progress import QUIET, Reporter

BATCH = 512


def audit(
    model: str | nn.Module | Run = "resnet18",
    *,
    settings: AuditSettings | None = None,
    intervene: bool = False,
    alphas: Sequence[float] = (-1.0, 1.0),
    seeds: int = 1,
    epochs: int = 10,
    device: str = "auto",
    batch_size: int = BATCH,
    workers: int | None = None,
    reporter: Reporter = QUIET,
    **options: Any,
) -> Audit:
    """Test whether the neurons that are easy to interpret are causally important.

    Every hypothesis is written down (direction, margin, level, seeds) before anything is ablated, and tested on the
    score split, which chose none of the units.

    Parameters
    ----------
    model : str, torch.nn.Module or Run
        A run that is there, or what :func:`auditor.profile` takes.
    settings : AuditSettings, optional
        The declaration.
    intervene : bool
        Fine-tune networks with the regularizer at `alphas` and at 0, and test what that does.
    alphas : sequence of float
        Other than 0.
    seeds : int
        Networks of each alpha. With one, the interval is over images and holds for these networks only.
    epochs : int
        Of each fine-tune.
    device, batch_size, workers
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter
    **options
        Of :func:`auditor.profile`, which by default scores every metric here.

    Returns
    -------
    Audit

    Raises
    ------
    AuditorError
        A subclass that says what is wrong, before anything is ablated.
    """
    began = time.monotonic()
    settings = settings or AuditSettings()
    if intervene:
        _check_arms(alphas, seeds)
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    if isinstance(model, Run):
        if options:
            raise OptionError(
                f"{next(iter(options))!r} is an option of a new profile.", got=f"the run {model.name}",
                fix="Leave it out, or give a model in place of the run.",
            )  # fmt: skip
        run = model
    else:
        run = profile(model, device=device, workers=workers, reporter=reporter, **({"metrics": (ALL,)} | options))
    require_scores(run)
    ablation_settings(settings, run)  # a ranking that the run does not have ends here
    arms = find_arms(run)
    if intervene or arms:
        settings = replace(settings, hypotheses=tuple(dict.fromkeys([*settings.hypotheses, "intervention"])))
    elif "intervention" in settings.hypotheses:
        raise OptionError(
            "There are no fine-tuned networks of this run.",
            wanted="networks with several alpha, one of them 0",
            fix="--intervene trains them; `auditor finetune --alpha 0` and `--alpha -1` do it one by one.",
        )
    plan = {"alphas": sorted({0.0, *map(float, alphas)}), "seeds": seeds, "epochs": epochs} if intervene else None
    manifest = Manifest(
        kind="audit",
        identity={
            "run": run.manifest.digest(),
            "declaration": settings.to_dict(),
            "intervene": plan or [[arm.alpha, [each.manifest.digest() for each in arm.runs.values()]] for arm in arms],
            "batch_size": batch_size,
        },
        provenance=provenance(execution=execution.describe()),
    )
    folder = run.path / "audits" / f"audit-{manifest.digest()[:8]}"
    with locked(folder):
        if claim(folder, manifest).state == "done":
            reporter.say(f"Audit: {folder} was finished before with this declaration; showing it.")
            return Audit(folder, run)
        # The declaration of an audit that was interrupted is the one on disk: its time is when it was first written.
        manifest = Audit(folder, run).manifest
        reporter.say(
            f"Declared on {manifest.provenance['created']} ({manifest.digest()[:12]}), before any ablation: "
            f"{', '.join(settings.hypotheses)}."
        )
        if plan is not None:  # first, for what cannot be trained should not cost the ablations before it says so
            arms = _train_arms(run, plan, device, workers, reporter)
        findings = _find(run, settings, execution, folder, reporter)
        verdicts = _judge(findings, arms, settings)
        for name, agreement in findings.measured.checks.items():
            reporter.say(agreement_line(name, agreement.to_dict()))
        write_audit(folder, findings, verdicts)
        manifest.complete = True
        manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
        result = Audit(folder, run, manifest=manifest)
        result.save_figures()
        result.write_report(execution=execution, reporter=reporter)
        write_manifest(folder, manifest)
    return result


def _find(run: Run, settings: AuditSettings, execution: Execution, folder: Path, reporter: Reporter) -> Findings:
    data = run.data() if settings.limit is None else run.data().limited(settings.limit)
    _check_images(data.labels[data.splits["score"]])
    by = ablation_settings(settings, run).column
    reporter.say(
        f"Audit of {run.name}: {len(run.selectivity)} units ranked by {by} on the select split "
        f"({run.selectivity['n_images'].iloc[0]} images), tested on the score split ({len(data.splits['score'])} "
        "images)."
    )
    measured = measure(run, data, settings, execution, folder, reporter)
    found = None
    if "controls" in settings.hypotheses:
        found = measure_controls(run, run.data(), execution, seed=settings.seed, reporter=reporter)
    return Findings(run, settings, measured, found)


def _check_images(labels: NDArray[np.integer]) -> None:
    """Refuse images that no interval can be computed from."""
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise DataError(
            "There are too few images to test anything on.",
            wanted="at least two classes in the score split, with several images each",
            got=f"{counts.sum()} images of {len(counts)} classes",
            fix="Ablate on more images (--score-limit), or profile more.",
        )


def _judge(findings: Findings, arms: Sequence[Arm], settings: AuditSettings) -> list[Verdict]:
    tests: dict[str, Callable[[Findings], tuple[Any, ...]]] = {
        "necessity": necessity, "correlation": correlation, "own_class": own_class, "sufficiency": sufficiency,
        "metrics": metric_dependence, "controls": controls,
    }  # fmt: skip
    verdicts: list[Verdict] = [test(findings)[0] for name, test in tests.items() if name in settings.hypotheses]
    if "intervention" in settings.hypotheses:
        verdict, table = intervention(arms, margin=settings.margins.inferiority, alpha=settings.alpha)
        findings.tables["intervention"] = table
        verdicts.append(verdict)
    return verdicts


def _check_arms(alphas: Sequence[float], seeds: int) -> None:
    at_least("seeds", seeds, 1)
    if not any(alpha for alpha in alphas):
        raise OptionError("An intervention needs another alpha than 0.", wanted="such as -1,1", got=str(list(alphas)))


def _train_arms(run: Run, plan: dict[str, Any], device: str, workers: int | None, reporter: Reporter) -> list[Arm]:
    arms = [Arm(alpha, {}) for alpha in plan["alphas"]]
    for seed in range(plan["seeds"]):
        for arm in arms:
            reporter.say(f"Fine-tuning with alpha {arm.alpha:g}, seed {seed}.")
            arm.runs[seed] = finetune(
                run, alpha=arm.alpha, epochs=plan["epochs"], seed=seed, device=device, workers=workers,
                reporter=reporter,
            )  # fmt: skip
    return arms
