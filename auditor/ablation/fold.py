"""A faster copy of a model that computes the same: batch norms folded into convolutions, channels last."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from auditor.ablation.flow import Flow
from auditor.models.trace import evaluating

_CONVOLUTIONS = ("Conv2dSame", "Conv2dAligned")
"""timm's classes whose forward pass uses the weight as it is; weight-standardised convolutions, for one, do not."""


def folded_copy(model: nn.Module, example: Tensor, keep: Collection[str]) -> tuple[nn.Module, int]:
    """Copy `model` in eval mode without gradients, with batch norms folded wherever that is known to be right.

    A batch norm is folded into a convolution if each is called once in a forward pass, the convolution's output goes
    into the batch norm and nowhere else, and neither is shared.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor, shape (B, C, H, W)
    keep : collection of str
        Layers whose output is of interest, so that they must keep it.

    Returns
    -------
    module : nn.Module
        Its submodules have the names they had.
    folded : int
        How many batch norms.
    """
    module = copy.deepcopy(model).eval().requires_grad_(False)
    pairs = _foldable(module, example, keep)
    modules = dict(module.named_modules())
    for conv_name, norm_name in pairs:
        conv, norm = modules[conv_name], modules[norm_name]
        assert isinstance(conv, nn.Conv2d)
        conv.weight, conv.bias = _fused(conv, norm)
        _take_out(module, norm_name, norm)
    return module, len(pairs)


def _fused(conv: nn.Conv2d, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    def exact(tensor: Any) -> Any:
        return None if tensor is None else tensor.detach().double()

    weight, bias = fuse_conv_bn_weights(
        exact(conv.weight), exact(conv.bias), exact(norm.running_mean), exact(norm.running_var), norm.eps,
        exact(norm.weight), exact(norm.bias),
    )  # fmt: skip
    dtype = conv.weight.dtype
    return nn.Parameter(weight.to(dtype), requires_grad=False), nn.Parameter(bias.to(dtype), requires_grad=False)


def _take_out(module: nn.Module, name: str, norm: Any) -> None:
    """Leave of a batch norm what comes after the normalisation: timm's have dropout and the nonlinearity inside."""
    parent, _, own = name.rpartition(".")
    rest: nn.Module = nn.Identity()
    if type(norm).__name__ != "BatchNorm2d":
        rest = _After()
        rest.drop, rest.act = norm.drop, norm.act
    setattr(module.get_submodule(parent), own, rest.eval())


class _After(nn.Module):
    """What timm's ``BatchNormAct2d`` does after normalising."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(x))
        return output


def _is_norm(module: nn.Module) -> bool:
    known = type(module) is nn.BatchNorm2d or _is_timm(module, "BatchNormAct2d")
    return known and getattr(module, "running_mean", None) is not None and not _is_hooked(module)


def _is_timm(module: nn.Module, *names: str) -> bool:
    return type(module).__name__ in names and type(module).__module__.startswith("timm.")


def _is_hooked(module: nn.Module) -> bool:
    """Whether its weights may be made anew at each call, or its output changed."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_convolution(module: nn.Module) -> bool:
    known = type(module) is nn.Conv2d or (isinstance(module, nn.Conv2d) and _is_timm(module, *_CONVOLUTIONS))
    return known and not _is_hooked(module)


def _foldable(module: nn.Module, example: Tensor, keep: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of a convolution and the batch norm that alone reads its output."""
    named = [(name, child) for name, child in module.named_modules() if name]
    counts: Counter[str] = Counter()
    made: dict[int, tuple[str, int]] = {}
    pairs: dict[str, str] = {}
    readers = _Readers()

    def after_convolution(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            counts[name] += 1
            made[id(output)] = (name, output._version)
            readers.watch(name, output)

        return hook

    def before_norm(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, args: Any) -> None:
            counts[name] += 1
            conv, version = made.get(id(args[0]), ("", 0)) if args else ("", 0)
            if conv and version == args[0]._version:
                pairs[conv] = name

        return hook

    def after_kept(_module: nn.Module, _args: Any, output: Any) -> None:
        # A block that ends in a convolution, or an identity after one, returns what the convolution made.
        readers.read(output)

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(module))
        for name, child in named:
            if _is_convolution(child) and name not in keep:
                stack.callback(child.register_forward_hook(after_convolution(name)).remove)
            elif _is_norm(child):
                stack.callback(child.register_forward_pre_hook(before_norm(name)).remove)
            if name in keep:
                stack.callback(child.register_forward_hook(after_kept).remove)
        stack.enter_context(readers)
        module(example.clone(memory_format=torch.preserve_format))
    shared = Counter(
        id(p) for _, child in module.named_modules(remove_duplicate=False) for p in child._parameters.values()
    )
    modules = dict(named)

    def alone(name: str) -> bool:
        return counts[name] == 1 and all(
            shared[id(p)] == 1 for p in modules[name]._parameters.values() if p is not None
        )

    return [(conv, norm) for conv, norm in pairs.items() if alone(conv) and alone(norm) and readers.count(conv) == 1]


class _Readers(Flow):
    """Counts the operations that read what convolutions made."""

    def __init__(self) -> None:
        super().__init__()
        self._bits: dict[str, int] = {}
        self._read: Counter[int] = Counter()

    def watch(self, name: str, output: Tensor) -> None:
        self._bits[name] = 1 << len(self._bits)
        self.mark(output, self._bits[name])

    def read(self, value: Any) -> None:
        bits = self.marks(value)
        while bits:
            lowest = bits & -bits
            self._read[lowest] += 1
            bits ^= lowest

    def count(self, name: str) -> int:
        return self._read[self._bits[name]]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.read((args, kwargs or {}))
        return func(*args, **(kwargs or {}))
