"""Nonlinearities that are functions: where they are found, and where they are not."""
# ruff: noqa: ARG005 - answers have one signature and use what they need

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.errors import ModelError
from auditor.hooks import capture
from auditor.models import build_module, find_model, probe_sites
from auditor.models.trace import trace_calls


def images(size: int = 32) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5


class ConvBlock(nn.Module):
    """``answer`` gets the block, its input and the normalised convolution."""

    def __init__(self, answer: Callable[[ConvBlock, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.gate = nn.Conv2d(3, 3, 1)
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self, x, self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.blocks(x).mean((2, 3)))
        return out


def add_in_place(block: ConvBlock, x: Tensor, y: Tensor) -> Tensor:
    y += x
    return functional.relu(y) * 2


def then_changed(block: ConvBlock, x: Tensor, y: Tensor) -> Tensor:
    y = functional.relu(y)
    y -= 1
    return y


def names(*blocks: nn.Module) -> list[str]:
    return [site.name for site in probe_sites(Net(*blocks).eval(), images())]


@pytest.mark.parametrize(
    "answer, expected",
    [
        (lambda b, x, y: functional.relu(y), ["blocks.0"]),
        (lambda b, x, y: functional.relu(y, inplace=True), ["blocks.0"]),
        (lambda b, x, y: torch.relu_(y), ["blocks.0"]),
        (lambda b, x, y: (y + x).relu(), ["blocks.0"]),
        (lambda b, x, y: functional.gelu(input=y), ["blocks.0"]),
        (lambda b, x, y: b.drop(functional.silu(y)) + x, ["blocks.0.drop"]),
        (lambda b, x, y: functional.relu(y) * torch.sigmoid(b.gate(x)), ["blocks.0.bn"]),
        (lambda b, x, y: functional.relu(y) + x, ["blocks.0.bn"]),
        (lambda b, x, y: functional.relu(y * torch.sigmoid(b.gate(x))), ["blocks.0"]),
    ],
)
def test_where_a_function_is_measured(
    answer: Callable[[ConvBlock, Tensor, Tensor], Tensor], expected: list[str]
) -> None:
    assert names(ConvBlock(answer)) == expected


def test_inputs_of_functions_count_only_where_no_output_can_be_measured() -> None:
    inner = ConvBlock(lambda b, x, y: functional.relu(y) + x)
    outer = ConvBlock(lambda b, x, y: functional.relu(y + x))
    assert names(inner, outer) == ["blocks.1"]
    assert names(inner, nn.Tanh()) == ["blocks.1"]


def test_functions_beside_modules_are_sites_too() -> None:
    assert names(ConvBlock(lambda b, x, y: functional.relu(y)), nn.ReLU()) == ["blocks.0", "blocks.1"]


def test_gate_modules_beside_functions_are_left_out() -> None:
    block = ConvBlock(lambda b, x, y: functional.relu(y * b.gate(x)))
    block.gate = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid())
    assert names(block) == ["blocks.0"]
    block.answer = lambda b, x, y: functional.relu(y) * b.gate(x)
    assert names(block) == ["blocks.0.bn"]
    assert names(ConvBlock(lambda b, x, y: torch.sigmoid(y))) == ["blocks.0"]  # nothing else is there


def test_a_tensor_that_was_changed_in_place_is_no_ones_output() -> None:
    with pytest.raises(ModelError, match="no nonlinearities that can be measured"):
        names(ConvBlock(add_in_place))
    assert names(ConvBlock(then_changed)) == ["blocks.0.bn"]


def test_a_model_without_any_is_told_which_layers_to_name() -> None:
    with pytest.raises(ModelError, match="no nonlinearities that can be measured") as caught:
        names(ConvBlock(lambda b, x, y: y))
    assert caught.value.fix is not None
    assert "--layers type:BatchNorm2d" in caught.value.fix
    (site,) = probe_sites(Net(ConvBlock(lambda b, x, y: y)), images(), layers="type:BatchNorm2d")
    assert site.name == "blocks.0.bn"


def test_torch_transformer_layers() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 8, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.layer(self.patch(x).flatten(2).mT).mean(1))
            return out

    (site,) = probe_sites(Tokens(), images())
    assert (site.name, site.unit_axis, site.n_units) == ("layer.dropout", -1, 12)


@pytest.mark.parametrize("name, size, n_sites", [("googlenet", 64, 57), ("inception_v3", 96, 94)])
def test_torchvision_inceptions_are_measured_behind_their_relus(name: str, size: int, n_sites: int) -> None:
    module = build_module(find_model(f"torchvision:{name}"), n_outputs=7, pretrained=False, seed=0)
    sites = probe_sites(module, images(size))
    assert len(sites) == n_sites
    assert {site.kind for site in sites} == {"BasicConv2d"}
    with torch.no_grad(), capture(module, sites) as found:
        module(images(size))
    assert all(bool((responses >= 0).all()) for responses in found.take().values())


def test_watching_changes_neither_output_nor_model() -> None:
    model = Net(ConvBlock(lambda b, x, y: functional.relu(y, inplace=True)), nn.ReLU(inplace=True)).eval()
    with torch.no_grad():
        plain = model(images())
    assert torch.equal(trace_calls(model, images(), functions=True).output, plain)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model.modules())
    with pytest.raises(ModelError):
        trace_calls(model, torch.zeros(2, 9, 8, 8), functions=True)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model.modules())
    assert torch.overrides._len_torch_function_stack() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_sites_of_a_model_do_not_depend_on_its_type_or_mode(dtype: torch.dtype) -> None:
    model = Net(ConvBlock(lambda b, x, y: functional.relu(y)), nn.GELU())
    expected = probe_sites(model, images())
    model.to(dtype).train()
    assert probe_sites(model, images()) == expected
    assert model.training
