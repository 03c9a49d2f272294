"""White-box attacks on pixels in [0, 1] within a ball of the maximum norm, through ``captum.robust``.

The loss that is climbed is the log odds against the label, ``logsumexp(z_j, j != y) - z_y``. Its gradient is that of
the cross-entropy divided by ``1 - p_y``: the sign, which is all that FGSM and PGD use, is the same, but it does not
vanish where the network is so sure that the cross-entropy's gradient is lost to rounding, or to Captum's threshold of
1e-6.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import DataError, OptionError

STEP_SHARE = 0.25
"""PGD's step as a share of epsilon."""
ACROSS = 8
"""Steps that cross the whole ball, wherever the start was; fewer may not reach what FGSM reaches."""


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """``logsumexp`` of the other logits minus the label's.

    Parameters
    ----------
    logits : Tensor
        Shape (B, outputs), two outputs at least.
    labels : Tensor
        Shape (B,), int64.

    Returns
    -------
    Tensor
        Shape (B,).
    """
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return others - logits[own]


def fgsm(model: nn.Module, pixels: Tensor, labels: Tensor, epsilons: Sequence[float]) -> Iterator[Tensor]:
    """Fast gradient sign method (Goodfellow et al. 2015): ``clip(x + epsilon * sign(gradient of the loss))``.

    Parameters
    ----------
    model : nn.Module
        From pixels to logits.
    pixels : Tensor
        Shape (B, C, H, W), in [0, 1].
    labels : Tensor
        Shape (B,), int64.
    epsilons : sequence of float
        Radii, as shares of the range of pixels.

    Yields
    ------
    Tensor
        Shape of `pixels`, in [0, 1]; one for each epsilon, all from one gradient.

    Raises
    ------
    OptionError
        If an epsilon is negative.
    DataError
        If the pixels are not in [0, 1].
    """
    from captum.robust import FGSM  # slow to import

    _check(pixels, epsilons)
    attack = FGSM(model, loss_func=log_odds)
    attack.zero_thresh = 0.0
    # The gradient does not depend on epsilon: a step of 1 shows its sign.
    with _quiet():
        direction = (attack.perturb(pixels, 1.0, labels).detach() - pixels).round()
    for epsilon in epsilons:
        yield (pixels + epsilon * direction).clamp(0, 1).detach()


def pgd(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: Sequence[int],
    seeds: Sequence[int] | None,
    step: float | None = None,
) -> dict[int, Tensor]:
    """Projected gradient descent in the maximum norm (Madry et al. 2018); the last iterate, as in Captum.

    Parameters
    ----------
    model, pixels, labels
        As for :func:`fgsm`.
    epsilon : float
        Radius, as a share of the range of pixels.
    steps : sequence of int
        Numbers of steps. The path to the largest passes through the others, so it is walked once.
    seeds : sequence of int or None
        One per image, for a start drawn uniformly from the ball, on the CPU: it depends neither on the batch nor on the
        device. None starts at the image.
    step : float, optional
        Size of a step, default ``epsilon / 4``.

    Returns
    -------
    dict of int to Tensor
        For each number of steps, pixels in [0, 1] and within `epsilon` of those given.

    Raises
    ------
    OptionError
        If epsilon is negative or a number of steps is not positive.
    DataError
        If the pixels are not in [0, 1] or there is not one seed for each image.
    """
    from captum.robust import PGD  # slow to import

    _check(pixels, [epsilon])
    if not steps or min(steps) < 1:
        raise OptionError("PGD needs at least one step.", got=", ".join(map(str, steps)) or "none")
    if seeds is not None and len(seeds) != len(pixels):
        raise DataError("Every image needs a seed.", wanted=f"{len(pixels)}", got=f"{len(seeds)}")
    start = None if seeds is None else random_start(pixels, epsilon, seeds)
    path = _Path(start, steps)
    attack = PGD(model, loss_func=log_odds)
    attack.bound = path
    attack.fgsm.zero_thresh = 0.0
    devices = [pixels.device] if pixels.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _quiet():
        attack.perturb(
            pixels,
            radius=epsilon,
            step_size=STEP_SHARE * epsilon if step is None else step,
            step_num=max(steps),
            target=labels,
            random_start=start is not None,
        )
    return path.kept


def random_start(pixels: Tensor, epsilon: float, seeds: Sequence[int]) -> Tensor:
    """Points drawn uniformly from the balls around `pixels`, clipped to [0, 1]; one seed for each image."""
    drawn = [torch.rand(pixels.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    noise = torch.stack(drawn) if drawn else torch.empty(pixels.shape)
    return (pixels + epsilon * (2 * noise - 1).to(pixels)).clamp(0, 1)


class _Path:
    """Captum's bound on pixels, which it applies to the start and after each step: a place to watch the path.

    Captum draws the start from the global generator, for the batch as a whole; `start` takes its place.
    """

    def __init__(self, start: Tensor | None, steps: Sequence[int]) -> None:
        self._start = start
        self._steps = frozenset(steps)
        self._done = -1 if start is not None else 0
        self.kept: dict[int, Tensor] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        self._done += 1
        if self._done == 0 and self._start is not None:
            return self._start
        bounded = pixels.clamp(0, 1)
        if self._done in self._steps:
            self.kept[self._done] = bounded.detach()
        return bounded


@contextmanager
def _quiet() -> Iterator[None]:
    """Captum warns that it sets ``requires_grad`` for a while, at every step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input Tensor .* did not already require gradients")
        yield


def _check(pixels: Tensor, epsilons: Sequence[float]) -> None:
    wrong: Any = next((e for e in epsilons if not 0 <= e <= 1), None)
    if wrong is not None:
        raise OptionError("Epsilon is a share of the range of pixels.", wanted="0 to 1, such as 2/255", got=str(wrong))
    if len(pixels) and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):
        raise DataError(
            "Attacks work on pixels.",
            wanted="pixels in [0, 1], with the normalisation inside the model",
            got=f"{float(pixels.min()):.3g} to {float(pixels.max()):.3g}",
        )
