"""What is written down about each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LayerEvaluation:
    """One layer's selectivity on held-out images.

    Attributes
    ----------
    site : str
    n_units, dead : int
        Units, and those of them that respond to no image.
    si : float
        Mean of the training metric over the units that are not dead, from class means over all images; NaN without
        such units.
    floor : float
        The same with the labels shuffled once.
    """

    site: str
    n_units: int
    dead: int
    si: float
    floor: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy with its Wilson interval, and selectivity by layer where it is measured."""

    accuracy: float
    low: float
    high: float
    layers: tuple[LayerEvaluation, ...] = ()

    def mean(self, field: str, sites: Sequence[str]) -> float:
        """Mean of ``si`` or ``floor`` over those of `sites` that have a value; NaN where none has."""
        found = [getattr(layer, field) for layer in self.layers if layer.site in sites]
        defined = [value for value in found if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan


Evaluate = Callable[[nn.Module], Evaluation]


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training history.

    Attributes
    ----------
    epoch : int
        From 1.
    alpha, learning_rate : float
        Weight of the selectivity term in this epoch, and rate of its last batch.
    train_loss, cross_entropy : float
        Means over batches.
    batch_si, batch_si_floor : float
        Mean over batches of the regularized layers' selectivity, and of that of the same responses with the labels
        shuffled. Both hold the sampling noise of a batch: judge by ``val_si``.
    samples_per_class : float
        Mean number of samples of the classes present in a batch.
    val_accuracy, val_accuracy_low, val_accuracy_high : float
        After the epoch, with a Wilson interval over images.
    val_si, val_si_floor : float
        Selectivity of the same layers after the epoch, from class means over all held-out images (mean over units that
        are not dead, then over layers), and the same with the labels shuffled once. Without interval.
    dead : int
        Units of all measured layers that respond to no held-out image.
    """

    epoch: int
    alpha: float
    learning_rate: float
    train_loss: float
    cross_entropy: float
    batch_si: float
    batch_si_floor: float
    samples_per_class: float
    val_accuracy: float
    val_accuracy_low: float
    val_accuracy_high: float
    val_si: float
    val_si_floor: float
    dead: int


@dataclass(frozen=True)
class LayerRecord:
    """One layer in one epoch; ``batch_si`` is NaN for a layer that is measured but not regularized."""

    epoch: int
    site: str
    batch_si: float
    val_si: float
    val_si_floor: float
    dead: int
    n_units: int


@dataclass(frozen=True)
class Training:
    """How a training went.

    Attributes
    ----------
    epochs : list of EpochRecord
    layers : list of LayerRecord
        By epoch, then in network order.
    settled : int
        First epoch that may be the best: before it alpha still changes, and a network that has hardly been regularized
        would win.
    """

    epochs: list[EpochRecord]
    layers: list[LayerRecord]
    settled: int = 1

    @property
    def best(self) -> int:
        """Number of the first epoch with the highest validation accuracy; the last one until alpha has settled."""
        among = [record for record in self.epochs if record.epoch >= self.settled]
        return max(among, key=lambda record: (record.val_accuracy, -record.epoch)).epoch if among else len(self.epochs)

    def stalled(self, patience: int | None) -> bool:
        """Whether validation accuracy has not risen for `patience` epochs."""
        return patience is not None and bool(self.epochs) and len(self.epochs) - self.best >= patience
