"""What can be measured in a model: found out by running it once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.errors import ModelError
from auditor.models.layers import select_layers
from auditor.models.trace import Call, Trace, refuse_hookless, trace_calls
from auditor.units import Site

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm2d)
_SECOND_SIZE_STEP = 32  # most networks halve the size five times


def probe_sites(
    module: nn.Module,
    example: Tensor,
    *,
    layers: str | Sequence[str] = "activations",
    second: Tensor | None = None,
) -> list[Site]:
    """Find the sites to be measured, in the order in which they are called.

    The model runs in eval mode without gradients; its flags and hooks are put back. It runs a second time, on a larger
    picture if it takes one, and the unit axis is the one whose size did not change. Where that does not decide (models
    of fixed input size, maps of one pixel), the axis is that of the layer before it with an output of the same shape:
    the last one after a linear layer or a layer norm, axis 1 after a convolution or a batch norm. Without such a layer
    it is the only axis as long as the layer just before is wide; or else the odd one of a square map's axes, axis 1 of
    other maps, and the last axis of tokens and vectors.

    Sites whose output is no tensor with one row for each image (window attention, for one, merges images and windows)
    are passed over, unless they were given by their full name.

    Parameters
    ----------
    module : nn.Module
        The model, on any device.
    example : Tensor, shape (B, C, H, W)
        At least two images on the model's device; their content does not matter.
    layers : str or sequence of str
        See :func:`auditor.models.layers.select_layers`. The presets leave out what makes the logits and comes after.
    second : Tensor, optional
        Images of another size for the second run. Default: `example`, 32 pixels larger.

    Raises
    ------
    UnknownNameError
        If a name or pattern matches no module.
    ModelError
        If the model cannot be measured, or nothing of what was asked for can be.
    """
    if example.ndim != 4 or len(example) < 2:
        got = str(tuple(example.shape))
        raise ModelError("The probe needs at least two images.", wanted="(B >= 2, C, H, W)", got=got)
    refuse_hookless(module)
    selection = select_layers(module, layers)
    trace = trace_calls(module, example)
    counts = trace.counts()
    batch = len(example)
    head = _logit_call(module, trace)
    last = len(trace.calls) if head is None else head
    modules = dict(module.named_modules())
    others = _second_shapes(module, example, second)
    sites = []
    for position, call in enumerate(trace.calls):
        if call.layer not in selection.layers or (call.layer in selection.preset and position >= last):
            continue
        if not _is_measurable(call, batch):
            if call.layer in selection.named:
                raise _not_measurable(call, batch)
            continue
        sites.append(_site(call, position, trace, modules, others, counts[call.layer]))
    _check_found(sites, selection.layers, selection.named, trace)
    return sites


def n_outputs(module: nn.Module, example: Tensor) -> int:
    """Return the number of classes, which is the width of the model's output.

    Raises
    ------
    ModelError
        If the output is not a floating-point tensor of shape (B, K).
    """
    return _width(module, trace_calls(module, example), len(example))


def find_logit_layer(module: nn.Module, example: Tensor) -> str | None:
    """Return the name of the module that makes the logits.

    It is the last linear layer or convolution called, if it has as many units as the model has outputs; None if
    there is no such module.
    """
    trace = trace_calls(module, example)
    position = _logit_call(module, trace)
    return None if position is None else trace.calls[position].layer


def _width(module: nn.Module, trace: Trace, batch: int) -> int:
    output = trace.output
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != batch or not output.is_floating_point():
        got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"{type(module).__name__} is not a classifier that can be audited.",
            wanted=f"logits of shape ({batch}, classes)",
            got=got,
            fix="Wrap the model in one whose forward returns the logits alone.",
        )
    return int(output.shape[1])


def _logit_call(module: nn.Module, trace: Trace) -> int | None:
    width = trace.output.shape[-1] if isinstance(trace.output, Tensor) and trace.output.ndim == 2 else None
    modules = dict(module.named_modules())
    for position in reversed(range(len(trace.calls))):
        call = trace.calls[position]
        child = modules[call.layer]
        if isinstance(child, nn.Linear | nn.Conv2d):
            if call.shape is None or width is None:
                return None
            units = call.shape[1 if isinstance(child, nn.Conv2d) else -1]
            return position if units == width else None
    return None


def _is_measurable(call: Call, batch: int) -> bool:
    return call.shape is not None and len(call.shape) >= 2 and call.shape[0] == batch and 0 not in call.shape


def _not_measurable(call: Call, batch: int) -> ModelError:
    return ModelError(
        f"The output of {call.layer} cannot be measured.",
        wanted=f"a tensor of shape ({batch}, ...), one row for each image",
        got="no tensor" if call.shape is None else f"a tensor of shape {call.shape}",
    )


def _check_found(sites: list[Site], layers: frozenset[str], named: frozenset[str], trace: Trace) -> None:
    called = {call.layer for call in trace.calls}
    idle = sorted(named - called)
    if idle:
        raise ModelError(
            f"The layer {idle[0]} is never called in a forward pass.",
            wanted="a layer that runs in eval mode",
            fix="`auditor layers --model MODEL` lists the layers that are.",
        )
    if not sites:
        shown = ", ".join(sorted(layers)[:5])
        raise ModelError(
            "None of the chosen layers can be measured.",
            wanted="layers before the logits that run in a forward pass and give one row for each image",
            got=f"{shown}{' ...' if len(layers) > 5 else ''}",
            fix="Name other layers with --layers; `auditor layers --model MODEL` lists them.",
        )


def _second_shapes(module: nn.Module, example: Tensor, second: Tensor | None) -> dict[tuple[str, int], tuple[int, ...]]:
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


def _site(
    call: Call,
    position: int,
    trace: Trace,
    modules: dict[str, nn.Module],
    others: dict[tuple[str, int], tuple[int, ...]],
    calls: int,
) -> Site:
    shape = call.shape or ()
    axis = _axis_by_size(shape, others.get((call.layer, call.number)))
    if axis is None:
        axis = _axis_by_layer(position, trace, modules)
    if axis is None:
        axis = _axis_by_width(position, trace, modules)
    if axis is None:
        axis = _axis_by_shape(shape)
    return Site(
        layer=call.layer,
        call=call.number,
        calls=calls,
        unit_axis=1 if axis == 1 and len(shape) > 2 else axis - len(shape),
        n_units=shape[axis],
        shape=shape[1:],
        kind=type(modules[call.layer]).__name__,
    )


def _axis_by_size(shape: tuple[int, ...], other: tuple[int, ...] | None) -> int | None:
    """Return the only axis whose size is the same for both pictures."""
    if len(shape) == 2:
        return 1
    if other is None or len(other) != len(shape):
        return None
    same = [axis for axis in range(1, len(shape)) if shape[axis] == other[axis]]
    return same[0] if len(same) == 1 else None


def _axis_by_layer(position: int, trace: Trace, modules: dict[str, nn.Module]) -> int | None:
    """Return the unit axis of the nearest layer before the call that has one and an output of the same shape."""
    shape = trace.calls[position].shape or ()
    for call in reversed(trace.calls[: position + 1]):
        child = modules[call.layer]
        if call.shape != shape:
            continue
        channels_first = type(child).__name__ in ("LayerNorm2d", "LayerNormAct2d")
        if channels_first or isinstance(child, (*_CONVOLUTIONS, *_BATCH_NORMS)):
            return 1
        if isinstance(child, nn.Linear | nn.LayerNorm):
            return len(shape) - 1
    return None


def _axis_by_width(position: int, trace: Trace, modules: dict[str, nn.Module]) -> int | None:
    """Return the only axis that is as long as the nearest weighted layer before is wide, for reshaped outputs."""
    shape = trace.calls[position].shape or ()
    for call in reversed(trace.calls[:position]):
        child = modules[call.layer]
        if isinstance(child, (*_CONVOLUTIONS, nn.Linear)) and call.shape:
            width = call.shape[-1 if isinstance(child, nn.Linear) else 1]
            fitting = [axis for axis in range(1, len(shape)) if shape[axis] == width]
            return fitting[0] if len(fitting) == 1 else None
    return None


def _axis_by_shape(shape: tuple[int, ...]) -> int:
    if len(shape) != 4:
        return 1 if len(shape) > 4 else len(shape) - 1
    return 3 if shape[1] == shape[2] != shape[3] else 1
