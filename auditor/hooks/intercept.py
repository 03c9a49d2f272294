"""Stand between a model and its modules: decide at every call whether a module runs and what it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from auditor.errors import ModelError

Call = tuple[str, int]
"""A module's dotted name and which call of it in one forward pass, from 1."""

Visit = Callable[[Call, nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def intercepted(model: nn.Module, layers: Iterable[str], visit: Visit) -> Iterator[Counter[str]]:
    """Route the calls of some modules through ``visit(call, module, forward, args, kwargs)``.

    What `visit` returns is the module's output; it may or may not run ``forward(*args, **kwargs)``. A forward hook can
    change an output but cannot spare the computation, so the modules' ``forward`` is swapped for the block. As with
    hooks, only calls of a module count, not direct uses of its ``forward``.

    Parameters
    ----------
    model : torch.nn.Module
        The module that will be called; calls are counted anew at each of its forward passes.
    layers : iterable of str
        Modules to stand before; the others run as they are.
    visit : callable

    Yields
    ------
    Counter of str
        Calls so far in the running forward pass, by module. A visitor that spares a module which contains others adds
        the calls that those would have had.

    Raises
    ------
    ModelError
        If a layer is not in the model.
    """
    modules = dict(model.named_modules())
    wanted = list(layers)
    missing = sorted(name for name in wanted if name not in modules)
    if missing:
        raise ModelError(
            f"The model has no layer {missing[0]!r}.",
            fix="The sites were made for another model; profile this one first.",
        )
    counts: Counter[str] = Counter()
    called: set[str] = set()

    def restart(_module: nn.Module, _args: Any) -> None:
        counts.clear()
        called.clear()

    def announce(name: str) -> Callable[[nn.Module, Any], None]:
        # A hook also keeps torch's fused transformer layers from passing their submodules by.
        return lambda _module, _args: called.add(name)

    def stand_in(name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name not in called:
                return forward(*args, **kwargs)
            called.remove(name)
            counts[name] += 1
            return visit((name, counts[name]), module, forward, args, kwargs)

        return call

    handles = [model.register_forward_pre_hook(restart)]
    own: list[tuple[nn.Module, Any]] = []
    try:
        for name in wanted:
            module = modules[name]
            handles.append(module.register_forward_pre_hook(announce(name)))
            own.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = stand_in(name, module, module.forward)
        yield counts
    finally:
        for module, forward in reversed(own):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward
        for handle in handles:
            handle.remove()
