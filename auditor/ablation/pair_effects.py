"""What an ablation does to one image: four numbers for each pair of a unit and an image, and no logits kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from auditor.errors import DataError
from auditor.stats.intervals import Interval

_TYPES: dict[str, type[np.generic]] = {
    "target_logit_drop": np.float32,
    "loss_change": np.float32,
    "kl": np.float32,
    "prediction": np.int32,
}


@dataclass(frozen=True, eq=False)
class PairEffects:
    """Effects of K ablations on each of N images: 16 bytes a pair, however many outputs the network has.

    Attributes
    ----------
    target_logit_drop : ndarray of float32, shape (K, N)
        Logit of the label, intact minus ablated.
    loss_change : ndarray of float32, shape (K, N)
        Cross-entropy in nats, ablated minus intact.
    kl : ndarray of float32, shape (K, N)
        Kullback-Leibler divergence of the ablated from the intact softmax, ``sum p log(p / q)`` with p intact, in nats;
        at least 0.
    prediction : ndarray of int32, shape (K, N)
        Output with the largest ablated logit.

    Raises
    ------
    DataError
        If the arrays are not of one shape (K, N).
    """

    target_logit_drop: NDArray[np.float32]
    loss_change: NDArray[np.float32]
    kl: NDArray[np.float32]
    prediction: NDArray[np.int32]

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if len(set(shapes.values())) != 1 or self.prediction.ndim != 2:
            raise DataError("Effects must be arrays of one shape (units, images).", got=f"{shapes}")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of ablations and of images."""
        return self.prediction.shape[0], self.prediction.shape[1]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays by name, for an ``.npz`` block."""
        return {name: getattr(self, name) for name in _TYPES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PairEffects:
        """Effects from arrays by name, each of shape (K, N); other names are left alone.

        Raises
        ------
        DataError
            If an array is missing, or the shapes differ.
        """
        missing = [name for name in _TYPES if name not in arrays]
        if missing:
            raise DataError("Effects are incomplete.", wanted=", ".join(_TYPES), got=f"no {', '.join(missing)}")
        return cls(**{name: np.asarray(arrays[name], dtype=kind) for name, kind in _TYPES.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[PairEffects], axis: int) -> PairEffects:
        """Join effects of other units (`axis` 0) or on other images (`axis` 1).

        Raises
        ------
        DataError
            If there are no parts.
        """
        if not parts:
            raise DataError("There are no effects to join.")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts], axis=axis) for name in _TYPES})


def pair_effects(intact: Tensor, ablated: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Effects of M ablated passes, each beside its own intact one.

    Equal logits give exactly 0, so pairs in which a unit is silent anyway need not be computed.

    Parameters
    ----------
    intact, ablated : Tensor
        Shape (M, outputs), of any floating type, on one device.
    labels : Tensor
        Shape (M,), integers.

    Returns
    -------
    dict of str to Tensor
        The fields of :class:`PairEffects`, each of shape (M,), on the same device: ``target_logit_drop``,
        ``loss_change``, ``kl`` in float32, ``prediction`` in int32 (the first of equal logits). Computed in float64,
        since a small effect is the difference of two nearly equal numbers; in float32 where the device has no float64.

    Raises
    ------
    DataError
        If the shapes do not fit.
    """
    if intact.shape != ablated.shape or intact.ndim != 2 or labels.shape != intact.shape[:1]:
        raise DataError(
            "Each ablated pass needs its intact logits and its label.",
            wanted="shapes (M, outputs), (M, outputs) and (M,)",
            got=f"{tuple(intact.shape)}, {tuple(ablated.shape)} and {tuple(labels.shape)}",
        )
    kind = torch.float32 if intact.device.type == "mps" else torch.float64
    # Equal values must be summed in equal order to give equal results: that takes equal memory layouts.
    before, after = intact.detach().contiguous(), ablated.detach().contiguous()
    log_p, log_q = (torch.log_softmax(logits, -1, dtype=kind) for logits in (before, after))
    index = labels.long()[:, None]
    drop = before.gather(1, index).to(kind) - after.gather(1, index).to(kind)
    loss = log_p.gather(1, index) - log_q.gather(1, index)
    p = log_p.exp()
    # Outputs of probability 0 (logits of minus infinity) add nothing, and would add 0 * inf.
    kl = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)
    return {
        "target_logit_drop": drop[:, 0].float(),
        "loss_change": loss[:, 0].float(),
        "kl": kl.clamp(min=0).float(),
        "prediction": after.argmax(-1).int(),
    }


@dataclass(frozen=True, eq=False)
class ByClass:
    """Images sorted by class, so that sums over each class are sums over runs.

    Attributes
    ----------
    order : ndarray of int64, shape (N,)
        Images, those of one class side by side.
    starts, sizes : ndarray of int64, shape (P,)
        Where the images of each class present begin in `order`, and how many they are.
    present : ndarray of int64, shape (P,)
        Classes with images, ascending.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    present: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.integer]) -> ByClass:
        """Group images by label, shape (N,)."""
        present, starts, sizes = np.unique(np.sort(labels), return_index=True, return_counts=True)
        return cls(np.argsort(labels, kind="stable"), starts, present.astype(np.int64), sizes)

    def discordant(
        self, before: NDArray[np.bool_], after: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Images that became right and that became wrong, shape (K, classes present)."""
        first, then = before[self.order], after[:, self.order]
        gained: NDArray[np.int64] = np.add.reduceat(then & ~first, self.starts, axis=1, dtype=np.int64)
        lost: NDArray[np.int64] = np.add.reduceat(~then & first, self.starts, axis=1, dtype=np.int64)
        return gained, lost

    def means(self, values: NDArray[np.floating], confidence: float) -> Interval:
        """Means over each class with paired t intervals, shape (K, classes present)."""
        ordered = values[:, self.order].astype(np.float64)
        mean = np.add.reduceat(ordered, self.starts, axis=1) / self.sizes
        ordered -= np.repeat(mean, self.sizes, axis=1)
        squares = np.add.reduceat(ordered**2, self.starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            half = stdtrit(self.sizes - 1, (1 + confidence) / 2) * np.sqrt(squares / (self.sizes - 1) / self.sizes)
        return Interval(mean, mean - half, mean + half)
