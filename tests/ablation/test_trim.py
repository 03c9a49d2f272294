"""Tokens are left out where nothing reads them, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ablations import Net, assert_same, assert_untouched, by_engine, by_hand, jobs_of, pictures, seeded, state_of
from torch import Tensor, nn

from auditor.ablation import ExactEngine
from auditor.ablation.trim import unread_tokens
from auditor.errors import ModelError
from auditor.models import probe_sites

Head = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """Attention, then a network for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.value, self.proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.proj((h @ h.transpose(1, 2)).softmax(-1) @ self.value(h))
        return x + self.mlp(self.norm2(x))


def transformer(head: Head) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.fc(head(net.norm(net.b(net.a(net.patch(x).flatten(2).transpose(1, 2))))))

    modules = {"patch": nn.Conv2d(3, 8, 4, stride=4), "a": Block(), "b": Block(), "norm": nn.LayerNorm(8)}
    return seeded(lambda: Net(run, **modules, fc=nn.Linear(8, 3)).requires_grad_(False), seed=1)


def threshold(tokens: Tensor) -> Tensor:
    """The first token, and those that an image makes large: few of them, or none."""
    return torch.where(tokens[..., :1] > 2.0, tokens, 0).sum(1) + tokens[:, 0]


def strict(tokens: Tensor) -> Tensor:
    if not torch.isfinite(tokens).all():
        raise ValueError("not finite")
    return tokens[:, 0]


LAST = {"norm", "b.norm2", "b.mlp", "b.proj"}
HEADS: dict[str, tuple[Head, list[int], set[str]]] = {
    "the first": (lambda tokens: tokens[:, 0], [0], LAST),
    "the last": (lambda tokens: tokens[:, -1], [15], LAST),
    "two": (lambda tokens: tokens[:, 2] * tokens[:, 9], [2, 9], LAST),
    "nearly all": (lambda tokens: tokens[:, 1:].mean(1), [], set()),
    "all": (lambda tokens: tokens.mean(1), [], set()),
    "the largest": (lambda tokens: tokens.amax(1), [], set()),
    "those whose weights are large": (lambda tokens: (tokens[..., :1].relu() * tokens).sum(1), [], set()),
    "the most active two": (
        lambda tokens: tokens.gather(1, tokens[..., 0].topk(2).indices[..., None].expand(-1, -1, 8)).mean(1),
        [],
        set(),
    ),
}


@pytest.mark.parametrize("name", list(HEADS))
def test_what_a_head_does_not_read_is_left_out_behind_the_last_attention(name: str) -> None:
    head, tokens, layers = HEADS[name]
    model = transformer(head)
    before = state_of(model)
    found = unread_tokens(model, pictures(2))
    assert {layer for layer, _ in found} == layers
    assert all(own.tolist() == tokens for own in found.values())
    assert_untouched(model, before)


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("layers", ["activations", "type:LayerNorm", "type:Linear", ["a", "b", "b.mlp"]])
def test_with_tokens_left_out_every_unit_has_its_effect(name: str, layers: Any) -> None:
    model, images = transformer(HEADS[name][0]), pictures(4)
    sites = probe_sites(model, images, layers=layers)
    jobs = jobs_of(sites)
    engine = ExactEngine(model, sites, images)
    assert_same(by_engine(engine, images, jobs)[1], by_hand(model, images, jobs)[1])
    assert engine.fallbacks == {}


def test_maps_have_no_tokens(tiny_cnn: nn.Module, tiny_resnet: nn.Module) -> None:
    for model in (tiny_cnn, tiny_resnet):
        assert unread_tokens(model.requires_grad_(False), pictures(2)) == {}


def test_a_model_that_autograd_cannot_follow_is_left_whole() -> None:
    model = transformer(lambda tokens: torch.from_numpy(tokens.detach().numpy())[:, 0])
    assert unread_tokens(model, pictures(2)) == {}
    model = transformer(lambda tokens: tokens.add_(1)[:, 0].numpy() and tokens[:, 0])
    assert unread_tokens(model, pictures(2)) == {}


def test_tokens_above_a_threshold_are_not_left_out() -> None:
    model = transformer(threshold)
    assert unread_tokens(model, pictures(2)) == {}


def test_a_model_that_refuses_nan_is_left_whole() -> None:
    model, images = transformer(strict), pictures(3)
    sites = probe_sites(model, images)
    jobs = jobs_of(sites)
    engine = ExactEngine(model, sites, images)
    assert_same(by_engine(engine, images, jobs)[1], by_hand(model, images, jobs)[1])


def test_a_model_that_cannot_be_copied_is_refused_with_a_way_out(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    tiny_cnn.kept = tiny_cnn(tiny_batch.clone().requires_grad_())
    with pytest.raises(ModelError, match="cannot be copied") as caught:
        ExactEngine(tiny_cnn, [], tiny_batch)
    assert "--engine hooks" in str(caught.value)
