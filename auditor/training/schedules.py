"""How the learning rate and alpha change while training goes on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from auditor.errors import OptionError

RATES = ("cosine", "step", "constant")
_STEPS = (0.5, 0.75)
_ALPHA = re.compile(r"(warmup|from|until):([1-9]\d*)")


def learning_rate(step: int, total: int, *, peak: float, warmup: float, schedule: str) -> float:
    """Learning rate at batch `step` of `total`.

    Parameters
    ----------
    step, total : int
        Batches of the whole training, from 0.
    peak : float
        Highest rate.
    warmup : float
        Share of the batches over which the rate rises linearly from zero.
    schedule : str
        ``cosine``: from there to zero along a cosine (Loshchilov & Hutter 2017, without restarts). ``step``: a tenth
        from half of the batches on, a hundredth from three quarters on. ``constant``.
    """
    rise = warmup * total
    if step < rise:
        return peak * (step + 1) / rise
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1)))
    if schedule == "step":
        return peak * 0.1 ** sum(step >= share * total for share in _STEPS)
    return peak


@dataclass(frozen=True)
class AlphaSchedule:
    """When the regularizer is on.

    Parameters
    ----------
    kind : str
        ``constant``; ``warmup``: rises linearly over the first `epochs` epochs and is whole from the last of them on;
        ``from``: 0 before epoch number `epochs`; ``until``: 0 from epoch number `epochs` on.
    epochs : int
        Epochs count from 1, as in the history.
    """

    kind: str = "constant"
    epochs: int = 0

    @classmethod
    def parse(cls, text: str, n_epochs: int) -> AlphaSchedule:
        """Read ``constant``, ``warmup:K``, ``from:K`` or ``until:K`` for a training of so many epochs.

        Raises
        ------
        OptionError
            If `text` has another form, or the change would lie outside of the training.
        """
        if text == "constant":
            return cls()
        match = _ALPHA.fullmatch(text)
        if match is None:
            raise OptionError(
                "An alpha schedule says when the regularizer is on.",
                wanted="constant, warmup:K, from:K or until:K with a whole number of epochs K, such as from:3",
                got=repr(text),
            )
        kind, epochs = match[1], int(match[2])
        lowest = 2 if kind == "until" else 1
        if not lowest <= epochs <= n_epochs:
            raise OptionError(
                f"The alpha schedule {text} changes nothing, or never turns alpha on, within {n_epochs} epochs.",
                wanted=f"{kind}:K with K from {lowest} to {n_epochs}" if lowest <= n_epochs else "more epochs",
                got=text,
            )
        return cls(kind, epochs)

    def share(self, epoch: int) -> float:
        """Share of alpha that counts in epoch number `epoch` (from 1)."""
        if self.kind == "warmup":
            return min(1.0, epoch / self.epochs)
        if self.kind == "from":
            return float(epoch >= self.epochs)
        if self.kind == "until":
            return float(epoch < self.epochs)
        return 1.0
