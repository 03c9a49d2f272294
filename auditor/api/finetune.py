"""The verb ``finetune``: train on with ``CE - alpha * SI``, profile the result, compare."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
from torch import nn

from auditor.api.agreement import check_agreement
from auditor.api.forward import Execution
from auditor.api.heads import CHOICES
from auditor.api.models import Prepared
from auditor.api.profile_ranks import check_ranks
from auditor.api.profiling import profile_prepared
from auditor.api.run import Run
from auditor.api.scratch import fresh_start
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.api.training_data import check_cache, check_classes, open_shared_data
from auditor.api.tuned import TRAINING, WEIGHTS, FineTuned
from auditor.api.tuning_settings import Regularization, regularization
from auditor.api.workspace import MANIFEST, Claim, check_name, claim, locked, read_manifest, slug, write_manifest
from auditor.data import LabelledData
from auditor.distributed import World, current
from auditor.distributed.reporters import of_rank
from auditor.errors import ModelError, RunError
from auditor.manifest import Manifest, provenance
from auditor.models import load_checkpoint, state_hash
from auditor.progress import QUIET, Reporter
from auditor.store.files import write_csv
from auditor.training import (
    Evaluation,
    LayerRecord,
    Training,
    TrainingPlan,
    check_precision,
    evaluate_network,
    shuffled_labels,
    train,
    write_weights,
)

__all__ = ["FineTuned", "finetune"]

STATE = "state.pt"


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
    warmup: float = 0.1,
    schedule: str = "cosine",
    augment: str = "none",
    precision: str = "float32",
    clip_norm: float | None = None,
    patience: int | None = None,
    keep: str = "last",
    alpha_schedule: str = "constant",
    regularize: str | Sequence[str] = "all",
    signed: str = "leave-out",
    metric: str = "index",
    class_means: str = "batch",
    from_scratch: bool = False,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    runs: str | Path | None = None,
    cache_images: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    max_bad: int | None = None,
    reporter: Reporter = QUIET,
) -> FineTuned:
    """Train a run's network on with the selectivity regularizer and profile the result as a run of its own.

    Training uses the train split; accuracy and selectivity on the way, early stopping and the choice of the best epoch
    use the select split; the comparison is made on the select split (selectivity) and the score split (accuracy).

    In several ranks (``torchrun``) each learns from a share of every batch, and gradients, batch norms and class means
    are those of the whole batch. The result is that of one process but for the order of sums, and for what layers draw
    at random (dropout, stochastic depth): each rank draws for its own images. Another number of ranks may go on with a
    training that was stopped.

    Parameters
    ----------
    run : Run
        Its model is copied, not changed.
    alpha : float
        Weight in ``loss = CE - alpha * SI``; negative discourages selectivity, 0 is the control.
    epochs, learning_rate, optimizer, weight_decay, batch_size, balanced, warmup, schedule
        See :class:`auditor.training.TrainingPlan`, also for the next eleven.
    augment, precision, clip_norm, patience, keep
        Of the training loop.
    alpha_schedule, regularize, signed, metric, class_means
        Of the regularizer.
    from_scratch : bool
        Draw the network's weights anew with `seed` before training. The comparison is still with the run's network.
    limit : int, optional
        At most so many images per split, stratified.
    seed : int
        Of every random choice of the training.
    name : str, optional
        Name of the new run's folder.
    runs : path, optional
        Folder that receives it; default: that of `run`.
    cache_images : {"auto", "always", "never"}
        Whether preprocessed images are kept in memory; see
        :func:`auditor.api.training_data.open_training_data`. It does not change the result.
    device, workers, max_bad
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    FineTuned

    Raises
    ------
    OptionError, UnknownNameError, ModelError, DataError, RunError
        If the training cannot be done as asked.
    StoreError
        If the disk is full. What was finished is kept, and the same call goes on from there.
    """
    plan = TrainingPlan(
        alpha=alpha,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        weight_decay=weight_decay,
        batch_size=batch_size,
        balanced=balanced,
        warmup=warmup,
        seed=seed,
        schedule=schedule,
        augment=augment,
        precision=precision,
        clip_norm=clip_norm,
        patience=patience,
        keep=keep,
        alpha_schedule=alpha_schedule,
        regularize=regularize if isinstance(regularize, str) else tuple(regularize),
        signed=signed,
        metric=metric,
        class_means=class_means,
    )
    execution = Execution(device=device, workers=workers, max_bad=max_bad)
    check_precision(plan, execution.torch_device())
    check_cache(cache_images)
    if name is not None:
        check_name(name)
    world, reporter = current(), of_rank(reporter)
    with world.first("data"):
        data = run.data()
    learned = data if limit is None else data.limited(limit)
    check_classes(learned.labels[learned.splits["train"]], data.classes, reporter)
    if run.summary["accuracy"] is None:
        raise ModelError(
            "The model's outputs are not the classes of the data, so it cannot be trained on them.",
            wanted=f"{len(run.classes)} outputs, one per class",
            fix=f"{CHOICES}, or profile one with one output per class (--weights none, --checkpoint FILE).",
        )
    chosen = regularization(run, plan, reporter)
    manifest = Manifest(
        kind="finetune",
        identity={
            "parent": run.manifest.digest(),
            "sites": [s.name for s in chosen.sites],
            "plan": plan.to_dict(),
            "limit": limit,
            **({"from_scratch": True} if from_scratch else {}),
        },
        provenance=provenance(execution=execution.describe(), parent=str(run.path)),
    )
    check_agreement(world, manifest)
    storing = StoreSettings(run.manifest.identity["store"], run.manifest.identity["dtype"])
    check_ranks(world, storing)  # the profile of the result would refuse, after all the training
    base = str(run.manifest.identity["model"]["spec"]).split(":")[-1]
    home = run.path.parent if runs is None else Path(runs)
    folder = home / (name or f"{slug(base)}-{slug(data.name)}-alpha{plan.alpha:g}-{manifest.digest()[:8]}")
    work = _Work(run, plan, chosen, manifest, folder, execution, reporter, cache_images, world)
    if world.main:
        _check_free(folder)
    prepared = work.train(learned)
    settings = run.manifest.identity["selectivity"]
    tuned = profile_prepared(
        prepared,
        data,
        source=run.manifest.provenance.get("data"),
        layers=run.manifest.identity["layers"],
        settings=SelectivitySettings(**{**settings, "metrics": tuple(settings["metrics"])}),
        storing=storing,
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
    if world.main:
        result.comparison.save(result.path / "comparison")
        _save_history_figure(result)
    world.barrier("compared")
    return result


def _check_free(folder: Path) -> None:
    """Refuse, before anything is written there, a folder in which something else is."""
    if not folder.is_dir():
        return
    if folder.joinpath(MANIFEST).exists():
        there = read_manifest(folder)
        if there.kind != "profile" or "finetune" not in there.identity:
            kind = "another network" if there.kind == "profile" else f"a {there.kind} run"
            raise RunError(f"{folder} holds {kind}; it is left as it is.", fix="Choose another --name.")
    elif {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {TRAINING, WEIGHTS}:
        raise RunError(f"{folder} exists and is not a run; it is left as it is.", fix="Choose another --name.")


@dataclass(frozen=True)
class _Work:
    """One training and where it is done."""

    run: Run
    plan: TrainingPlan
    chosen: Regularization
    manifest: Manifest
    folder: Path
    execution: Execution
    reporter: Reporter
    cache_images: str
    world: World

    def train(self, data: LabelledData) -> Prepared:
        """Train, or take up what an earlier call left."""
        run, plan, manifest = self.run, self.plan, self.manifest
        with self.world.first("model"):
            start = run.model(self.execution)
        scratch = bool(manifest.identity.get("from_scratch"))
        module = fresh_start(start, seed=plan.seed) if scratch else copy.deepcopy(start.module)
        training, weights = self.folder / TRAINING, self.folder / WEIGHTS
        with self._claimed(training) as state:
            if state == "done":
                load_checkpoint(module, weights)
            else:
                began = time.monotonic()
                verb = "Training the architecture of" if scratch else "Fine-tuning"
                self.reporter.say(
                    f"{verb} {run.name} with alpha = {plan.alpha:g} on {len(data.splits['train'])} images, "
                    f"{plan.epochs} epochs" + (" (going on where it was stopped)." if state == "resume" else ".")
                )
                history = self._fit(module, start, data, training / STATE)
                if self.world.main:
                    self._finish(module, history, training, seconds=time.monotonic() - began)
            self.world.barrier("trained")
        module.eval()
        identity = {
            **start.identity,  # with what was done to its outputs
            "weights": f"finetuned:{manifest.digest()}",
            "seed": None,
            "state": state_hash(module),
        }
        return Prepared(module, start.preprocessing, identity, weights)

    @contextmanager
    def _claimed(self, training: Path) -> Iterator[Claim]:
        """Hold the training's folder, by the main rank for all; every rank learns how far the training is."""
        if self.world.main:
            with locked(training):
                yield self.world.share("claimed", claim(training, self.manifest).state)
        else:
            yield self.world.share("claimed")

    def _finish(self, module: nn.Module, history: Training, training: Path, *, seconds: float) -> None:
        plan, manifest = self.plan, self.manifest
        write_csv(training / "history.csv", pd.DataFrame([asdict(record) for record in history.epochs]))
        names = [field.name for field in fields(LayerRecord)]
        layers = pd.DataFrame([asdict(record) for record in history.layers], columns=names)
        write_csv(training / "layers.csv", layers)
        parent = self.run.manifest.digest()
        write_weights(module, self.folder / WEIGHTS, {"parent": parent, "alpha": f"{plan.alpha:g}"})
        manifest.complete = True
        manifest.provenance |= {
            "seconds": round(seconds, 2),
            "best_epoch": history.best,
            "last_epoch": len(history.epochs),
        }
        write_manifest(training, manifest)
        training.joinpath(STATE).unlink(missing_ok=True)

    def _fit(self, module: nn.Module, start: Prepared, data: LabelledData, state: Path) -> Training:
        execution, chosen, plan = self.execution.on(start.module), self.chosen, self.plan
        check_precision(plan, execution.torch_device())
        pictures = open_shared_data(
            data, start, execution, batch_size=plan.batch_size, cache_images=self.cache_images, state=state,
            world=self.world, reporter=self.reporter,
        )  # fmt: skip
        shuffled = shuffled_labels(pictures.held_out.labels, plan.seed)[pictures.held_out.share.own]

        def evaluate(model: nn.Module) -> Evaluation:
            return evaluate_network(
                model, pictures.held_out, sites=chosen.measured, metric=chosen.metric, rectify=chosen.rectify,
                shuffled=shuffled, n_classes=len(data.classes), world=self.world,
            )  # fmt: skip

        return train(
            module,
            pictures.train,
            plan=plan,
            regularizer=chosen.build(plan, len(data.classes)),
            evaluate=evaluate,
            state=state,
            reporter=self.reporter,
            description=f"Fine-tuning (alpha {plan.alpha:g})",
            world=self.world,
        )


def _save_history_figure(run: FineTuned) -> None:
    from auditor.report.style import save

    save(run.plot_history(), run.path / "figures" / "training")
