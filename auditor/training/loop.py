"""The training loop: cross-entropy minus alpha times selectivity, resumable epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.distributed import World
from auditor.errors import DataError, ModelError, OptionError, RunError
from auditor.progress import QUIET, Reporter
from auditor.training.augment import Augment, Change, augmentation
from auditor.training.batches import BalancedBatches, Batches, ShuffledBatches
from auditor.training.checkpoints import Progress
from auditor.training.classes import Groups
from auditor.training.history import EpochRecord, Evaluate, Evaluation, LayerRecord, Training
from auditor.training.plan import TrainingPlan
from auditor.training.regularizer import BatchSelectivity, SelectivityRegularizer
from auditor.training.sources import Source
from auditor.training.team import SEEDS, Team

_SUMS = ("train_loss", "cross_entropy", "batch_si", "batch_si_floor")


def train(
    model: nn.Module,
    source: Source,
    *,
    plan: TrainingPlan,
    regularizer: SelectivityRegularizer | None,
    evaluate: Evaluate,
    state: Path | None = None,
    augment: Augment | None = None,
    reporter: Reporter = QUIET,
    description: str = "Training",
    world: World | None = None,
) -> Training:
    """Train `model` in place.

    Several ranks take a share of every batch each and make the same update: that of one process, but for the order of
    sums, and for what layers draw at random (dropout, stochastic depth), which each rank draws for itself.

    Parameters
    ----------
    model : torch.nn.Module
        Left in evaluation mode, with the weights that the plan keeps.
    source : Source
        The training split, preprocessed.
    plan : TrainingPlan
    regularizer : SelectivityRegularizer or None
        Needed unless alpha is 0; with alpha 0 it only measures.
    evaluate : callable
        Gives accuracy, and selectivity where that is measured, after each epoch.
    state : Path, optional
        File that receives everything needed to go on after each epoch; read first if it exists. The weights of the
        best and of the last epoch are left beside it, as ``best.safetensors`` and ``last.safetensors``.
    augment : callable, optional
        In place of the plan's preset: gets a batch and a seeded generator, gives a batch.
    reporter : Reporter
    description : str
        Title of the progress bar.
    world : World, optional
        The ranks that make the same call; default: this process alone. Each gives the whole training split, and its
        `evaluate` must give all of them the same.

    Returns
    -------
    Training

    Raises
    ------
    OptionError
        If alpha is not 0 and there is no regularizer, or the device cannot do the plan's precision.
    DataError
        If there are fewer than two classes.
    ModelError
        If the loss or a weight becomes NaN or infinite; what was saved stays.
    RunError
        If the saved state cannot be read, or the ranks do not find the same one.
    """
    if regularizer is None and plan.alpha != 0:
        raise OptionError("alpha other than 0 needs a regularizer.", got=f"alpha={plan.alpha}")
    check_precision(plan, source.device)
    kind = BalancedBatches if plan.balanced else ShuffledBatches
    if len(np.unique(source.labels)) < 2:
        raise DataError(
            "A training needs images of at least two classes.",
            got=f"{len(source.labels)} images of {len(np.unique(source.labels))}",
        )
    batches: Batches = kind(source.labels, plan.batch_size, seed=plan.seed)
    scaler = torch.amp.GradScaler(source.device.type, enabled=plan.precision == "float16")
    progress = Progress(model, _optimizer(model, plan), scaler, regularizer, Training([], [], plan.settled))
    if state is not None and state.exists():
        progress.restore(state)
    augment = augment or augmentation(plan.augment)
    world = world or World()
    _check_together(progress.history, world, state)
    team = Team(model, regularizer, world) if world.several else None
    own_seed = world.rank * SEEDS
    devices = [source.device] if source.device.type == "cuda" else []
    history = progress.history
    with (
        reporter.task(description, plan.epochs * len(batches), "batches") as task,
        torch.random.fork_rng(devices=devices),
    ):
        task.advance(len(history.epochs) * len(batches))
        while len(history.epochs) < plan.epochs and not history.stalled(plan.patience):
            number = len(history.epochs) + 1
            step = Step(progress, plan, number, source.device, team)
            # Seeded per epoch, so that a resumed training draws what an undisturbed one would have drawn.
            seed = plan.seed * 1_000_003 + number - 1
            torch.manual_seed(seed + own_seed)
            generator = torch.Generator().manual_seed(seed if isinstance(augment, Change) else seed + own_seed)
            model.train()
            drawn = list(batches.epoch(number - 1))
            mine = drawn if team is None else [team.rows(rows) for rows in drawn]
            for i, (rows, images) in enumerate(zip(drawn, source.batches(mine), strict=True)):
                rate = plan.rate((number - 1) * len(batches) + i, plan.epochs * len(batches))
                if augment is not None and team is not None:
                    images = team.change(augment, images, len(rows), generator)
                elif augment is not None:
                    images = augment(images, generator)
                step(images, source.labels[rows], rate, i)
                task.advance(1)
            model.eval()
            _check_weights(model, number)
            found = evaluate(model)
            _record(history, step, found, rate)
            task.note(_note(history.epochs[-1], plan))
            if state is not None or plan.keep == "best":
                progress.keep_best()
            if state is not None and world.main:
                progress.save(state)
    model.eval()
    if team is not None:
        team.close()
    if state is not None:
        progress.export(state.parent if world.main else None, keep=plan.keep)
    elif plan.keep == "best":
        model.load_state_dict(progress.best)
    return history


def check_precision(plan: TrainingPlan, device: torch.device) -> None:
    """Refuse float16 where there is no fast hardware for it, and its small gradients would be lost.

    Raises
    ------
    OptionError
        On the CPU.
    """
    if plan.precision == "float16" and device.type == "cpu":
        raise OptionError(
            "Training in float16 needs a GPU.",
            wanted="float32 or bfloat16 on the CPU",
            got="float16 on the CPU",
            fix="--precision bfloat16",
        )


def _check_together(history: Training, world: World, state: Path | None) -> None:
    """Refuse to go on from different epochs: a network file system may show a file late, or as it was."""
    there = world.gather("epochs done", len(history.epochs))
    if len(set(there)) > 1:
        raise RunError(
            "The ranks do not find the same saved training state.",
            wanted=f"{there[0]} epochs done, as on rank 0",
            got=", ".join(map(str, there)),
            fix=f"Repeat the command when all of them see {state}.",
        )


def _check_weights(model: nn.Module, epoch: int) -> None:
    """Refuse weights that the last update has spoiled, which no loss has shown yet."""
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"The weights {name} became NaN or infinite in epoch {epoch}.",
                fix="Lower --learning-rate or the size of alpha, or set --clip-norm.",
            )


class Step:
    """One epoch's batches: forward, backward, update, and what is summed over them."""

    def __init__(
        self, progress: Progress, plan: TrainingPlan, epoch: int, device: torch.device, team: Team | None = None
    ) -> None:
        self.epoch = epoch
        self.alpha = plan.alpha_of(epoch)
        self._progress = progress
        self._plan = plan
        self._device = device
        self._team = team
        self._sums = np.zeros(len(_SUMS) + (0 if progress.regularizer is None else len(progress.regularizer.sites)))
        self._samples: list[float] = []
        self._scored = 0

    def __call__(self, images: Tensor, labels: NDArray[np.int64], rate: float, number: int) -> None:
        """Learn from batch `number` of the epoch: this rank's images, and the labels of all."""
        model, optimizer, scaler = self._progress.model, self._progress.optimizer, self._progress.scaler
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss, seen = self._forward(images, labels, number)
        scaler.scale(loss).backward()
        if self._plan.clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), self._plan.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        values = seen.tolist()  # the one place where the step waits for the device
        if not math.isfinite(values[0]):
            raise ModelError(
                f"The loss became {values[0]} in epoch {self.epoch}, batch {number + 1}.",
                fix="Lower --learning-rate or the size of alpha, or set --clip-norm.",
            )
        if math.isnan(values[2]):
            self._sums[:2] += values[:2]
        else:
            self._sums += values
            self._scored += 1

    def _forward(self, images: Tensor, labels: NDArray[np.int64], number: int) -> tuple[Tensor, Tensor]:
        """Loss, and what is written down about it."""
        regularizer = self._progress.regularizer
        # One class alone, as a small last batch may hold, has no selectivity.
        scored = regularizer is not None and len(np.unique(labels)) > 1
        half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self._plan.precision)
        with torch.autocast(self._device.type, dtype=half, enabled=half is not None):
            if self._team is None:
                loss, cross_entropy, seen = self._alone(images, labels, number, scored=scored)
            else:
                groups = self._groups(labels, number) if scored else None
                loss, cross_entropy, seen = self._team.forward(images, labels, groups, alpha=self.alpha)
        if seen is None:
            self._samples.append(math.nan if regularizer is None else len(labels))
            nothing = cross_entropy.new_full((len(self._sums) - 2,), torch.nan)
            return loss, torch.cat([cross_entropy.expand(2), nothing])
        self._samples.append(seen.samples_per_class)
        whole = cross_entropy - self.alpha * seen.mean.detach() if self.alpha != 0 else cross_entropy
        scalars = torch.stack([whole, cross_entropy, seen.mean.detach(), seen.floor])
        return loss, torch.cat([scalars, seen.layers])

    def _alone(
        self, images: Tensor, labels: NDArray[np.int64], number: int, *, scored: bool
    ) -> tuple[Tensor, Tensor, BatchSelectivity | None]:
        """Loss, cross-entropy without gradient, and selectivity, in a single process."""
        model, regularizer = self._progress.model, self._progress.regularizer
        targets = torch.from_numpy(labels).to(self._device)
        if regularizer is None or not scored:
            loss = nn.functional.cross_entropy(model(images), targets)
            return loss, loss.detach(), None
        with regularizer.watching(model):
            cross_entropy = nn.functional.cross_entropy(model(images), targets)
            with torch.autocast(self._device.type, enabled=False):
                groups, shuffled = self._groups(labels, number)
                seen = regularizer(groups, shuffled=shuffled)
        loss = cross_entropy - self.alpha * seen.mean if self.alpha != 0 else cross_entropy
        return loss, cross_entropy.detach(), seen

    def _groups(self, labels: NDArray[np.int64], number: int) -> tuple[Groups, Groups]:
        """The batch by its labels, and by shuffled ones."""
        rng = np.random.default_rng([self._plan.seed, 42, self.epoch, number])
        return Groups.of(labels, self._device), Groups.of(rng.permutation(labels), self._device)

    def means(self) -> Iterator[float]:
        """Means over the batches: of the first four values, then of each site's selectivity (NaN without any)."""
        yield from (self._sums[:2] / len(self._samples)).tolist()
        yield from (self._sums[2:] / self._scored if self._scored else np.full(len(self._sums) - 2, np.nan)).tolist()

    @property
    def samples_per_class(self) -> float:
        """Mean over the batches."""
        return sum(self._samples) / len(self._samples)

    @property
    def sites(self) -> list[str]:
        """Names of the regularized sites."""
        return [] if self._progress.regularizer is None else [site.name for site in self._progress.regularizer.sites]


