"""What a forward pass takes, exactly: operations, units and bytes, and how much of it depends on which layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from auditor.ablation.plan import record_calls
from auditor.hooks.intercept import Call, intercepted
from auditor.models.trace import evaluating
from auditor.units import Site


@dataclass(frozen=True)
class Counts:
    """Sizes of a network on images of one size.

    Attributes
    ----------
    sites : tuple of Site
        In network order.
    forward : int
        Floating-point operations of one image: those of convolutions, linear layers, matrix products and attention,
        two for each multiply-add, as :class:`torch.utils.flop_counter.FlopCounterMode` counts them.
    calls : tuple of (int, int)
        For each module call the sites that its output depends on, as bits, and its own operations for one image.
    weights : int
        Bytes of parameters and buffers.
    kept : int
        Bytes that a training step keeps of one image for its backward pass.
    image : int
        Bytes of one preprocessed image.
    n_outputs : int
    """

    sites: tuple[Site, ...]
    forward: int
    calls: tuple[tuple[int, int], ...]
    weights: int
    kept: int
    image: int
    n_outputs: int

    @property
    def n_units(self) -> int:
        """Units of all sites."""
        return sum(site.n_units for site in self.sites)

    def after(self, names: Iterable[str]) -> int:
        """Operations of one image that depend on any of some sites: what changes with them has to run again."""
        bits = {site.name: 1 << number for number, site in enumerate(self.sites)}
        mask = 0
        for name in names:
            mask |= bits[name]
        return sum(own for touched, own in self.calls if touched & mask)

    def table(self) -> pd.DataFrame:
        """One row per site: ``site``, ``kind``, ``n_units``, ``shape``, ``operations_after`` and ``share_after``."""
        after = [self.after([site.name]) for site in self.sites]
        return pd.DataFrame(
            {
                "site": [site.name for site in self.sites],
                "kind": [site.kind for site in self.sites],
                "n_units": [site.n_units for site in self.sites],
                "shape": ["x".join(map(str, site.shape)) for site in self.sites],
                "operations_after": after,
                "share_after": [value / max(1, self.forward) for value in after],
            }
        )


def count(module: nn.Module, images: Tensor, sites: Sequence[Site]) -> Counts:
    """Run a network on two images and count.

    Parameters
    ----------
    module : torch.nn.Module
        Left as it is.
    images : Tensor, shape (2, C, H, W)
    sites : sequence of Site

    Raises
    ------
    ModelError
        If one of the sites is not called.
    """
    with evaluating(module):
        touched = {record.call: record.touched for record in record_calls(module, images, sites)}
        own, total, n_outputs = _operations(module, images)
        kept = _kept(module, images)
    n = len(images)
    tensors = [*module.parameters(), *module.buffers()]
    return Counts(
        tuple(sites),
        total // n,
        tuple((touched.get(call, 0), operations // n) for call, operations in own.items() if operations),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        kept // n,
        images[0].numel() * images.element_size(),
        n_outputs,
    )


def _operations(module: nn.Module, images: Tensor) -> tuple[dict[Call, int], int, int]:
    """Operations of each call without the calls inside it, those of all, and the number of outputs."""
    found: dict[Call, int] = {}
    inside = [0]

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        before = counter.get_total_flops()
        inside.append(0)
        output = forward(*args, **kwargs)
        mine = counter.get_total_flops() - before
        found[call] = mine - inside.pop()
        inside[-1] += mine
        return output

    names = [name for name, _ in module.named_modules() if name]
    # Fused attention is counted by none of the tables on a CPU, and fused layers pass their modules by.
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        intercepted(module, names, visit),
    ):
        logits = module(images.clone())
    return found, counter.get_total_flops(), int(logits.shape[1])


def _kept(module: nn.Module, images: Tensor) -> int:
    """Bytes of what autograd keeps for a backward pass, weights left out, each memory once."""
    weights = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
    seen: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # freed memory would be given out again and counted once for two
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        module(images.clone())
    return sum(seen.values())
