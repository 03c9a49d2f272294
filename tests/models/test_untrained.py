"""The untrained control."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.models.untrained import untrained_copy


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.arange(8.0))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale)


def trained() -> Net:
    torch.manual_seed(5)
    net = Net()
    with torch.no_grad():
        net.conv.weight.add_(3)
        net.norm.running_mean.add_(7)
    return net.eval()


def test_weights_are_those_of_a_fresh_layer_and_the_model_is_left_alone() -> None:
    net, images = trained(), torch.randn(16, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    found = untrained_copy(net, [images], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.manual_seed(3)
    fresh = Net()
    # Layers draw in the order in which they are made.
    assert torch.equal(found.conv.weight, fresh.conv.weight)
    assert torch.equal(found.head.weight, fresh.head.weight)
    assert sorted(found.scale.tolist()) == list(range(8))
    assert not found.training


def test_batch_norms_know_the_random_networks_own_statistics() -> None:
    net, batches = trained(), list(torch.randn(4, 16, 3, 8, 8))
    found = untrained_copy(net, batches, seed=3)
    outputs = torch.cat([found.conv(batch) for batch in batches])
    torch.testing.assert_close(found.norm.running_mean, outputs.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert found.norm.momentum == net.norm.momentum
    assert not found.norm.training


def test_same_seed_same_network() -> None:
    net, images = trained(), torch.randn(16, 3, 8, 8)
    first, second, other = (untrained_copy(net, [images], seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.conv.weight, other.conv.weight)