def _record(history: Training, step: Step, found: Evaluation, rate: float) -> None:
    values = step.means()
    means = {name: next(values) for name in _SUMS}
    by_site = dict(zip(step.sites, values, strict=True))
    history.epochs.append(
        EpochRecord(
            step.epoch,
            step.alpha,
            rate,
            **means,
            samples_per_class=step.samples_per_class,
            val_accuracy=found.accuracy,
            val_accuracy_low=found.low,
            val_accuracy_high=found.high,
            val_si=found.mean("si", step.sites),
            val_si_floor=found.mean("floor", step.sites),
            dead=sum(layer.dead for layer in found.layers),
        )
    )
    history.layers.extend(
        LayerRecord(step.epoch, one.site, by_site.get(one.site, math.nan), one.si, one.floor, one.dead, one.n_units)
        for one in found.layers
    )


def _note(record: EpochRecord, plan: TrainingPlan) -> str:
    parts = [f"epoch {record.epoch}/{plan.epochs}: accuracy {record.val_accuracy:.1%}"]
    if not math.isnan(record.val_si):
        parts.append(f"SI {record.val_si:.3f} (floor {record.val_si_floor:.3f})")
    if not math.isnan(record.batch_si):
        parts.append(f"batch SI {record.batch_si:.3f} (floor {record.batch_si_floor:.3f})")
        parts.append(f"{record.samples_per_class:.1f} samples per class")
    return ", ".join(parts)


def _optimizer(model: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError("The model has no parameter that requires a gradient.", fix="Unfreeze some of its layers.")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=plan.learning_rate)
