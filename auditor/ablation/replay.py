"""Run the model again from a changed site on: everything that does not depend on the site returns what it returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.flow import map_tensors
from auditor.ablation.one_channel import OneChannel
from auditor.ablation.plan import SitePlan
from auditor.ablation.trim import only_tokens
from auditor.errors import ModelError
from auditor.hooks.intercept import Call, intercepted

Values = Mapping[Call, Any]
Run = Callable[["Pairs"], Tensor]


class Pairs:
    """Pairs of an image and an ablated unit that go through the model as one batch.

    Parameters
    ----------
    rows : Tensor of int, shape (P,)
        Which image of the batch.
    units : Tensor of int, shape (P,)
        Which unit of the site.
    maps : Tensor, shape (P, *positions)
        The unit's response after the edit.
    change : Tensor, shape (P, *positions)
        The same, minus the response before.
    single : int or None
        The image, if all pairs have the same.
    """

    def __init__(self, rows: Tensor, units: Tensor, maps: Tensor, change: Tensor, single: int | None = None) -> None:
        self.rows, self.units, self.maps, self.change, self.single = rows, units, maps, change, single

    def __len__(self) -> int:
        return len(self.rows)


def record(model: nn.Module, images: Tensor, kept: set[Call]) -> tuple[Tensor, dict[Call, Any]]:
    """Run the intact model; return its logits and copies of what some calls returned."""
    values: dict[Call, Any] = {}

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if call in kept:
            # Copied: what follows may change it in place.
            values[call] = map_tensors(output, lambda t: t.clone(memory_format=torch.preserve_format))
        return output

    with intercepted(model, {layer for layer, _ in kept}, visit):
        logits = model(images.clone(memory_format=torch.preserve_format))  # a model may change its input in place
    missing = kept - values.keys()
    if missing:
        layer, number = min(missing)
        raise ModelError(
            f"The model did not call {layer!r} (call {number}) on these images.",
            fix="Its layers must not depend on the images, or it was not profiled as it is now.",
        )
    return logits, values


@contextmanager
def replaying(
    model: nn.Module, plan: SitePlan, images: Tensor, values: Values, updates: Mapping[Call, OneChannel]
) -> Iterator[Run]:
    """Yield a function from pairs to logits, shape (P, outputs).

    Parameters
    ----------
    model : nn.Module
    plan : SitePlan
    images : Tensor, shape (B, C, H, W)
    values : mapping
        Intact outputs of ``plan.kept`` for these images.
    updates : mapping
        For each of ``plan.direct``.
    """
    current: list[Pairs] = []

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        pairs = current[0]
        if call == plan.call:
            counts.update(plan.inner[call])
            if not plan.site_needed:
                return _placeholder(values[call], len(images), pairs, care=plan.care)
            return _edited(values[call], pairs, plan.site.unit_axis)
        if call in plan.spared:
            counts.update(plan.inner[call])
            if not plan.spared[call]:
                return map_tensors(plan.shapes[call], lambda t: _placeholder(t, 1, pairs, care=plan.care))
            return map_tensors(values[call], lambda t: repeated(t, len(images), pairs, care=plan.care))
        if call in updates:
            intact = repeated(values[call], len(images), pairs, care=0)
            return updates[call](intact, pairs.change, pairs.units)
        if call in plan.tokens and len(args) == 1:
            return only_tokens(forward, args[0], plan.tokens[call], kwargs)
        return forward(*args, **kwargs)

    def run(pairs: Pairs) -> Tensor:
        current[:] = [pairs]
        if plan.image_needed:
            picture = repeated(images, len(images), pairs, care=plan.care)
        else:
            picture = _placeholder(images, len(images), pairs, care=plan.care)
        logits: Tensor = model(picture)
        return logits

    with intercepted(model, plan.layers, visit) as counts:
        yield run


def repeated(value: Tensor, n_images: int, pairs: Pairs, *, care: int) -> Tensor:
    """Rows of `value` for each pair's image, shape (P * m, ...) where `value` has m rows per image."""
    per_image = len(value) // n_images
    if per_image > 1:
        split = value.view(n_images, per_image, *value.shape[1:])
        return split.index_select(0, pairs.rows).flatten(0, 1)
    if pairs.single is not None and not care:
        return value[pairs.single : pairs.single + 1].expand(len(pairs), *value.shape[1:])
    return _select(value, pairs.rows)


def _select(value: Tensor, rows: Tensor) -> Tensor:
    """``value[rows]`` with the memory layout of `value`."""
    strides = value.stride()
    order = [0, *sorted(range(1, value.ndim), key=lambda axis: -strides[axis])]
    back = [order.index(axis) for axis in range(value.ndim)]
    return value.permute(order).index_select(0, rows).permute(back)


def _placeholder(value: Tensor, n_images: int, pairs: Pairs, *, care: int) -> Tensor:
    """Something of the right shape whose numbers go nowhere."""
    per_image = len(value) // n_images
    if care:
        return value.new_zeros((per_image * (1 if care == 1 else len(pairs)), *value.shape[1:]))
    return value.new_zeros(()).expand((per_image * len(pairs), *value.shape[1:]))


def _edited(value: Tensor, pairs: Pairs, unit_axis: int) -> Tensor:
    output = _select(value, pairs.rows)
    by_unit = output.movedim(unit_axis, 1)
    by_unit[torch.arange(len(pairs), device=output.device), pairs.units] = pairs.maps
    return output


def unit_maps(value: Tensor, unit_axis: int, units: Sequence[int] | Tensor) -> Tensor:
    """Responses of some units, shape (B, U, *positions)."""
    index = torch.as_tensor(units, device=value.device)
    return value.movedim(unit_axis, 1).index_select(1, index)
