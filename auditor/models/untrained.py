"""The same architecture before it learned anything."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def untrained_copy(module: nn.Module, batches: Iterable[Tensor], *, seed: int) -> nn.Module:
    """Copy a model with weights drawn anew and batch statistics of its own.

    Layers draw their weights as their class does when it is made (``reset_parameters``). Parameters that belong to no
    such layer (class tokens, position embeddings) keep their values in random order, so that their scale stays. The
    running statistics of batch norms are then taken from `batches`: with those of the trained network, or with none,
    the responses of deep random networks vanish or explode, which would make any network look better than they.

    Parameters
    ----------
    module : nn.Module
        Left as it is.
    batches : iterable of Tensor
        Images, shape (B, C, H, W), on the model's device.
    seed : int
        Of the weights; the caller's random state is left as it was.

    Returns
    -------
    nn.Module
        In eval mode.
    """
    copied = copy.deepcopy(module).requires_grad_(False)
    cuda = sorted({p.device.index or 0 for p in copied.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed, which would seed devices whose state is not given back.
        torch.random.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        renewed: set[int] = set()
        for child in copied.modules():
            reset = getattr(child, "reset_parameters", None)
            if callable(reset):
                reset()
                renewed.update(id(p) for p in child.parameters(recurse=False))
        for parameter in copied.parameters():
            if id(parameter) not in renewed and parameter.numel() > 1:
                order = torch.randperm(parameter.numel(), device=parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        _calibrate(copied, batches)
    return copied.eval()


def _calibrate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm) and child.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # averages over all batches
        norm.train()
    for images in batches:
        if len(images) > 1:
            module(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
