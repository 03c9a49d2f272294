"""One forward pass, watched: which modules were called, in what order, and what shapes came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.models.functional import FunctionCall, FunctionWatch


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
    """All calls in the order in which they finished, and the model's output.

    Parameters
    ----------
    calls : tuple of Call
    output : object
        What the model returned.
    functions : tuple of FunctionCall
        Nonlinearities called as functions, if they were watched.
    """

    calls: tuple[Call, ...]
    output: Any
    functions: tuple[FunctionCall, ...] = ()

    def counts(self) -> Counter[str]:
        """How often each module was called."""
        return Counter(call.layer for call in self.calls)


def trace_calls(module: nn.Module, example: Tensor, *, functions: bool = False) -> Trace:
    """Run `module` on `example` in eval mode, without gradients, and note every call of its submodules.

    Hooks and train/eval flags are put back, also on errors.

    Parameters
    ----------
    module : nn.Module
        The model, on any device, of any floating-point type.
    example : Tensor, shape (B, C, H, W)
        Brought to the model's device and type.
    functions : bool
        Watch nonlinearities that are called as functions, too.

    Raises
    ------
    ModelError
        If the model is compiled or scripted, so that hooks do not fire, or fails on the example.
    """
    refuse_hookless(module)
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    watched = FunctionWatch() if functions else None

    def watcher(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(child: nn.Module, inputs: Any, output: Any) -> None:
            if watched is not None:
                watched.leave(child, inputs, output, position=len(calls))
            counts[name] += 1
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            calls.append(Call(name, counts[name], shape))

        return watch

    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.no_grad())
        for name, child in module.named_modules():
            if name:
                stack.callback(child.register_forward_hook(watcher(name)).remove)
                if watched is not None:
                    stack.callback(child.register_forward_pre_hook(watched.enter).remove)
        if watched is not None:
            stack.enter_context(watched)
        output = run(module, example)
    return Trace(tuple(calls), output, () if watched is None else watched.found())


def run(module: nn.Module, example: Tensor) -> Any:
    """Call `module` on `example`, brought to its device and floating-point type.

    Raises
    ------
    ModelError
        If it fails.
    """
    parameters = (p for p in module.parameters() if p.is_floating_point())
    like = next(parameters, None)
    try:
        return module(example if like is None else example.to(like.device, like.dtype))
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} fails on an input of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {error}",
            fix="Is the input size the one that the model was made for?",
        ) from error


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
