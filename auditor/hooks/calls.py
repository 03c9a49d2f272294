"""Run an action on chosen calls of chosen modules, and leave no trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.units import Site

Action = Callable[[Site, Tensor], Tensor | None]


@contextmanager
def on_calls(model: nn.Module, sites: Sequence[Site], action: Action) -> Iterator[None]:
    """Call ``action(site, output)`` at every site of every forward pass inside the block.

    Parameters
    ----------
    model : torch.nn.Module
        The module that will be called; calls are counted anew at each of its forward passes.
    sites : sequence of Site
        Calls of layers. A module called twice is told apart by ``site.call``.
    action : callable
        Gets the site and the module's output; a returned tensor replaces the output.

    Raises
    ------
    UnknownNameError, ModelError
        If a site's layer is not in the model, or its output is not a tensor.
    """
    wanted: dict[str, dict[int, Site]] = defaultdict(dict)
    for site in sites:
        wanted[site.layer][site.call] = site
    modules = dict(model.named_modules())
    missing = [layer for layer in wanted if layer not in modules]
    if missing:
        raise ModelError(
            f"The model has no layer {missing[0]!r}.",
            fix="The sites were made for another model; profile this one first.",
        )
    seen: Counter[str] = Counter()

    def restart(_module: nn.Module, _args: Any) -> None:
        seen.clear()

    def visit(layer: str) -> Callable[[nn.Module, Any, Any], Any]:
        by_call = wanted[layer]

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            seen[layer] += 1
            site = by_call.get(seen[layer])
            if site is None:
                return None
            if not isinstance(output, Tensor):
                raise ModelError(
                    f"Layer {layer!r} returns {type(output).__name__}, not a tensor.",
                    fix="Choose layers whose output is one tensor (`auditor layers --model M` lists them).",
                )
            return action(site, output)

        return hook

    handles = [model.register_forward_pre_hook(restart)]
    try:
        handles += [modules[layer].register_forward_hook(visit(layer)) for layer in wanted]
        yield
    finally:
        for handle in handles:
            handle.remove()
