"""Which axis of a layer's output counts its units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.errors import ModelError
from auditor.models.trace import Trace, evaluating, run, trace_calls

Key = tuple[str, int]
"""A layer's name and the number of its call."""

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_CHANNEL_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_SECOND_SIZE_STEP = 32  # most networks halve the size five times
_RAISED = (0.0, 1.0, 0.5)  # which channel, as a share of the width; some layers hand on only a part of theirs
_NOISE = 1e-3  # of the largest change: equal images in one batch may differ in their last bits


def unit_axes(
    module: nn.Module, example: Tensor, trace: Trace, positions: Collection[int], *, second: Tensor | None = None
) -> dict[int, int]:
    """Find the axis that counts the units, for some calls of a trace.

    It is the axis whose size does not change with the size of the picture, if the model takes another and there is
    just one such axis. Else the model is asked by intervention: one output channel of every weighted layer is raised
    on one of two equal images, and the unit axis is the one along which few indices change while all others do. Where
    that decides nothing either, the axis is that of the layer before the call with an output of the same shape; or
    the only axis as long as the layer just before is wide; or the odd one of a square map's axes, axis 1 of other
    maps, and the last axis of tokens and vectors.

    Parameters
    ----------
    module : nn.Module
        The model.
    example : Tensor, shape (B, C, H, W)
        What it was traced with.
    trace : Trace
        The calls.
    positions : collection of int
        Calls of the trace with an output of shape (B, ...).
    second : Tensor, optional
        Images of another size. Default: `example`, 32 pixels larger.

    Returns
    -------
    dict
        Position to axis, counted from the front with the batch as axis 0.
    """
    modules = dict(module.named_modules())
    others = _second_shapes(module, example, second)
    shapes = {position: trace.calls[position].shape or () for position in positions}
    keys = {position: (trace.calls[position].layer, trace.calls[position].number) for position in positions}
    found = {position: _by_size(shape, others.get(keys[position])) for position, shape in shapes.items()}
    open_keys = {keys[position] for position, axis in found.items() if axis is None}
    raised = by_intervention(module, example, open_keys) if open_keys else {}
    axes = {}
    for position, shape in shapes.items():
        axis = found[position]
        if axis is None:
            axis = raised.get(keys[position])
        if axis is None:
            axis = _by_layer(position, trace, modules)
        if axis is None:
            axis = _by_width(position, trace, modules)
        axes[position] = _by_shape(shape) if axis is None else axis
    return axes


def by_intervention(module: nn.Module, example: Tensor, keys: Collection[Key]) -> dict[Key, int]:
    """Raise one channel of every weighted layer on one of two equal images, and see what changes at some calls.

    Every weighted layer and every one of the calls hands on equal outputs again, but for the raised channel, so what
    differs at a call comes from the layers just before it.

    Returns
    -------
    dict
        Axis by call, for calls where exactly one axis has at most half of its indices changed.
    """
    pair = example[:1].expand(2, *example.shape[1:]).clone()
    axes: dict[Key, int] = {}
    for share in _RAISED:
        missing = [key for key in keys if key not in axes]
        if missing:
            axes |= _raise(module, pair, frozenset(missing), share)
    return axes


def _raise(module: nn.Module, pair: Tensor, keys: frozenset[Key], share: float) -> dict[Key, int]:
    counts: Counter[str] = Counter()
    axes: dict[Key, int] = {}

    def watcher(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def watch(child: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
            counts[name] += 1
            if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != 2:
                return None
            key = (name, counts[name])
            if key in keys and (axis := _changed_axis(output)) is not None:
                axes[key] = axis
            own = weighted_axis(child, output.ndim)
            if own is None and key not in keys:
                return None
            answer = output.clone()
            answer[1] = answer[0]
            if own is not None:
                channel = answer[1].select(own - 1, round(share * (answer.shape[own] - 1)))
                channel += channel.abs() + 3
            return answer

        return watch

    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.no_grad())
        for name, child in module.named_modules():
            if name:
                stack.callback(child.register_forward_hook(watcher(name)).remove)
        try:
            run(module, pair)
        except ModelError:
            return {}
    return axes


def _changed_axis(output: Tensor) -> int | None:
    change = (output[1] - output[0]).abs().float()
    largest = change.max() if change.numel() else change.new_zeros(())
    if not 0 < float(largest) < float("inf"):
        return None
    changed = change > _NOISE * largest
    few = []
    for axis, size in enumerate(changed.shape):
        rest = [other for other in range(changed.ndim) if other != axis]
        here = changed.amax(dim=rest) if rest else changed
        if size > 1 and 2 * int(here.sum()) <= size:
            few.append(axis + 1)
    return few[0] if len(few) == 1 else None


def weighted_axis(module: nn.Module, ndim: int) -> int | None:
    """Return the unit axis of a linear layer's, a convolution's or a norm's own output; None for other modules."""
    if isinstance(module, (*_CONVOLUTIONS, *_CHANNEL_NORMS)):
        return 1
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
        return None
    if isinstance(module, nn.LayerNorm) and type(module).__name__ in ("LayerNorm2d", "LayerNormAct2d"):
        return 1
    return ndim - 1 if isinstance(module, nn.Linear | nn.LayerNorm) else None


def _second_shapes(module: nn.Module, example: Tensor, second: Tensor | None) -> Mapping[Key, tuple[int, ...]]:
    """Shapes of all calls with a picture of another size; none if the model does not take it."""
    if second is None:
        height, width = example.shape[-2:]
        size = (height + _SECOND_SIZE_STEP, width + _SECOND_SIZE_STEP)
        with torch.no_grad():
            second = functional.interpolate(example.float(), size=size).to(example.dtype)
    try:
        trace = trace_calls(module, second)
    except ModelError:
        return {}
    return {(call.layer, call.number): call.shape for call in trace.calls if call.shape is not None}


def _by_size(shape: tuple[int, ...], other: tuple[int, ...] | None) -> int | None:
    """Return the only axis whose size is the same for both pictures."""
    if len(shape) == 2:
        return 1
    if other is None or len(other) != len(shape):
        return None
    same = [axis for axis in range(1, len(shape)) if shape[axis] == other[axis]]
    return same[0] if len(same) == 1 else None


def _by_layer(position: int, trace: Trace, modules: Mapping[str, nn.Module]) -> int | None:
    """Return the unit axis of the nearest layer before the call that has one and an output of the same shape."""
    shape = trace.calls[position].shape or ()
    for call in reversed(trace.calls[: position + 1]):
        axis = weighted_axis(modules[call.layer], len(shape)) if call.shape == shape else None
        if axis is not None:
            return axis
    return None


def _by_width(position: int, trace: Trace, modules: Mapping[str, nn.Module]) -> int | None:
    """Return the only axis that is as long as the nearest weighted layer before is wide, for reshaped outputs."""
    shape = trace.calls[position].shape or ()
    for call in reversed(trace.calls[:position]):
        child = modules[call.layer]
        if isinstance(child, (*_CONVOLUTIONS, nn.Linear)) and call.shape:
            width = call.shape[-1 if isinstance(child, nn.Linear) else 1]
            fitting = [axis for axis in range(1, len(shape)) if shape[axis] == width]
            return fitting[0] if len(fitting) == 1 else None
    return None


def _by_shape(shape: tuple[int, ...]) -> int:
    if len(shape) != 4:
        return 1 if len(shape) > 4 else len(shape) - 1
    return 3 if shape[1] == shape[2] != shape[3] else 1
