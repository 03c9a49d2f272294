"""Sets that share an intact pass have the logits of sets that do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import densenet121, resnet18

from auditor.ablation import ExactEngine, Job, group_logits, sets
from auditor.ablation.edits import Edit, Mean, Zero
from auditor.models import probe_sites


def job(site: object, *units: int) -> Job:
    index = torch.tensor(units)
    return Job(site, index, torch.full((len(units),), 0.3), torch.ones(len(units)))


def groups_of(model: nn.Module, images: Tensor) -> list[list[Job]]:
    """Nothing; six sets on the last two sites, as random controls are; one set on the first site."""
    sites = probe_sites(model, images)
    late = [[job(sites[-2], unit, unit + 1), job(sites[-1], unit)] for unit in range(6)]
    return [[], *late, [job(sites[0], 1)]]


@pytest.mark.parametrize("edit", [Zero(), Mean()], ids=repr)
def test_tiny_models(tiny_model: nn.Module, tiny_batch: Tensor, edit: Edit) -> None:
    engine = ExactEngine(tiny_model, probe_sites(tiny_model, tiny_batch), tiny_batch)
    images, groups = engine.prepare(tiny_batch), groups_of(tiny_model, tiny_batch)
    advanced: list[float] = []
    found = list(sets.set_logits(engine, images, groups, edit, advance=advanced.append))
    for mine, wanted in zip(found, group_logits(engine.model, images, groups, edit), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)
    assert advanced == [1] * len(groups)
    assert float((found[1] - found[0]).abs().max()) > 1e-4


@pytest.mark.parametrize("build", [resnet18, densenet121], ids=["reused, in-place ReLU", "concatenation"])
def test_shared_passes_are_used_and_right(build: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, images = build(num_classes=5).eval(), torch.randn(3, 3, 48, 48)
    engine = ExactEngine(model, probe_sites(model, images), images)
    prepared, groups = engine.prepare(images), groups_of(model, images)
    calls = []
    original = sets._Shared.logits
    monkeypatch.setattr(sets._Shared, "logits", lambda *args: calls.append(1) or original(*args))
    found = list(sets.set_logits(engine, prepared, groups, Zero()))
    assert len(calls) == 6 + 2  # every late set, and two for the comparison with the plain way
    for mine, wanted in zip(found, group_logits(engine.model, prepared, groups, Zero()), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


def test_where_the_shared_pass_is_wrong_the_plain_way_is_taken(
    tiny_cnn: nn.Module, tiny_batch: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ExactEngine(tiny_cnn, probe_sites(tiny_cnn, tiny_batch), tiny_batch)
    images, groups = engine.prepare(tiny_batch), groups_of(tiny_cnn, tiny_batch)
    original = sets._Shared.logits
    monkeypatch.setattr(sets._Shared, "logits", lambda *args: original(*args) + 0.5)
    found = list(sets.set_logits(engine, images, groups, Zero()))
    for mine, wanted in zip(found, group_logits(engine.model, images, groups, Zero()), strict=True):
        torch.testing.assert_close(mine, wanted)
