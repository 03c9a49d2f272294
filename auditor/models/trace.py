"""One forward pass, watched: which modules were called, in what order, and what shapes came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import ModelError


@dataclass(frozen=True)
class Call:
    """One call of one module.

    Parameters
    ----------
    layer : str
        Dotted module name.
    number : int
        Which call of this module, from 1.
    shape : tuple of int or None
        Output shape with the batch axis; None if the output is not a tensor.
    """

    layer: str
    number: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Trace:
    """All calls in the order in which they finished, and the model's output."""

    calls: tuple[Call, ...]
    output: Any

    def counts(self) -> Counter[str]:
        """How often each module was called."""
        return Counter(call.layer for call in self.calls)


def trace_calls(module: nn.Module, example: Tensor) -> Trace:
    """Run `module` on `example` in eval mode, without gradients, and note every call of its submodules.

    Hooks and train/eval flags are put back, also on errors.

    Raises
    ------
    ModelError
        If the model is compiled or scripted, so that hooks do not fire, or fails on the example.
    """
    refuse_hookless(module)
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    handles = []

    def watcher(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            counts[name] += 1
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            calls.append(Call(name, counts[name], shape))

        return watch

    with evaluating(module), torch.no_grad():
        try:
            for name, child in module.named_modules():
                if name:
                    handles.append(child.register_forward_hook(watcher(name)))
            try:
                output = module(example)
            except Exception as error:
                raise ModelError(
                    f"{type(module).__name__} fails on an input of shape {tuple(example.shape)}: "
                    f"{type(error).__name__}: {error}",
                    fix="Is the input size the one that the model was made for?",
                ) from error
        finally:
            for handle in handles:
                handle.remove()
    return Trace(tuple(calls), output)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode for a while; every submodule then gets its own flag back."""
    flags = [(child, child.training) for child in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for child, training in flags:
            child.training = training


def refuse_hookless(module: nn.Module) -> None:
    """Raise a ModelError for a model inside which hooks do not fire."""
    for child in module.modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise ModelError(
                "A scripted model cannot be measured: hooks do not fire inside it.",
                fix="Give the model from before torch.jit.script or torch.jit.trace.",
            )
        if type(child).__name__ == "OptimizedModule":
            raise ModelError(
                "A compiled model cannot be measured: torch.compile ignores hooks that are added later.",
                fix="Give the model from before torch.compile (its `_orig_mod`).",
            )
