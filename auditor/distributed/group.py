"""The process group of training: sums over ranks that gradients pass through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from auditor.distributed.joining import FOREVER
from auditor.distributed.world import World


def open_group(world: World) -> None:
    """Connect the ranks with each other: NCCL for tensors on GPUs, gloo for others. Does nothing the second time."""
    if not world.several or distributed.is_initialized():
        return
    world.at("connecting the ranks")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=distributed.PrefixStore("group", world.store),
        rank=world.rank,
        world_size=world.size,
        timeout=FOREVER,
    )


class _SumOverRanks(torch.autograd.Function):
    """Sum in both directions.

    What every rank computes from a sum depends on what each has put in, so the gradient of the ranks' losses together
    is the sum of the gradients that come back.
    """

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, the same on each; differentiable as the sum of all ranks' losses is."""
    total: Tensor = _SumOverRanks.apply(value)
    return total
