"""What can be measured in a model: found out by running it once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.models.axes import unit_axes
from auditor.models.layers import Selection, is_gate, select_layers
from auditor.models.trace import Call, Trace, trace_calls
from auditor.units import Site


def probe_sites(
    module: nn.Module,
    example: Tensor,
    *,
    layers: str | Sequence[str] = "activations",
    second: Tensor | None = None,
) -> list[Site]:
    """Find the sites to be measured, in the order in which they are called.

    The model runs in eval mode without gradients; its flags and hooks are put back. It runs a few times: on `example`,
    on a larger picture if it takes one, and, where that does not tell the unit axis, with single channels raised (see
    :func:`auditor.models.axes.unit_axes`).

    The preset ``activations`` means the outputs of all nonlinearities that are modules, and those of functions
    (``F.relu``) that are also a module's output. In a model without either it means the outputs of modules that go into
    such a function; they are measured before the nonlinearity. Sigmoids, which are mostly gates, count only where there
    is nothing else at all.

    Sites whose output is no tensor with one row for each image (window attention, for one, merges images and windows)
    are passed over, unless they were given by their full name.

    Parameters
    ----------
    module : nn.Module
        The model, on any device, of any floating-point type.
    example : Tensor, shape (B, C, H, W)
        At least two images; their content does not matter.
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
    selection = select_layers(module, layers)
    trace = trace_calls(module, example, functions=selection.activations)
    modules = dict(module.named_modules())
    positions = _positions(module, trace, selection, len(example))
    if not positions:
        raise _nothing(module, trace, selection, len(example))
    axes = unit_axes(module, example, trace, positions, second=second)
    counts = trace.counts()
    sites = []
    for position in positions:
        call, axis = trace.calls[position], axes[position]
        shape = call.shape or ()
        site = Site(
            layer=call.layer,
            call=call.number,
            calls=counts[call.layer],
            unit_axis=1 if axis == 1 and len(shape) > 2 else axis - len(shape),
            n_units=shape[axis],
            shape=shape[1:],
            kind=type(modules[call.layer]).__name__,
        )
        sites.append(site)
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


def _positions(module: nn.Module, trace: Trace, selection: Selection, batch: int) -> list[int]:
    """Calls that are asked for and can be measured."""
    called = {call.layer for call in trace.calls}
    idle = sorted(selection.named - called)
    if idle:
        raise ModelError(
            f"The layer {idle[0]} is never called in a forward pass.",
            wanted="a layer that runs in eval mode",
            fix="`auditor layers --model MODEL` lists the layers that are.",
        )
    head = _logit_call(module, trace)
    last = len(trace.calls) if head is None else head
    asked, preset = set(), {}
    modules = dict(module.named_modules())
    for position, call in enumerate(trace.calls):
        if call.layer in selection.named and not _is_measurable(call, batch):
            raise ModelError(
                f"The output of {call.layer} cannot be measured.",
                wanted=f"a tensor of shape ({batch}, ...), one row for each image",
                got="no tensor" if call.shape is None else f"a tensor of shape {call.shape}",
            )
        if call.layer in selection.preset:
            preset[position] = type(modules[call.layer]).__name__
        elif call.layer in selection.layers:
            asked.add(position)
    preset |= {f.after: f.function for f in trace.functions if f.after is not None and f.after not in preset}
    given = {f.before: f.function for f in trace.functions if f.before is not None and not is_gate(f.function)}
    choices = ({p: kind for p, kind in preset.items() if not is_gate(kind)}, given, preset)
    usable = ({p for p in choice if p < last and _is_measurable(trace.calls[p], batch)} for choice in choices)
    found = next((positions for positions in usable if positions), set())
    return sorted(found | {p for p in asked if _is_measurable(trace.calls[p], batch)})


def _nothing(module: nn.Module, trace: Trace, selection: Selection, batch: int) -> ModelError:
    if selection.activations and not selection.layers:
        return ModelError(
            f"{type(module).__name__} has no nonlinearities that can be measured.",
            wanted="nonlinearities that are modules (nn.ReLU), or functions (F.relu) of a module's output",
            got=f"{len(trace.functions)} calls of functions, none of them on a module's output",
            fix=f"Name the layers to be measured with --layers, such as --layers {_suggestion(module, trace, batch)}.",
        )
    shown = ", ".join(sorted(selection.layers)[:5])
    return ModelError(
        "None of the chosen layers can be measured.",
        wanted="layers before the logits that run in a forward pass and give one row for each image",
        got=f"{shown}{' ...' if len(selection.layers) > 5 else ''}",
        fix=f"Name other layers with --layers, such as --layers {_suggestion(module, trace, batch)}; "
        "`auditor layers --model MODEL` lists them.",
    )


def _suggestion(module: nn.Module, trace: Trace, batch: int) -> str:
    """The kind of norm, convolution or linear layer that runs most often, as ``--layers`` takes it."""
    modules = dict(module.named_modules())
    kinds = [type(modules[call.layer]).__name__ for call in trace.calls if _is_measurable(call, batch)]
    for word in ("Norm", "Conv", "Linear"):
        counts = Counter(kind for kind in kinds if word in kind)
        if counts:
            return f"type:{counts.most_common(1)[0][0]}"
    return "'*'"
