"""The verb ``finetune``: train on with ``CE - alpha * SI``, profile the result, compare."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from auditor.api.compare import Comparison, compare
from auditor.api.forward import Execution, accuracy, load_split
from auditor.api.heads import CHOICES
from auditor.api.models import Prepared
from auditor.api.profiling import profile_prepared
from auditor.api.run import Run, read_table
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.api.skips import SKIPPED, Skips
from auditor.api.workspace import check_name, claim, locked, slug, write_manifest
from auditor.data import LabelledData
from auditor.errors import DataError, ModelError
from auditor.manifest import Manifest, provenance
from auditor.models import load_checkpoint, save_weights, state_hash
from auditor.progress import QUIET, Reporter
from auditor.store.files import write_csv
from auditor.training import EpochRecord, SelectivityRegularizer, TrainingPlan, train
from auditor.units import Site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING = "training"
WEIGHTS = "weights.safetensors"


class FineTuned(Run):
    """A fine-tuned network's own run, with its training and the comparison with where it came from."""

    @property
    def parent(self) -> Path:
        """Folder of the run that training started from."""
        return Path(self.manifest.provenance["parent"])

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch; ``batch_si`` is biased upward and no measure of success."""
        return read_table(self.path / TRAINING / "history.csv")

    @property
    def comparison(self) -> Comparison:
        """Before against after."""
        return compare(Run(self.parent), self)

    def plot_history(self) -> Figure:
        """Loss, batch selectivity and accuracy by epoch."""
        from auditor.report.training import training_history

        return training_history(self.history)

    def to_dict(self) -> dict[str, Any]:
        """Everything found, with the comparison (the document that ``--json`` prints)."""
        return {
            **super().to_dict(),
            "comparison": self.comparison.to_dict(),
            "history": self.history.astype(object).where(self.history.notna(), None).to_dict("records"),
        }


def finetune(
    run: Run,
    *,
    alpha: float,
    epochs: int = 10,
    learning_rate: float = 0.02,
    optimizer: str = "sgd",
    weight_decay: float = 1e-4,
    batch_size: int = 64,
    balanced: bool = True,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    max_bad: int | None = None,
    reporter: Reporter = QUIET,
) -> FineTuned:
    """Train a run's network on with the selectivity regularizer and profile the result as a run of its own.

    Training uses the train split; the validation accuracy shown on the way is that of the select split; the comparison
    is made on the select split (selectivity) and the score split (accuracy).

    Parameters
    ----------
    run : Run
        Its model is copied, not changed.
    alpha : float
        Weight in ``loss = CE - alpha * SI``; negative discourages selectivity, 0 is the control.
    epochs, learning_rate, optimizer, weight_decay, batch_size, balanced, seed
        See :class:`auditor.training.TrainingPlan`.
    limit : int, optional
        At most so many images of the train split, stratified.
    name : str, optional
        Name of the new run's folder.
    device, workers, max_bad
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    FineTuned

    Raises
    ------
    OptionError, ModelError, DataError, RunError
        If the training cannot be done as asked.
    """
    plan = TrainingPlan(
        alpha=alpha,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        weight_decay=weight_decay,
        batch_size=batch_size,
        balanced=balanced,
        seed=seed,
    )
    execution = Execution(device=device, workers=workers, max_bad=max_bad)
    if name is not None:
        check_name(name)
    data = run.data()
    if len(data.splits["train"]) == 0:
        raise DataError("The train split is empty, so there is nothing to train on.", fix="Profile with --fractions.")
    if run.summary["accuracy"] is None:
        raise ModelError(
            "The model's outputs are not the classes of the data, so it cannot be trained on them.",
            wanted=f"{len(run.classes)} outputs, one per class",
            fix=f"{CHOICES}, or profile one with one output per class (--weights none, --checkpoint FILE).",
        )
    sites = _regularized_sites(run, reporter)
    manifest = Manifest(
        kind="finetune",
        identity={
            "parent": run.manifest.digest(),
            "sites": [s.name for s in sites],
            "plan": plan.to_dict(),
            "limit": limit,
        },
        provenance=provenance(execution=execution.describe(), parent=str(run.path)),
    )
    base = str(run.manifest.identity["model"]["spec"]).split(":")[-1]
    folder = run.path.parent / (name or f"{slug(base)}-{slug(data.name)}-alpha{alpha:g}-{manifest.digest()[:8]}")
    prepared = _train(
        run, data if limit is None else data.limited(limit), sites, plan, manifest, folder, execution, reporter
    )
    settings = run.manifest.identity["selectivity"]
    tuned = profile_prepared(
        prepared,
        data,
        source=run.manifest.provenance.get("data"),
        layers=run.manifest.identity["layers"],
        settings=SelectivitySettings(**{**settings, "metrics": tuple(settings["metrics"])}),
        storing=StoreSettings(run.manifest.identity["store"], run.manifest.identity["dtype"]),
        seed=int(run.manifest.identity["seed"]),
        folder=folder,
        runs=folder.parent,
        execution=execution,
        reporter=reporter,
        extra={"finetune": manifest.identity},
        notes={"parent": str(run.path)},
        beside=(TRAINING, WEIGHTS),
    )
    result = FineTuned(tuned.path, manifest=tuned.manifest, model=prepared, data=data)
    result.comparison.save(result.path / "comparison")
    _save_history_figure(result)
    return result


def _regularized_sites(run: Run, reporter: Reporter) -> list[Site]:
    """Sites on which the index is defined: those without negative responses in the profile."""
    signed = set(run.layers.loc[run.layers["signed"] > 0, "site"])
    sites = [site for site in run.sites if site.name not in signed]
    if not sites:
        raise ModelError(
            "Every layer of the run has negative responses, for which the class selectivity index is not defined.",
            fix="Profile layers with non-negative outputs (after a ReLU or Sigmoid) with --layers.",
        )
    if signed:
        reporter.say(f"Regularizer: {len(signed)} layers with negative responses are left out.")
    return sites


def _train(
    run: Run,
    data: LabelledData,
    sites: list[Site],
    plan: TrainingPlan,
    manifest: Manifest,
    folder: Path,
    execution: Execution,
    reporter: Reporter,
) -> Prepared:
    """Train, or take up what an earlier call left."""
    start = run.model(execution)
    execution = execution.on(start.module)
    module = copy.deepcopy(start.module)
    training, weights = folder / TRAINING, folder / WEIGHTS
    with locked(training):
        state = claim(training, manifest).state
        if state == "done":
            load_checkpoint(module, weights)
        else:
            began = time.monotonic()
            reporter.say(
                f"Fine-tuning {run.name} with alpha = {plan.alpha:g} on {len(data.splits['train'])} images, "
                f"{plan.epochs} epochs" + (" (going on where it was stopped)." if state == "resume" else ".")
            )
            history = _fit(module, start, data, sites, plan, training / "state.pt", execution, reporter)
            write_csv(training / "history.csv", pd.DataFrame([asdict(record) for record in history]))
            save_weights(module, weights, {"parent": run.manifest.digest(), "alpha": f"{plan.alpha:g}"})
            manifest.complete = True
            manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
            write_manifest(training, manifest)
            training.joinpath("state.pt").unlink(missing_ok=True)
    module.eval()
    identity = {
        **start.identity,  # with what was done to its outputs
        "weights": f"finetuned:{manifest.digest()}",
        "seed": None,
        "state": state_hash(module),
    }
    return Prepared(module, start.preprocessing, identity, weights)


def _fit(
    module: nn.Module,
    start: Prepared,
    data: LabelledData,
    sites: list[Site],
    plan: TrainingPlan,
    state: Path,
    execution: Execution,
    reporter: Reporter,
) -> list[EpochRecord]:
    transform = start.preprocessing.build()
    n_images = sum(len(data.splits[split]) for split in ("train", "select"))
    skips = Skips(data, n_images, path=state.with_name(SKIPPED), max_bad=execution.max_bad)
    images, labels = load_split(data, "train", transform, execution, skips=skips)
    held_images, held_labels = load_split(data, "select", transform, execution, skips=skips)
    skips.announce(reporter)

    def evaluate(model: nn.Module) -> tuple[float, float, float]:
        return accuracy(model, held_images, held_labels, execution.batch_size)

    return train(
        module,
        images,
        labels,
        plan=plan,
        regularizer=SelectivityRegularizer(sites),
        evaluate=evaluate,
        state=state,
        reporter=reporter,
        description=f"Fine-tuning (alpha {plan.alpha:g})",
    )


def _save_history_figure(run: FineTuned) -> None:
    from auditor.report.style import save

    save(run.plot_history(), run.path / "figures" / "training")
