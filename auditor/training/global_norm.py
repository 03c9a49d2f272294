"""Batch normalization over the images of all ranks.

A batch norm that sees a rank's images alone learns something else than that of one process, and gives other gradients.
torch's SyncBatchNorm runs on GPUs only and replaces modules; here whatever calls ``batch_norm`` in training is caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class GlobalBatchNorm(TorchFunctionMode):
    """Inside the block, batch norms in training take their statistics from the images of all ranks.

    That holds for modules of every library and for calls of the function. Each call is one exchange of two numbers per
    channel, and one more in the backward pass; ranks must make the same calls in the same order. Running statistics
    are updated as torch does it for the whole batch.

    Parameters
    ----------
    ghost : bool
        Whether this rank's images are there for their shape only: they are normalized, and count nowhere.
    """

    def __init__(self, *, ghost: bool) -> None:
        super().__init__()
        self._ghost = ghost

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Catch the calls that matter."""
        named = kwargs or {}
        if func is functional.batch_norm:
            return self._functional(*args, **named)
        if func is torch.batch_norm:
            return self._native(*args, **named)
        return func(*args, **named)

    def _functional(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return normalize(input, running_mean, running_var, weight, bias, momentum=momentum, eps=eps, ghost=self._ghost)

    def _native(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool = True,
    ) -> Tensor:
        if not training:
            return torch.batch_norm(
                input, weight, bias, running_mean, running_var, False, momentum, eps, cudnn_enabled
            )  # fmt: skip
        return normalize(input, running_mean, running_var, weight, bias, momentum=momentum, eps=eps, ghost=self._ghost)


def normalize(
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    momentum: float,
    eps: float,
    ghost: bool,
) -> Tensor:
    """Batch norm of (B, C, ...) with the mean and the variance of all ranks' images; see :class:`GlobalBatchNorm`."""
    n_real = 0 if ghost else len(images)
    mean, variance, count = _moments(images.detach()[:n_real])
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(running_var.dtype), momentum)
    if weight is None:
        weight = torch.ones_like(mean, dtype=_wide(images))
    if bias is None:
        bias = torch.zeros_like(weight)
    found: Tensor = _Normalize.apply(images, weight, bias, mean, (variance + eps).rsqrt(), count, n_real)
    return found


class _Normalize(torch.autograd.Function):
    """The affine map, and a gradient that knows that mean and variance are those of all ranks' images."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, count: Tensor, n_real: int
    ) -> Tensor:
        ctx.save_for_backward(images, weight, mean, scale, count)
        ctx.n_real = n_real
        slope = scale * weight
        return _affine(images, slope, bias - mean * slope).to(images.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        gradient, n = gradients[0].to(_wide(images)), ctx.n_real
        real, axes = gradient[:n], _other_axes(images)
        # With z = (x - mean) * scale: local sums of dy and of dy * z.
        plain, crossed = real.sum(axes), (real * _affine(images[:n], scale, -mean * scale)).sum(axes)
        total = torch.stack([plain, crossed]).double()
        distributed.all_reduce(total)
        mean_plain, mean_crossed = total / count
        slope = scale * weight
        # dx = slope * (dy - mean of dy - z * mean of dy * z); a ghost has no part in mean and variance.
        into = gradient * _spread(slope, images)
        into[:n] -= _affine(
            images[:n], slope * scale * mean_crossed, slope * (mean_plain - mean * scale * mean_crossed)
        )
        # The parameters' gradients stay local: they are added up over ranks with all others.
        return into.to(images.dtype), crossed.to(weight.dtype), plain.to(weight.dtype), None, None, None, None


def _moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (``ddof=0``) of each channel over all ranks' images, in float64, and how many values each has.

    The ranks' own moments are merged by the formula of Chan, Golub & LeVeque (1983), which loses no digits where means
    are large.
    """
    axes = _other_axes(images)
    n = images.numel() // max(images.shape[1], 1)
    if n:
        variance, mean = torch.var_mean(images.to(_wide(images)), dim=axes, correction=0)
    else:
        variance = mean = images.new_zeros(images.shape[1], dtype=_wide(images))
    mine = torch.cat([mean.double(), variance.double(), mean.new_full((1,), n, dtype=torch.float64)])
    found = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, mine)
    every = torch.stack(found)
    width, share = len(mean), every[:, -1:]
    count = share.sum()
    means, variances = every[:, :width], every[:, width:-1]
    grand = (share * means).sum(0) / count
    return grand, (share * (variances + (means - grand).square())).sum(0) / count, count


def _affine(images: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(_spread(shift, images), images.to(_wide(images)), _spread(slope, images))


def _spread(channels: Tensor, images: Tensor) -> Tensor:
    """A number per channel, to be broadcast over images of any number of axes."""
    return channels.to(_wide(images)).view(1, -1, *([1] * (images.ndim - 2)))


def _wide(images: Tensor) -> torch.dtype:
    return images.dtype if images.dtype.itemsize >= 4 else torch.float32


def _other_axes(images: Tensor) -> list[int]:
    return [axis for axis in range(images.ndim) if axis != 1]
