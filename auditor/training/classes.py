"""What each class's samples of a batch say about every unit: counts, means and variances that carry gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.errors import DataError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Which samples of a batch belong together.

    Worked out on the CPU, so that a device need not be waited for.

    Attributes
    ----------
    classes : Tensor of int64, shape (K,)
        Class numbers that are present, ascending.
    slot : Tensor of int64, shape (B,)
        Position in `classes` of each sample's class.
    count : Tensor of int64, shape (K,)
        Samples of each.
    numbers : ndarray of int64, shape (K,)
        `classes`, on the CPU.
    samples_per_class : float
        Mean of `count`.
    counts : ndarray of int64, shape (K,)
        `count`, on the CPU.
    """

    classes: Tensor
    slot: Tensor
    count: Tensor
    numbers: Ints
    samples_per_class: float
    counts: Ints

    @classmethod
    def of(cls, labels: Tensor | Ints, device: torch.device | str = "cpu") -> Groups:
        """Group samples by label.

        Raises
        ------
        DataError
            If fewer than two classes are present.
        """
        known = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
        classes, slot, count = np.unique(known, return_inverse=True, return_counts=True)
        if len(classes) < 2:
            raise DataError(
                "The selectivity of a batch needs at least two classes.",
                got=f"{len(classes)} class in a batch of {len(known)}",
                fix="Use class-balanced or larger batches.",
            )
        arrays = [each.astype(np.int64) for each in (classes, slot, count)]
        present, slots, counts = (torch.from_numpy(each).to(device, non_blocking=True) for each in arrays)
        return cls(present, slots, counts, arrays[0], len(known) / len(classes), arrays[2])


@dataclass(frozen=True)
class ClassStatistics:
    """Responses by class; a row per class, a column per unit.

    Attributes
    ----------
    mean : Tensor, shape (K, U)
    count : Tensor, shape (K,)
        Samples behind each row, as floating-point numbers.
    variance : Tensor, shape (K, U), optional
        With ``ddof=1``; 0 for a class of one sample. Only for metrics that need it.
    widths : tuple of int, optional
        Units of each layer, where several lie side by side.
    """

    mean: Tensor
    count: Tensor
    variance: Tensor | None = None
    widths: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls, responses: Tensor, groups: Groups, *, variance: bool = False, widths: tuple[int, ...] | None = None
    ) -> ClassStatistics:
        """Take means, and variances on demand, of responses (B, U)."""
        shape = len(groups.classes), responses.shape[1]
        count = groups.count.to(responses.dtype)
        mean = responses.new_zeros(shape).index_add(0, groups.slot, responses) / count[:, None]
        if not variance:
            return cls(mean, count, widths=widths)
        squares = (responses - mean.index_select(0, groups.slot)).square()
        total = responses.new_zeros(shape).index_add(0, groups.slot, squares)
        return cls(mean, count, total / (count - 1).clamp(min=1)[:, None], widths)

    @property
    def total(self) -> Tensor:
        """Sum of the class means, shape (U,).

        Layer by layer: torch adds up in an order that depends on the width, and a layer's value should not change in
        its last digit with the layers that happen to lie beside it.
        """
        if self.widths is None:
            return self.mean.sum(0)
        return torch.cat([part.sum(0) for part in self.mean.split(list(self.widths), dim=1)])


class RunningStatistics:
    """Exponential class means over batches, for data of many more classes than a batch holds.

    A class in the batch gets ``momentum * old + (1 - momentum) * new``, with a gradient through the new part alone;
    the others keep what they have. A class's first batch is taken as it is; classes never seen are not there. Every
    class counts as the same number of samples.

    Parameters
    ----------
    n_classes : int
    momentum : float
        From 0 to 1; the gradient of a known class is ``1 - momentum`` times that of the batch's own mean.
    """

    def __init__(self, n_classes: int, momentum: float) -> None:
        self.n_classes = n_classes
        self.momentum = momentum
        self._seen, self._varied = (np.zeros(n_classes, dtype=np.bool_) for _ in range(2))
        self._mean: Tensor | None = None
        self._variance: Tensor | None = None

    def update(self, batch: ClassStatistics, groups: Groups) -> ClassStatistics:
        """Blend a batch in; statistics of all classes seen so far."""
        first = torch.from_numpy(~self._seen[groups.numbers]).to(batch.mean.device)[:, None]
        self._seen[groups.numbers] = True
        rows = None if self._seen.all() else torch.from_numpy(np.flatnonzero(self._seen)).to(batch.mean.device)
        mean, self._mean = self._blend(self._mean, batch.mean, groups, first, rows)
        variance = None
        if batch.variance is not None:
            variance, self._variance = self._blend_variances(batch.variance, groups, rows)
        count = torch.full_like(mean[:, 0], groups.samples_per_class).detach()
        if variance is not None and not self._varied.all():
            known = torch.from_numpy(self._varied[self._seen]).to(count.device)
            count = torch.where(known, count, 1.0)  # as one sample: no variance is known
        return ClassStatistics(mean, count, variance, batch.widths)

    def _blend_variances(self, new: Tensor, groups: Groups, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Blend in the variances of classes with two samples or more; one alone says nothing of its class's."""
        kept = new.new_zeros(self.n_classes, new.shape[1]) if self._variance is None else self._variance.to(new.device)
        several = groups.count[:, None] > 1
        first = torch.from_numpy(~self._varied[groups.numbers]).to(new.device)[:, None]
        self._varied[groups.numbers[groups.counts > 1]] = True
        old = kept.index_select(0, groups.classes)
        return self._blend(kept, torch.where(several, new, old), groups, first | ~several, rows)

    def _blend(
        self, kept: Tensor | None, new: Tensor, groups: Groups, first: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        kept = new.new_zeros(self.n_classes, new.shape[1]) if kept is None else kept.to(new.device)
        old = kept.index_select(0, groups.classes)
        blended = torch.where(first, new, self.momentum * old + (1 - self.momentum) * new)
        whole = kept.index_copy(0, groups.classes, blended)
        return (whole if rows is None else whole.index_select(0, rows)), whole.detach()

    def state(self) -> dict[str, Tensor | None]:
        """What a training that goes on later needs."""
        seen, varied = (torch.from_numpy(each.copy()) for each in (self._seen, self._varied))
        return {"seen": seen, "varied": varied, "mean": self._mean, "variance": self._variance}

    def restore(self, state: dict[str, Tensor | None]) -> None:
        """Inverse of :meth:`state`.

        Raises
        ------
        ValueError
            If it is of another number of classes.
        """
        seen, varied = state["seen"], state["varied"]
        if seen is None or varied is None or len(seen) != self.n_classes:
            message = "running means of another number of classes"
            raise ValueError(message)
        self._seen, self._varied = seen.numpy().copy(), varied.numpy().copy()
        self._mean, self._variance = state["mean"], state["variance"]


def layer_means(values: Tensor, widths: Sequence[int]) -> Tensor:
    """Mean over each layer's units: (U,) with the layers side by side in, (L,) out."""
    return torch.stack([part.mean() for part in values.split(list(widths))])
