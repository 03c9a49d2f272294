"""Sets of units are edited together, later sites on top of what the earlier ones changed."""

from __future__ import annotations

import pytest
import torch
from ablations import assert_untouched, state_of
from torch import Tensor, nn

from auditor.ablation import Job, group_logits
from auditor.ablation.edits import Clamp, Mean, Noise, Resample, Zero
from auditor.errors import ModelError
from auditor.models import probe_sites
from auditor.units import Site


def jobs(sites: list[Site], units: dict[str, list[int]]) -> list[Job]:
    by_name = {site.name: site for site in sites}
    return [
        Job(by_name[name], torch.tensor(own), torch.arange(len(own)) / 4 + 0.5, torch.ones(len(own)))
        for name, own in units.items()
    ]


GROUP = {"relu": [1, 2], "blocks.0.relu@1": [0], "blocks.1.relu@2": [3, 7]}


def by_hand(model: nn.Module, images: Tensor, new: dict[str, Tensor]) -> Tensor:
    """The residual net, layer by layer, with the responses of GROUP's units replaced."""
    with torch.no_grad():
        x = model.relu(model.bn(model.conv(images)))
        x[:, [1, 2]] = new["relu"]
        for i, block in enumerate(model.blocks):
            y = torch.relu(block.bn1(block.conv1(x)))
            if i == 0:
                y[:, [0]] = new["blocks.0.relu@1"]
            x = torch.relu(block.bn2(block.conv2(y)) + x)
        x[:, [3, 7]] = new["blocks.1.relu@2"]
        return model.fc(x.mean((2, 3)))


def responses(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Of GROUP's units, in the intact net."""
    with torch.no_grad():
        first = model.relu(model.bn(model.conv(images)))
        block = model.blocks[0]
        inner = torch.relu(block.bn1(block.conv1(first)))
        return {
            "relu": first[:, [1, 2]],
            "blocks.0.relu@1": inner[:, [0]],
            "blocks.1.relu@2": model.blocks(first)[:, [3, 7]],
        }


def test_groups_silence_units_of_several_sites_at_once(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    before = state_of(tiny_resnet)
    steps: list[float] = []
    intact, joint, alone = group_logits(
        tiny_resnet, tiny_batch, [[], jobs(sites, GROUP), jobs(sites, {"relu": [4]})], Zero(), advance=steps.append
    )
    assert_untouched(tiny_resnet, before)
    assert steps == [1, 1, 1]
    with torch.no_grad():
        torch.testing.assert_close(intact, tiny_resnet(tiny_batch))
    zero = dict.fromkeys(GROUP, torch.zeros(()))
    torch.testing.assert_close(joint, by_hand(tiny_resnet, tiny_batch, zero), atol=1e-5, rtol=0)
    assert (alone - joint).abs().max() > 1e-4


def test_groups_are_held_at_their_own_means_or_one_value(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    group = jobs(probe_sites(tiny_resnet, tiny_batch), GROUP)
    means = {job.site.name: job.mean.view(1, -1, 1, 1) for job in group}
    (found,) = group_logits(tiny_resnet, tiny_batch, [group], Mean())
    torch.testing.assert_close(found, by_hand(tiny_resnet, tiny_batch, means), atol=1e-5, rtol=0)
    (found,) = group_logits(tiny_resnet, tiny_batch, [group], Clamp(0.25))
    one = dict.fromkeys(GROUP, torch.tensor(0.25))
    torch.testing.assert_close(found, by_hand(tiny_resnet, tiny_batch, one), atol=1e-5, rtol=0)


def test_groups_take_what_the_intact_net_says_of_other_images(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    group = jobs(probe_sites(tiny_resnet, tiny_batch), GROUP)
    donors = tiny_batch.roll(2, 0)
    (found,) = group_logits(tiny_resnet, tiny_batch, [group], Resample(), donors=donors)
    wanted = by_hand(tiny_resnet, tiny_batch, responses(tiny_resnet, donors))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_noise_is_added_on_top_of_what_earlier_sites_changed(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    drawn = {site.name: torch.randn(6, 8, 8, 8, generator=torch.Generator().manual_seed(4)) for site in sites}
    names = {"relu": [1, 2], "blocks.1.relu@2": [3, 7]}
    (found,) = group_logits(
        tiny_resnet, tiny_batch, [jobs(sites, names)], Noise(0.5), noise=lambda site: drawn[site.name]
    )
    with torch.no_grad():
        x = tiny_resnet.relu(tiny_resnet.bn(tiny_resnet.conv(tiny_batch)))
        x[:, [1, 2]] += 0.5 * drawn["relu"][:, [1, 2]]
        x = tiny_resnet.blocks(x)
        x[:, [3, 7]] += 0.5 * drawn["blocks.1.relu@2"][:, [3, 7]]
        torch.testing.assert_close(found, tiny_resnet.fc(x.mean((2, 3))), atol=1e-5, rtol=0)


@pytest.mark.parametrize("units", [[8], [-1, 0], [0, 100]])
def test_units_that_are_not_there_are_refused(tiny_resnet: nn.Module, tiny_batch: Tensor, units: list[int]) -> None:
    group = jobs(probe_sites(tiny_resnet, tiny_batch), {"relu": units})
    with pytest.raises(ModelError, match="units 0 to 7"):
        list(group_logits(tiny_resnet, tiny_batch, [[], group], Zero()))
