"""The weights that read a unit, against what is known of small networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from auditor.ablation.readers import output_norms
from auditor.models import probe_sites


class Net(nn.Module):
    """A depthwise layer, a residual sum, pooling before the logit layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act1 = nn.ReLU()
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.act2 = nn.ReLU()
        self.pointwise = nn.Conv2d(12, 6, 1)
        self.act3 = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.first(x))
        x = self.act3(x + self.pointwise(self.act2(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_norms_are_those_of_the_layers_that_read_the_units_first(net: Net) -> None:
    images = torch.randn(2, 3, 8, 8)
    found = output_norms(net, probe_sites(net, images), images)
    # act1 is read by the depthwise layer, and through the sum by the head.
    first = torch.stack(
        [(net.depthwise.weight[2 * u : 2 * u + 2].square().sum() + net.head.weight[:, u].square().sum()).sqrt()
         for u in range(6)]
    )  # fmt: skip
    torch.testing.assert_close(found["act1"], first.detach())
    torch.testing.assert_close(found["act2"], net.pointwise.weight.detach()[:, :, 0, 0].norm(dim=0))
    torch.testing.assert_close(found["act3"], net.head.weight.detach().norm(dim=0))


def test_units_that_are_mixed_before_they_are_read_have_none() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GroupNorm(1, 4), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images = torch.randn(2, 3, 8, 8)
    sites = probe_sites(net, images)
    assert output_norms(net, sites, images) == {site.name: None for site in sites}


def test_the_model_is_left_as_it_was(net: Net) -> None:
    images = torch.randn(2, 3, 8, 8)
    before = net(images)
    output_norms(net, probe_sites(net, images), images)
    assert torch.equal(net(images), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all("forward" not in module.__dict__ for module in net.modules())
