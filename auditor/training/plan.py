"""Everything that decides a training's outcome apart from data and start."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, fields
from typing import Any

from auditor.errors import OptionError, unknown_name
from auditor.training.augment import PRESETS
from auditor.training.schedules import RATES, AlphaSchedule, learning_rate

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16", "float16")
KEEP = ("last", "best")
SIGNED = ("leave-out", "rectify")
# Fields that plans have always had; the others are part of an identity only where they differ from their default.
_FIRST = ("alpha", "epochs", "learning_rate", "optimizer", "weight_decay", "batch_size", "balanced", "warmup", "seed")
_RUNNING = re.compile(r"running(?::(0?\.\d+))?")
_MOMENTUM = 0.9
_SEEDS = 2**32


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
        Peak rate.
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
        Of the batches, of augmentation, of dropout, and of the weights where training starts from scratch.
    schedule : str
        ``cosine``, ``step`` or ``constant``; see :func:`auditor.training.schedules.learning_rate`.
    augment : str
        ``none``, ``shift``, ``flip-shift`` or ``resized-crop``; see :mod:`auditor.training.augment`.
    precision : str
        Of the forward pass in training: ``float32``, ``bfloat16`` or ``float16`` (autocast; the index, the losses, the
        weights and every evaluation stay in float32).
    clip_norm : float, optional
        Largest norm of the gradient of all weights together.
    patience : int, optional
        Stop when validation accuracy has not risen for so many epochs.
    keep : str
        ``last`` or ``best``: the weights of the last epoch, or of the first with the highest validation accuracy. Here
        and for `patience` only epochs count in which alpha no longer changes.
    alpha_schedule : str
        ``constant``, ``warmup:K``, ``from:K`` or ``until:K``; see :class:`auditor.training.schedules.AlphaSchedule`.
    regularize : str or tuple of str
        Layers in the selectivity term: ``all``, ``first:K``, ``last:K``, or globs over their names.
    signed : str
        ``leave-out`` or ``rectify`` layers with negative responses where the metric is not defined for such.
    metric : str
        A training metric; the class selectivity index, or another from the registry.
    class_means : str
        ``batch``, or ``running``: exponential means over batches with momentum 0.9; ``running:M`` sets the momentum.
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
    schedule: str = "cosine"
    augment: str = "none"
    precision: str = "float32"
    clip_norm: float | None = None
    patience: int | None = None
    keep: str = "last"
    alpha_schedule: str = "constant"
    regularize: str | tuple[str, ...] = "all"
    signed: str = "leave-out"
    metric: str = "index"
    class_means: str = "batch"

    def __post_init__(self) -> None:
        if not isinstance(self.regularize, str):
            object.__setattr__(self, "regularize", tuple(self.regularize))
        # -1, -1.0 and, for 0, -0.0 are one setting, and must have one identity.
        object.__setattr__(self, "alpha", float(self.alpha) + 0.0)
        for kind, value, valid in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("learning-rate schedule", self.schedule, RATES),
            ("augmentation", self.augment, PRESETS),
            ("precision", self.precision, PRECISIONS),
            ("choice of weights to keep", self.keep, KEEP),
            ("treatment of signed responses", self.signed, SIGNED),
        ):
            if value not in valid:
                raise unknown_name(kind, value, valid)
        self._check_numbers()
        AlphaSchedule.parse(self.alpha_schedule, self.epochs)
        if self.class_means != "batch" and _RUNNING.fullmatch(self.class_means) is None:
            raise OptionError(
                "Class means are those of the batch or running ones.",
                wanted="batch, running, or running:M with a momentum M between 0 and 1, such as running:0.9",
                got=repr(self.class_means),
            )
        if self.metric != "index":
            from auditor.training.metrics import training_metric

            if not training_metric(self.metric).non_negative and self.signed == "rectify":
                raise OptionError(
                    f"The training metric {self.metric!r} is defined for signed responses, so none need be rectified.",
                    fix="Leave out --signed rectify.",
                )

    def _check_numbers(self) -> None:
        if not math.isfinite(self.alpha):
            raise OptionError("alpha must be a finite number.", got=str(self.alpha))
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None:
                continue
            if not _is_whole(value) or value < least:
                raise OptionError(f"{name} must be a whole number of at least {least}.", got=str(value))
        if self.seed >= _SEEDS:
            raise OptionError("seed is too large.", wanted="below 2**32", got=str(self.seed))
        if self.batch_size < 2:
            raise OptionError("batch_size must be at least 2: batch normalisation needs two images.", got="1")
        if self.balanced and self.batch_size < 4:
            raise OptionError(
                "A class-balanced batch needs two images of each of two classes.",
                wanted="batch_size of at least 4",
                got=str(self.batch_size),
            )
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{name} must be a positive number.", got=str(value))
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise OptionError("weight_decay must not be negative.", got=str(self.weight_decay))
        if not 0 <= self.warmup < 1:
            raise OptionError("warmup is a share of the batches.", wanted="0 or more, below 1", got=str(self.warmup))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest; a field that plans did not always have is there unless it is the default."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {f.name: values[f.name] for f in fields(self) if f.name in _FIRST or values[f.name] != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def rate(self, step: int, total: int) -> float:
        """Learning rate at batch `step` of `total`."""
        return learning_rate(step, total, peak=self.learning_rate, warmup=self.warmup, schedule=self.schedule)

    def alpha_of(self, epoch: int) -> float:
        """Alpha of epoch number `epoch` (from 1)."""
        return self.alpha * AlphaSchedule.parse(self.alpha_schedule, self.epochs).share(epoch) + 0.0  # not -0.0

    @property
    def settled(self) -> int:
        """First epoch (from 1) from which on alpha no longer changes."""
        return max(1, AlphaSchedule.parse(self.alpha_schedule, self.epochs).epochs)

    @property
    def momentum(self) -> float | None:
        """Momentum of running class means; None for those of the batch."""
        match = _RUNNING.fullmatch(self.class_means)
        return None if match is None else float(match[1] or _MOMENTUM)


def _is_whole(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True
