"""What has to run again when one site changes: found out by running the model, without tracing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.flow import Flow, map_tensors, tensors
from auditor.errors import ModelError
from auditor.hooks.intercept import Call, intercepted
from auditor.units import Site


@dataclass(frozen=True)
class CallRecord:
    """One call of a module in an intact pass.

    Attributes
    ----------
    call, parent : Call
        The call, and the call inside which it happened (None for the model itself).
    touched : int
        Bit i is set if the output depends on site i.
    inner : Counter of str
        Calls of other modules that happened inside.
    whole : bool
        The output is a tensor, or a flat tuple or list of tensors.
    by_image : bool
        The output depends on the images, and the first axis of every tensor can count equally many parts of each.
    rows : bool
        That axis counts images.
    """

    call: Call
    parent: Call | None
    touched: int
    inner: Counter[str]
    whole: bool
    by_image: bool
    rows: bool


@dataclass
class SitePlan:
    """How the model is run again after a change at one site.

    Attributes
    ----------
    site : Site
        Where the change is put in: the ablated site, or the output of `pool`.
    spared : dict of Call to bool
        Calls that do not depend on the site and are not inside others of that kind: they return what they returned in
        the intact pass. The value says whether that goes into anything that runs; if not, only its shape matters.
    inner : dict of Call to Counter
        Calls that happen inside the site and the spared ones.
    image_needed : bool
        Whether the picture itself goes into anything that runs again.
    site_needed : bool
        Whether the site's whole output goes into anything but `direct` calls.
    direct : set of Call
        Convolutions and linear layers whose input is the site's output itself.
    pool : Call or None
        The pooling through which the ablated unit's change is carried before it is put in; the other channels need not
        be pooled again.
    tokens : dict of Call to Tensor
        Calls of which only these tokens are computed; see :mod:`auditor.ablation.trim`.
    shapes : dict of Call to tensor or tuple of tensors
        What a spared call returns for one image, without its numbers.
    care : int
        What is repeated for many ablations is a view without memory of its own (0); or, because something changes it in
        place, a copy, and what goes nowhere has one row (1) or as many as the rest (2).
    largest : int
        Bytes of the largest tensor for one ablated image.
    """

    site: Site
    spared: dict[Call, bool]
    inner: dict[Call, Counter[str]]
    image_needed: bool = True
    site_needed: bool = True
    direct: set[Call] = field(default_factory=set)
    pool: Call | None = None
    tokens: dict[Call, Tensor] = field(default_factory=dict)
    shapes: dict[Call, Any] = field(default_factory=dict)
    care: int = 0
    largest: int = 1

    @property
    def call(self) -> Call:
        """The call whose output is changed."""
        return (self.site.layer, self.site.call)

    @property
    def kept(self) -> set[Call]:
        """Calls whose intact output must be kept."""
        return {call for call, live in self.spared.items() if live} | self.direct | {self.call}

    @property
    def layers(self) -> set[str]:
        """Modules that must be intercepted."""
        return {call[0] for call in (*self.spared, *self.direct, *self.tokens, self.call)}


def record_calls(model: nn.Module, images: Tensor, sites: Sequence[Site]) -> list[CallRecord]:
    """Run the model once and note for every module call which of the sites its output depends on.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    images : Tensor, shape (B, C, H, W)
    sites : sequence of Site

    Returns
    -------
    list of CallRecord
        In the order in which the calls ended.

    Raises
    ------
    ModelError
        If one of the sites is not called.
    """
    bits = {(site.layer, site.call): 1 << number for number, site in enumerate(sites)}
    image_bit = 1 << len(sites)
    records: list[CallRecord] = []
    stack: list[Call] = []
    inner: list[Counter[str]] = [Counter()]
    flow = Flow()

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        parent = stack[-1] if stack else None
        stack.append(call)
        inner.append(Counter())
        output = forward(*args, **kwargs)
        stack.pop()
        inside = inner.pop()
        inner[-1].update(inside)
        inner[-1][call[0]] += 1
        whole = isinstance(output, Tensor) or (
            type(output) in (tuple, list) and all(isinstance(item, Tensor) for item in output)
        )
        lengths = [len(item) if item.ndim else 0 for item in tensors(output)]
        marks = flow.marks(output)
        by_image = bool(marks & image_bit) and all(length > 0 and length % len(images) == 0 for length in lengths)
        rows = by_image and all(length == len(images) for length in lengths)
        records.append(CallRecord(call, parent, marks & ~image_bit, inside, whole, by_image, rows))
        if call in bits:
            flow.mark(output, bits[call])
        return output

    names = [name for name, _ in model.named_modules() if name]
    picture = images.clone(memory_format=torch.preserve_format)
    with torch.no_grad(), intercepted(model, names, visit), flow:
        flow.mark(picture, image_bit)
        model(picture)
    called = {record.call for record in records}
    missing = [site.name for site in sites if (site.layer, site.call) not in called]
    if missing:
        raise ModelError(
            f"The model does not call {missing[0]} in a forward pass.",
            fix="The sites were made for another model; profile this one first.",
        )
    return records


def plan_site(records: Sequence[CallRecord], number: int, site: Site, *, only_rows: bool = False) -> SitePlan:
    """Decide which calls need not run again when site `number` of the recorded ones changes.

    Parameters
    ----------
    records : sequence of CallRecord
    number : int
    site : Site
    only_rows : bool
        Spare only calls whose output has one row for each image, not those that split images into windows.
    """
    own = (site.layer, site.call)
    parents = {record.call: record.parent for record in records}
    inner = spared_calls(records, [number], [site], only_rows=only_rows)
    # What happens inside the site does not run at all: the site's output is given.
    inside = {call for call in inner if own in _around(call, parents)}
    spared = {call: True for call in inner if call not in inside}
    own_inner = next(record.inner for record in records if record.call == own)
    return SitePlan(site, spared, {call: inner[call] for call in spared} | {own: own_inner})


def spared_calls(
    records: Sequence[CallRecord], numbers: Sequence[int], sites: Sequence[Site], *, only_rows: bool = False
) -> dict[Call, Counter[str]]:
    """Outermost calls that depend on none of some sites, and the calls that happen inside each.

    Parameters
    ----------
    records : sequence of CallRecord
    numbers : sequence of int
        Which of the recorded sites.
    sites : sequence of Site
        These sites.
    only_rows : bool
        Only calls whose output has one row for each image.
    """
    parents = {record.call: record.parent for record in records}
    busy: set[Call] = set()
    for site in sites:
        own = (site.layer, site.call)
        busy |= {own, *_around(own, parents)}
    mask = sum(1 << number for number in numbers)
    free = {
        record.call: record.inner
        for record in records
        if record.whole
        and (record.rows if only_rows else record.by_image)
        and not record.touched & mask
        and record.call not in busy
    }
    return {call: inner for call, inner in free.items() if not any(outer in free for outer in _around(call, parents))}


def _around(call: Call, parents: Mapping[Call, Call | None]) -> list[Call]:
    """Calls inside which a call happens."""
    found = []
    outer = parents[call]
    while outer is not None:
        found.append(outer)
        outer = parents[outer]
    return found


def refine(plan: SitePlan, model: nn.Module, images: Tensor, values: Mapping[Call, Any]) -> Call | None:
    """Complete a plan by one run on two kept images: what is needed, what is read directly, how large it gets.

    Parameters
    ----------
    plan : SitePlan
        Changed.
    model : nn.Module
    images : Tensor, shape (B, C, H, W)
    values : mapping of Call to tensor or tuple of tensors
        Intact outputs of the spared calls and of the site, for these images.

    Returns
    -------
    Call or None
        The pooling that alone reads the site, if there is one.
    """
    flow = Flow()
    bits = {call: 1 << number for number, call in enumerate(plan.spared)}
    image_bit, site_bit, pool_bit = 1 << len(bits), 2 << len(bits), 4 << len(bits)
    given: list[Tensor] = []
    pooled: list[Call] = []

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if call == plan.call or call in plan.spared:
            counts.update(plan.inner[call])
            fresh = map_tensors(values[call], lambda t: t.clone(memory_format=torch.preserve_format))
            flow.mark(fresh, site_bit if call == plan.call else bits[call])
            if call == plan.call:
                flow.measuring = True
                given.append(fresh)
                given_version.append(fresh._version)
            return fresh
        output = forward(*args, **kwargs)
        if not given or call[0] not in direct | pools or not _is_same(args, given[0], given_version[0]):
            return output
        output = output.clone(memory_format=torch.preserve_format)
        flow.cut(output)
        if call[0] in direct:
            # Its change will be computed from the site's change alone.
            plan.direct.add(call)
        else:
            pooled.append(call)
            flow.mark(output, pool_bit)
        return output

    given_version: list[int] = []
    picture = images.clone(memory_format=torch.preserve_format)
    direct = {name for name, child in model.named_modules() if one_channel_applies(child, plan.site)}
    pools = {name for name, child in model.named_modules() if pools_channels(child, plan.site)}
    with torch.no_grad(), intercepted(model, plan.layers | direct | pools, visit) as counts, flow:
        flow.mark(picture, image_bit)
        logits = model(picture)
    seen = flow.marks(logits)
    plan.spared = {call: bool(seen & bits[call]) for call in plan.spared}
    plan.shapes = {
        call: map_tensors(values[call], lambda t: t.new_zeros(()).expand(len(t) // len(images), *t.shape[1:]))
        for call in plan.spared
    }
    plan.image_needed = bool(seen & image_bit)
    plan.site_needed = bool(seen & (site_bit | pool_bit))
    site = values[plan.call]
    own = site.numel() * site.element_size() if plan.site_needed else 0
    plan.largest = max(1, own // len(images), flow.largest // len(images))
    alone = len(pooled) == 1 and not plan.direct and not seen & site_bit
    return pooled[0] if alone else None


def one_channel_applies(module: nn.Module, site: Site) -> bool:
    """Whether the module's response to a change in one unit can be computed from that unit alone."""
    if type(module) is nn.Linear:
        return site.unit_axis == -1
    return (
        type(module) is nn.Conv2d
        and site.unit_axis == 1
        and len(site.shape) == 3
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def pools_channels(module: nn.Module, site: Site) -> bool:
    """Whether the module pools each unit's map by itself."""
    return (
        type(module) in (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
        and not getattr(module, "return_indices", False)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and site.unit_axis == 1
        and len(site.shape) == 3
    )


def _is_same(args: tuple[Any, ...], given: Tensor, version: int) -> bool:
    if not args or not isinstance(args[0], Tensor):
        return False
    tensor = args[0]
    return bool(
        tensor.untyped_storage()._cdata == given.untyped_storage()._cdata
        and tensor.shape == given.shape
        and tensor.stride() == given.stride()
        and tensor.storage_offset() == given.storage_offset()
        and given._version == version
    )
