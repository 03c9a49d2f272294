"""Intercepted calls are counted and told apart, and the modules' own forward comes back whatever happens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.hooks import on_calls
from auditor.hooks.intercept import Call, Visit, intercepted
from auditor.models import probe_sites


def traces(model: nn.Module) -> list[Any]:
    return [
        (name, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks), module.training)
        for name, module in model.named_modules()
    ]


def passing(seen: list[Call]) -> Visit:
    """Run every call as it is and note it."""

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        seen.append(call)
        return forward(*args, **kwargs)

    return visit


class Twice(nn.Module):
    """Calls one module twice, with an argument by name, and uses its forward once more without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Scale()
        self.box = nn.Sequential(Scale(), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.box(self.scale(self.scale.forward(self.scale(x), by=5.0), by=3.0))


class Scale(nn.Module):
    def forward(self, x: Tensor, by: float = 2.0) -> Tensor:
        return x * by


def test_calls_are_counted_within_a_pass_and_anew_in_the_next() -> None:
    model, seen, kept = Twice(), [], []
    with intercepted(model, ["scale", "box.0"], passing(seen)) as counts:
        for _ in range(2):
            assert model(torch.ones(1)).item() == 2 * 5 * 3 * 2
            kept.append(Counter(counts))
    assert seen == [("scale", 1), ("scale", 2), ("box.0", 1)] * 2
    assert kept == [Counter({"scale": 2, "box.0": 1})] * 2


def test_counts_agree_with_those_of_hooks(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    seen: list[Call] = []
    hooked: list[Call] = []
    outputs: list[tuple[Tensor, Tensor]] = []

    def note(site: Any, output: Tensor) -> None:
        hooked.append((site.layer, site.call))
        outputs.append((output, values[site.layer, site.call]))

    values: dict[Call, Tensor] = {}

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        seen.append(call)
        values[call] = forward(*args, **kwargs)
        return values[call]

    with torch.no_grad(), intercepted(tiny_resnet, {s.layer for s in sites}, visit), on_calls(tiny_resnet, sites, note):
        tiny_resnet(tiny_batch)
    assert seen == hooked == [(site.layer, site.call) for site in sites]
    assert all(theirs is ours for theirs, ours in outputs)


def test_a_visitor_decides_what_runs_and_what_comes_out() -> None:
    model, ran = Twice(), []
    model.scale.register_forward_hook(lambda *_: ran.append("hook"))

    def visit(call: Call, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        assert isinstance(module, Scale)
        if call == ("scale", 2):
            assert kwargs == {"by": 3.0}
            return args[0] + 1
        return forward(*args, **kwargs)

    with intercepted(model, ["scale"], visit):
        assert model(torch.ones(1)).item() == (2 * 5 + 1) * 2
    assert ran == ["hook", "hook"]


def test_a_spared_module_can_account_for_the_calls_inside(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    """Else the ReLU of the second block, were it the same module, would be counted wrong."""
    shared = tiny_resnet.blocks[0].relu
    tiny_resnet.blocks[1].relu = shared
    seen: list[Call] = []

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if call == ("blocks.0", 1):
            counts["blocks.0.relu"] += 2
            return args[0]
        seen.append(call)
        return forward(*args, **kwargs)

    with torch.no_grad(), intercepted(tiny_resnet, ["blocks.0", "blocks.0.relu"], visit) as counts:
        tiny_resnet(tiny_batch)
    assert seen == [("blocks.0.relu", 3), ("blocks.0.relu", 4)]


def test_counting_starts_anew_after_a_pass_that_failed(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    seen: list[Call] = []
    with torch.no_grad(), intercepted(tiny_resnet, ["conv", "bn", "fc"], passing(seen)):
        with pytest.raises(RuntimeError):
            tiny_resnet(torch.zeros(2, 4, 16, 16))
        seen.clear()
        tiny_resnet(tiny_batch)
    assert seen == [("conv", 1), ("bn", 1), ("fc", 1)]


def test_nothing_stays_on_the_model(tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    names = [name for name, _ in tiny_model.named_modules() if name]
    before = traces(tiny_model)
    with torch.no_grad():
        intact = tiny_model(tiny_batch)
        with intercepted(tiny_model, names, passing([])):
            assert torch.equal(tiny_model(tiny_batch), intact)
            assert traces(tiny_model) != before
        assert traces(tiny_model) == before
        assert torch.equal(tiny_model(tiny_batch), intact)


def test_nothing_stays_after_errors(tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    names = [name for name, _ in tiny_model.named_modules() if name]
    before = traces(tiny_model)

    def fails(*_given: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), intercepted(tiny_model, names, fails):
        tiny_model(tiny_batch)
    assert traces(tiny_model) == before
    with pytest.raises(ZeroDivisionError), intercepted(tiny_model, names, passing([])):
        raise ZeroDivisionError
    assert traces(tiny_model) == before
    with pytest.raises(ModelError, match="no layer 'nowhere'"), intercepted(tiny_model, [*names, "nowhere"], fails):
        pass
    assert traces(tiny_model) == before


def test_nested_interceptions_see_the_same_calls_and_end_in_turn(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    outer: list[Call] = []
    inner: list[Call] = []
    before = traces(tiny_resnet)
    with torch.no_grad(), intercepted(tiny_resnet, ["relu", "blocks.0.relu"], passing(outer)):
        between = traces(tiny_resnet)
        with intercepted(tiny_resnet, ["blocks.0.relu", "fc"], passing(inner)):
            tiny_resnet(tiny_batch)
        assert traces(tiny_resnet) == between
        assert outer == [("relu", 1), ("blocks.0.relu", 1), ("blocks.0.relu", 2)]
        assert inner == [("blocks.0.relu", 1), ("blocks.0.relu", 2), ("fc", 1)]
        tiny_resnet(tiny_batch)
    assert len(outer) == 6
    assert len(inner) == 3
    assert traces(tiny_resnet) == before


def test_the_inner_visitor_stands_before_the_outer() -> None:
    model = Twice()
    order: list[str] = []

    def named(name: str) -> Visit:
        def visit(_call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            order.append(name)
            return forward(*args, **kwargs)

        return visit

    with intercepted(model, ["scale"], named("outer")), intercepted(model, ["scale"], named("inner")):
        model(torch.ones(1))
    assert order == ["inner", "outer"] * 2


def test_a_forward_of_the_modules_own_comes_back() -> None:
    """Libraries that offload weights put a forward on the module itself, too."""
    model = Twice()
    own = model.scale.forward = lambda x, by=2.0: x * by * 10
    with intercepted(model, ["scale"], passing([])):
        assert model(torch.ones(1)).item() == 20 * 50 * 30 * 2
    assert vars(model.scale)["forward"] is own


def test_torchs_transformer_layers_do_not_pass_intercepted_modules_by() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=nn.GELU()).eval()
    model, seen = nn.Sequential(layer), []
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        intact = model(tokens)
        with intercepted(model, ["0.linear1", "0.activation"], passing(seen)):
            torch.testing.assert_close(model(tokens), intact)
    assert seen == [("0.linear1", 1), ("0.activation", 1)]
