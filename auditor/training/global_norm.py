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
    found: Tensor = _Normalize.apply(images, weight, bias, mean, variance, count, n_real, eps)
    return found


class _Normalize(torch.autograd.Function):
    """The affine map, and a gradient that knows that mean and variance are those of all ranks' images.

    Both ways go through torch's own kernel for fixed statistics; what the gradient then lacks is added.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        n_real: int,
        eps: float,
    ) -> Tensor:
        kind = _wide(images) if weight is None else weight.dtype
        mean, variance = mean.to(kind), variance.to(kind)
        ctx.save_for_backward(images, weight, mean, variance, count)
        ctx.n_real, ctx.eps, ctx.shifted = n_real, eps, bias is not None
        found: Tensor = torch.native_batch_norm(images, weight, bias, mean, variance, False, 0.0, eps)[0]
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance, count = ctx.saved_tensors
        n = ctx.n_real
        into, crossed, plain = _fixed_gradient(gradients[0], images, weight, mean, variance, ctx.eps)
        if n < len(images):  # a ghost has no part in mean and variance
            crossed, plain = torch.zeros_like(crossed), torch.zeros_like(plain)
        total = torch.stack([plain, crossed]).double()
        distributed.all_reduce(total)
        mean_plain, mean_crossed = total / count
        # With z = (x - mean) * scale: dx = slope * (dy - mean of dy - z * mean of dy * z); the first term is there.
        scale = (variance + ctx.eps).rsqrt()
        slope = scale if weight is None else scale * weight
        steep = slope * scale * mean_crossed
        into[:n].sub_(_spread(slope * mean_plain - steep * mean, images).to(into.dtype))
        into[:n].addcmul_(images[:n], _spread(steep, images).to(into.dtype), value=-1)
        # The parameters' gradients stay local: they are added up over ranks with all others.
        parameters = (None if weight is None else crossed, plain if ctx.shifted else None)
        return into, *parameters, None, None, None, None, None


def _fixed_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to images, weight and bias of a batch norm whose mean and variance are given."""
    slope = torch.ones_like(mean) if weight is None else weight
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        gradient.contiguous(), images, slope, mean, variance, None, None, False, eps, [True, True, True]
    )
    return found


def _moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (``ddof=0``) of each channel over all ranks' images, in float64, and how many values each has.

    The ranks' own moments are merged by the formula of Chan, Golub & LeVeque (1983), which loses no digits where means
    are large.
    """
    n = images.numel() // max(images.shape[1], 1)
    if n:
        mean, variance = torch.ops.aten.batch_norm_update_stats(images.to(_wide(images)), None, None, 0.0)
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


def _spread(channels: Tensor, images: Tensor) -> Tensor:
    """A number per channel, to be broadcast over images of any number of axes."""
    return channels.view(1, -1, *([1] * (images.ndim - 2)))


def _wide(images: Tensor) -> torch.dtype:
    return images.dtype if images.dtype.itemsize >= 4 else torch.float32
