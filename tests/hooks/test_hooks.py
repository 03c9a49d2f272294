"""Hooks measure and edit single calls, and leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.errors import ModelError
from auditor.hooks import capture, on_calls, pool, taps
from auditor.models import probe_sites
from auditor.units import Site


def trace_of(model: nn.Module) -> list[object]:
    """Everything a hook room could change on a model and forget to put back."""
    return [
        (
            name,
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            "forward" in vars(module),
        )
        for name, module in model.named_modules()
    ] + [(name, p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()]


def test_capture_equals_the_mean_of_the_maps(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites = probe_sites(tiny_cnn, tiny_batch)
    assert [site.name for site in sites] == ["act1", "act2", "act3"]
    with torch.no_grad(), capture(tiny_cnn, sites) as found:
        tiny_cnn(tiny_batch)
        responses = found.take()
        # Layer by layer by hand: a Sequential is its own reference.
        x, expected = tiny_batch, {}
        for name, layer in tiny_cnn.named_children():
            x = layer(x)
            if name.startswith("act"):
                expected[name] = x.flatten(2).mean(2) if x.ndim == 4 else x.clone()
    for name, values in expected.items():
        torch.testing.assert_close(responses[name], values)


def test_calls_of_a_reused_module_are_told_apart(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    assert [s.name for s in sites] == ["relu", *(f"blocks.{i}.relu@{c}" for i in (0, 1) for c in (1, 2))]
    block = tiny_resnet.blocks[0]
    with torch.no_grad():
        x = tiny_resnet.relu(tiny_resnet.bn(tiny_resnet.conv(tiny_batch)))
        first = torch.relu(block.bn1(block.conv1(x)))
        second = torch.relu(block.bn2(block.conv2(first)) + x)
        with capture(tiny_resnet, sites) as found:
            tiny_resnet(tiny_batch)
            responses = found.take()
    torch.testing.assert_close(responses["blocks.0.relu@1"], first.mean((2, 3)))
    torch.testing.assert_close(responses["blocks.0.relu@2"], second.mean((2, 3)))


def test_calls_are_counted_anew_after_a_failed_pass(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    with torch.no_grad(), capture(tiny_resnet, sites) as found:
        tiny_resnet(tiny_batch)
        intact = found.take()
        # The block's first ReLU runs, then the batch norm after it refuses the channels.
        with pytest.raises(RuntimeError):
            tiny_resnet(torch.zeros(2, 4, 16, 16))
        tiny_resnet(tiny_batch)
        again = found.take()
    for name, values in intact.items():
        torch.testing.assert_close(again[name], values)


def test_nothing_stays_on_the_model(tiny_model: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites = probe_sites(tiny_model, tiny_batch)
    before = trace_of(tiny_model)
    with capture(tiny_model, sites) as found:
        tiny_model(tiny_batch)
        found.take()
    with on_calls(tiny_model, sites, lambda _site, output: output * 0):
        tiny_model(tiny_batch)
    with taps(tiny_model, sites):
        tiny_model(tiny_batch)
    with pytest.raises(ZeroDivisionError), capture(tiny_model, sites):
        raise ZeroDivisionError
    assert trace_of(tiny_model) == before


def test_what_an_action_returns_takes_the_outputs_place(tiny_model: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites = probe_sites(tiny_model, tiny_batch)
    site = sites[1]
    seen: dict[str, torch.Tensor] = {}

    def zero(site: Site, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(site.unit_axis, torch.tensor([1, 3]), 0.0)

    with torch.no_grad():
        intact = tiny_model(tiny_batch)
        with on_calls(tiny_model, [site], zero), on_calls(tiny_model, [site], lambda _site, o: seen.update(x=o)):
            edited = tiny_model(tiny_batch)
        with on_calls(tiny_model, [site], lambda _site, _output: None):
            assert torch.equal(tiny_model(tiny_batch), intact)
    responses = pool(seen["x"], site)
    assert (responses[:, [1, 3]] == 0).all()
    assert (responses[:, [0, 2]] != 0).any()
    assert not torch.equal(intact, edited)


def test_taps_give_each_call_a_module(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    outputs: dict[str, torch.Tensor] = {}
    with torch.no_grad(), taps(tiny_resnet, sites) as modules, capture(tiny_resnet, sites) as found:
        for name, module in modules.items():
            module.register_forward_hook(lambda _module, _args, o, name=name: outputs.update({name: o.clone()}))
        logits = tiny_resnet(tiny_batch)
        responses = found.take()
    assert list(outputs) == [site.name for site in sites]
    for site in sites:
        torch.testing.assert_close(pool(outputs[site.name], site), responses[site.name])
    torch.testing.assert_close(logits, tiny_resnet(tiny_batch))


def test_half_precision_is_pooled_wide() -> None:
    site = Site("a", 1, 1, 1, 2, (2, 64, 64), "ReLU")
    values = torch.full((1, 2, 64, 64), 60000.0, dtype=torch.float16)
    assert pool(values, site).tolist() == [[60000.0, 60000.0]]


def test_a_site_of_another_model_is_refused(tiny_cnn: nn.Module) -> None:
    with (
        pytest.raises(ModelError, match="no layer 'nowhere'"),
        capture(tiny_cnn, [Site("nowhere", 1, 1, 1, 2, (2,), "ReLU")]),
    ):
        pass
