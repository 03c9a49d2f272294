"""The training loop: cross-entropy minus alpha times selectivity, resumable epoch by epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import ModelError, OptionError, RunError, unknown_name
from auditor.progress import QUIET, Reporter
from auditor.training.batches import BalancedBatches, Batches, ShuffledBatches
from auditor.training.regularizer import SelectivityRegularizer

OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides a training's outcome apart from data and start.

    Parameters
    ----------
    alpha : float
        Weight of the selectivity term in ``loss = CE - alpha * SI``; negative discourages selectivity.
    epochs : int
        Passes over the training split.
    learning_rate : float
        Peak rate; it falls to zero along a cosine, batch by batch.
    optimizer : str
        ``sgd`` (Nesterov momentum 0.9) or ``adamw``.
    weight_decay : float
        Of weights with two or more axes; biases and norms are not decayed.
    batch_size : int
        Images per batch.
    balanced : bool
        The same number of images of every class in every batch.
    warmup : float
        Share of all batches over which the rate rises linearly from zero.
    seed : int
        Of the batches and of dropout.
    """

    alpha: float = 0.0
    epochs: int = 10
    learning_rate: float = 0.02
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    batch_size: int = 64
    balanced: bool = True
    warmup: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if not math.isfinite(self.alpha):
            raise OptionError("alpha must be a finite number.", got=str(self.alpha))
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise OptionError(f"{name} must be at least 1.", got=str(value))
        if self.batch_size < 2:
            raise OptionError("batch_size must be at least 2: batch normalisation needs two images.", got="1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise OptionError("learning_rate must be a positive number.", got=str(self.learning_rate))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)

    def rate(self, step: int, total: int) -> float:
        """Learning rate at batch `step` of `total`."""
        rise = self.warmup * total
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1)))


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training history.

    ``batch_si`` is the mean of the mini-batches' selectivity, biased upward by the sampling floor; judge by the
    selectivity of the evaluation split. ``val_*`` is measured after the epoch, with a Wilson interval.
    """

    epoch: int
    train_loss: float
    cross_entropy: float
    batch_si: float
    samples_per_class: float
    learning_rate: float
    val_accuracy: float
    val_accuracy_low: float
    val_accuracy_high: float


Evaluate = Callable[[nn.Module], tuple[float, float, float]]


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    plan: TrainingPlan,
    regularizer: SelectivityRegularizer | None,
    evaluate: Evaluate,
    state: Path | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    reporter: Reporter = QUIET,
    description: str = "Training",
) -> list[EpochRecord]:
    """Train `model` in place.

    Parameters
    ----------
    model : torch.nn.Module
        Left in evaluation mode.
    images, labels : Tensor
        The training split, preprocessed: shapes (N, C, H, W) and (N,).
    plan : TrainingPlan
    regularizer : SelectivityRegularizer or None
        Needed unless alpha is 0; with alpha 0 it only measures.
    evaluate : callable
        Gives accuracy and its interval after each epoch.
    state : Path, optional
        File that receives everything needed to go on after each epoch; read first if it exists.
    augment : callable, optional
        Gets a batch and a seeded generator, gives a batch.
    reporter : Reporter
    description : str
        Title of the progress bar.

    Returns
    -------
    list of EpochRecord

    Raises
    ------
    OptionError
        If alpha is not 0 and there is no regularizer.
    ModelError
        If the loss becomes NaN or infinite; what was saved stays.
    """
    if regularizer is None and plan.alpha != 0:
        raise OptionError("alpha other than 0 needs a regularizer.", got=f"alpha={plan.alpha}")
    kind = BalancedBatches if plan.balanced else ShuffledBatches
    batches: Batches = kind(labels.cpu().numpy(), plan.batch_size, seed=plan.seed)
    optimizer = _optimizer(model, plan)
    history = _restore(state, model, optimizer) if state is not None and state.exists() else []
    total = plan.epochs * len(batches)
    devices = [images.device] if images.device.type == "cuda" else []
    with (
        reporter.task(description, total, "batches") as task,
        torch.random.fork_rng(devices=devices),
    ):
        task.advance(len(history) * len(batches))
        for epoch in range(len(history), plan.epochs):
            # Seeded per epoch, so that a resumed training draws what an undisturbed one would have drawn.
            torch.manual_seed(plan.seed * 1_000_003 + epoch)
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
            model.train()
            sums = {"train_loss": 0.0, "cross_entropy": 0.0, "batch_si": 0.0, "samples_per_class": 0.0}
            for i, rows in enumerate(batches.epoch(epoch)):
                rate = plan.rate(epoch * len(batches) + i, total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                index = torch.from_numpy(rows).to(labels.device)
                batch = images[index]
                if augment is not None:
                    batch = augment(batch, generator)
                step = _step(model, batch, labels[index], plan.alpha, regularizer, optimizer)
                if not math.isfinite(step["train_loss"]):
                    raise ModelError(
                        f"The loss became {step['train_loss']} in epoch {epoch + 1}, batch {i + 1}.",
                        fix="Lower --learning-rate or the size of alpha.",
                    )
                for name, value in step.items():
                    sums[name] += value
                task.advance(1)
            model.eval()
            accuracy, low, high = evaluate(model)
            means = {name: value / len(batches) for name, value in sums.items()}
            history.append(EpochRecord(epoch + 1, **means, learning_rate=rate, val_accuracy=accuracy,
                                       val_accuracy_low=low, val_accuracy_high=high))  # fmt: skip
            si = "" if regularizer is None else f", batch SI {means['batch_si']:.3f}"
            task.note(f"epoch {epoch + 1}/{plan.epochs}: accuracy {accuracy:.1%}{si}")
            if state is not None:
                _save(state, model, optimizer, history)
    model.eval()
    return history


def _step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    alpha: float,
    regularizer: SelectivityRegularizer | None,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    optimizer.zero_grad(set_to_none=True)
    if regularizer is None:
        cross_entropy = nn.functional.cross_entropy(model(images), labels)
        loss, si, samples = cross_entropy, math.nan, math.nan
    else:
        with regularizer.watching(model):
            cross_entropy = nn.functional.cross_entropy(model(images), labels)
            seen = regularizer(labels)
        loss = cross_entropy - alpha * seen.mean if alpha != 0 else cross_entropy
        si, samples = float(seen.mean.detach()), seen.samples_per_class
    loss.backward()
    optimizer.step()
    return {
        "train_loss": float(loss.detach()),
        "cross_entropy": float(cross_entropy.detach()),
        "batch_si": si,
        "samples_per_class": samples,
    }


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


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[EpochRecord]) -> None:
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [asdict(record) for record in history],
    }
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[EpochRecord]:
    try:
        content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        return [EpochRecord(**record) for record in content["history"]]
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise RunError(
            f"The saved training state cannot be read ({type(error).__name__}).",
            got=str(path),
            fix="Delete the file to train from the start.",
        ) from error
