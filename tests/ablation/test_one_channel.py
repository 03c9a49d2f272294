"""The update by one channel equals the layer on the changed input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor.ablation.one_channel import OneChannel
from auditor.ablation.plan import one_channel_applies
from auditor.units import Site

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_updates(layer: nn.Module, inputs: Tensor, units: list[int], axis: int, *, rows: list[int]) -> Tensor:
    """Change one unit of the input a row at a time; `rows` are those of the input that are changed."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(drawn(*parameter.shape, dtype=parameter.dtype, seed=number))
        intact = layer(inputs)[rows]
        changed = inputs[rows].clone(memory_format=torch.preserve_format)
        by_unit = changed.movedim(axis, 1)
        change = drawn(len(rows), *by_unit.shape[2:], dtype=inputs.dtype, seed=9)
        change[0] = 0  # a unit that the edit leaves as it is
        index = torch.tensor(units)
        by_unit[torch.arange(len(rows)), index] += change
        wanted = layer(changed)
        before = intact.clone()
        found = OneChannel(layer)(intact, change, index)
    assert found.dtype == wanted.dtype
    tolerance = TOLERANCE[inputs.dtype] * float(wanted.abs().max() + 1)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)
    assert torch.equal(intact, before)
    return found


@st.composite
def convolutions(draw: Any) -> tuple[nn.Conv2d, tuple[int, int]]:
    pair = lambda low, high: st.tuples(*[st.integers(low, high)] * 2)  # noqa: E731
    layer = nn.Conv2d(
        draw(st.integers(1, 5)),
        draw(st.integers(1, 6)),
        draw(pair(1, 4)),
        stride=draw(pair(1, 3)),
        padding=draw(pair(0, 3)),
        dilation=draw(pair(1, 3)),
        bias=draw(st.booleans()),
    )
    size = draw(pair(1, 9))
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    assume(all(side + 2 * pad >= r for side, pad, r in zip(size, layer.padding, reach, strict=True)))
    return layer, size


@given(made=convolutions(), dtype=st.sampled_from(list(TOLERANCE)), layout=st.sampled_from(LAYOUTS), data=st.data())
@settings(max_examples=150)
def test_a_convolution_of_any_shape(
    made: tuple[nn.Conv2d, tuple[int, int]], dtype: torch.dtype, layout: torch.memory_format, data: st.DataObject
) -> None:
    layer, size = made
    layer = layer.to(dtype).to(memory_format=layout)
    inputs = drawn(2, layer.in_channels, *size, dtype=dtype).contiguous(memory_format=layout)
    units = data.draw(st.lists(st.integers(0, layer.in_channels - 1), min_size=1, max_size=4))
    rows = data.draw(st.lists(st.integers(0, 1), min_size=len(units), max_size=len(units)))
    assert_updates(layer, inputs, units, 1, rows=rows)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    bias=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    data=st.data(),
)
@settings(max_examples=100)
def test_a_linear_layer_on_vectors_tokens_and_maps(
    shape: list[int], widths: tuple[int, int], bias: bool, dtype: torch.dtype, data: st.DataObject
) -> None:
    layer = nn.Linear(*widths, bias=bias).to(dtype)
    inputs = drawn(2, *shape[1:], widths[0], dtype=dtype)
    units = data.draw(st.lists(st.integers(0, widths[0] - 1), min_size=1, max_size=4))
    rows = data.draw(st.lists(st.integers(0, 1), min_size=len(units), max_size=len(units)))
    assert_updates(layer, inputs, units, -1, rows=rows)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 3])
def test_the_output_has_the_layout_of_the_layers_own(layout: torch.memory_format, size: int) -> None:
    layer = nn.Conv2d(3, 4, size, padding=size // 2).to(memory_format=layout)
    inputs = drawn(2, 3, 5, 5).contiguous(memory_format=layout)
    found = assert_updates(layer, inputs, [0, 2, 1], 1, rows=[0, 1, 1])
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_intact_output_may_be_one_row_for_all(layout: torch.memory_format) -> None:
    layer = nn.Conv2d(3, 4, 3).to(memory_format=layout)
    image = drawn(1, 3, 6, 6).contiguous(memory_format=layout)
    change, units = drawn(5, 6, 6, seed=1), torch.tensor([0, 1, 2, 2, 0])
    with torch.no_grad():
        one = layer(image)
        shared = OneChannel(layer)(one.expand(5, *one.shape[1:]), change, units)
        own = one.repeat(5, 1, 1, 1).contiguous(memory_format=layout)
        copied = OneChannel(layer)(own, change, units)
    torch.testing.assert_close(shared, copied, rtol=0, atol=0)
    assert shared.stride() == copied.stride()


def site(axis: int, *shape: int) -> Site:
    return Site("a", 1, 1, axis, shape[0 if axis == 1 else -1], shape, "ReLU")


class OwnConv(nn.Conv2d):
    """Might do anything."""


@pytest.mark.parametrize(
    "layer, of, applies",
    [
        (nn.Conv2d(4, 2, 3), site(1, 4, 8, 8), True),
        (nn.Conv2d(4, 2, 3, padding=1, stride=2, dilation=2), site(1, 4, 8, 8), True),
        (nn.Conv2d(4, 2, 3, groups=2), site(1, 4, 8, 8), False),
        (nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), site(1, 4, 8, 8), False),
        (nn.Conv2d(4, 2, 3, padding="same"), site(1, 4, 8, 8), False),
        (nn.Conv2d(4, 2, 3), site(-1, 8, 8, 4), False),
        (OwnConv(4, 2, 3), site(1, 4, 8, 8), False),
        (nn.Conv1d(4, 2, 3), site(1, 4, 8), False),
        (nn.Conv2d(4, 2, 3), site(1, 4, 8), False),
        (nn.Linear(4, 2), site(-1, 4), True),
        (nn.Linear(4, 2), site(-1, 5, 4), True),
        (nn.Linear(4, 2), site(1, 4, 8), False),
        (nn.ReLU(), site(1, 4, 8, 8), False),
    ],
)
def test_it_applies_to_plain_layers_that_sum_over_units(layer: nn.Module, of: Site, applies: bool) -> None:
    assert one_channel_applies(layer, of) is applies
