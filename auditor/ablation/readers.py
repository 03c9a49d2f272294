"""How strongly a unit is read: the norm of the weights that its response is multiplied with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from auditor.hooks.calls import on_calls
from auditor.hooks.intercept import Call, intercepted
from auditor.units import Site


@torch.no_grad()
def output_norms(model: nn.Module, sites: Sequence[Site], images: Tensor) -> dict[str, Tensor | None]:
    """Euclidean norm of all weights that read each unit.

    A convolution or linear layer reads a unit if a change of that unit alone reaches it in the same channel of its
    input, through pooling to one position, addition or normalisation by constants, before any other such layer. Give a
    model with batch norms folded into convolutions: their scales are then part of the weights.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    sites : sequence of Site
    images : Tensor, shape (B, C, H, W)
        Examples of the input.

    Returns
    -------
    dict of str to Tensor or None
        Shape (n_units,) by site; None where what reads the units mixes them first, or nothing does.
    """
    readers: dict[str, nn.Module] = {
        name: child for name, child in model.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)
    }
    intact: dict[Call, tuple[Tensor, Any]] = {}

    def keep(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        intact[call] = args[0].clone(), output.clone()
        return output

    with intercepted(model, readers, keep):
        model(images.clone())
    return {site.name: _norms(model, site, images, readers, intact) for site in sites}


def _norms(
    model: nn.Module,
    site: Site,
    images: Tensor,
    readers: dict[str, nn.Module],
    intact: dict[Call, tuple[Tensor, Any]],
) -> Tensor | None:
    first, last = (_reached(model, site, unit, images, readers, intact) for unit in (0, site.n_units - 1))
    if not first or first.keys() != last.keys() or not all((first | last).values()):
        return None
    # Unit 0 and the last one are read by the same layers, each in its own channel: so are those between.
    squares = [_squares(readers[layer]) for layer, _ in first]
    return torch.stack(squares).sum(0).sqrt()


def _reached(
    model: nn.Module,
    site: Site,
    unit: int,
    images: Tensor,
    readers: dict[str, nn.Module],
    intact: dict[Call, tuple[Tensor, Any]],
) -> dict[Call, bool]:
    """Layers that a change of the unit reaches first, and whether it does so in the unit's channel alone."""
    found: dict[Call, bool] = {}

    def change(_site: Site, output: Tensor) -> Tensor:
        changed = output.clone()
        own = changed.movedim(site.unit_axis, 1)[:, unit]
        own += output.abs().mean() + 1
        return changed

    def visit(call: Call, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        before, output = intact[call]
        if torch.equal(args[0], before):
            return forward(*args, **kwargs)
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        if args[0].shape == before.shape:
            differs = (args[0] != before).movedim(axis, 0).flatten(1).any(1)
            found[call] = len(differs) == site.n_units and differs.nonzero().flatten().tolist() == [unit]
        else:
            found[call] = False
        return output

    with intercepted(model, readers, visit), on_calls(model, [site], change):
        model(images.clone())
    return found


def _squares(module: nn.Module) -> Tensor:
    """Sum of the squared weights that each input channel is multiplied with."""
    weight = module.weight.detach().float()  # type: ignore[operator]
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        grouped = weight.reshape(module.groups, -1, *weight.shape[1:])
        return grouped.square().sum((1, 3, 4)).flatten()
    return weight.square().flatten(2).sum((0, 2)) if weight.ndim > 2 else weight.square().sum(0)
