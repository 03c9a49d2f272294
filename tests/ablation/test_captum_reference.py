"""Captum's importance equals ablation by hand, on plain and on reused modules."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerFeatureAblation
from torch import Tensor, nn

from auditor.ablation import captum_unit_logits
from auditor.models import probe_sites


def silenced_by_hand(model: nn.Module, images: Tensor, layer: nn.Module, call: int, axis: int, unit: int) -> Tensor:
    """Ablate with a hook of our own that knows nothing of the package."""
    calls = 0

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls != call:
            return None
        edited = output.clone()
        edited.select(axis, unit).zero_()
        return edited

    handle = layer.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


def test_every_unit_of_every_call_equals_a_hand_written_hook(tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    modules = dict(tiny_model.named_modules())
    for site in probe_sites(tiny_model, tiny_batch):
        units = [0, 2, 5, 7]
        found = captum_unit_logits(tiny_model, tiny_batch, labels, site, units, max_batch=13)
        for row, unit in enumerate(units):
            expected = silenced_by_hand(tiny_model, tiny_batch, modules[site.layer], site.call, site.unit_axis, unit)
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


def test_target_logit_drop_equals_captum_used_directly(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    site = probe_sites(tiny_cnn, tiny_batch)[1]
    units = [3, 0, 11]
    found = captum_unit_logits(tiny_cnn, tiny_batch, labels, site, units)
    intact = tiny_cnn(tiny_batch).detach()
    rows = torch.arange(len(labels))
    drop = intact[rows, labels] - found[:, rows, labels]
    mask = torch.arange(site.n_units).view(1, -1, 1, 1)
    direct = LayerFeatureAblation(tiny_cnn, tiny_cnn.act2).attribute(tiny_batch, target=labels, layer_mask=mask)
    torch.testing.assert_close(drop, direct[:, units, 0, 0].T, atol=1e-5, rtol=0)


def test_captum_alone_measures_only_the_last_call(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    """Why taps are needed: on a reused module Captum's own answer is that of the last call."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    first, last = (s for s in probe_sites(tiny_resnet, tiny_batch) if s.layer == "blocks.1.relu")
    mask = torch.arange(8).view(1, -1, 1, 1)
    direct = LayerFeatureAblation(tiny_resnet, tiny_resnet.blocks[1].relu).attribute(
        tiny_batch, target=labels, layer_mask=mask
    )[:, :, 0, 0]
    intact = tiny_resnet(tiny_batch).detach()
    rows = torch.arange(len(labels))

    def drop(site: object) -> Tensor:
        ablated = captum_unit_logits(tiny_resnet, tiny_batch, labels, site, list(range(8)))
        return (intact[rows, labels] - ablated[:, rows, labels]).T

    torch.testing.assert_close(drop(last), direct, atol=1e-5, rtol=0)
    assert (drop(first) - direct).abs().max() > 1e-3


@pytest.mark.gpu
def test_captum_on_cuda_equals_the_cpu(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    site = probe_sites(tiny_resnet, tiny_batch)[2]
    cpu = captum_unit_logits(tiny_resnet, tiny_batch, labels, site, [0, 5])
    gpu = captum_unit_logits(tiny_resnet.cuda(), tiny_batch.cuda(), labels.cuda(), site, [0, 5])
    torch.testing.assert_close(cpu, gpu, atol=1e-4, rtol=1e-4)
