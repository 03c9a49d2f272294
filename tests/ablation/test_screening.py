"""First-order estimates equal exact ablation where they can, derivatives everywhere, and leave the model alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.ablation import captum_unit_logits
from auditor.ablation.attributions import unit_attributions
from auditor.ablation.screening import first_order, rank_agreement
from auditor.errors import DataError, ModelError, OptionError
from auditor.models import probe_sites
from auditor.units import Site

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
ROWS = torch.arange(len(LABELS))


def edited(model: nn.Module, site: Site, images: Tensor, unit: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits with ``change(maps)`` added to one unit, by a hook that knows nothing of the package."""
    calls = 0

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls != site.call:
            return None
        maps = output.clone().movedim(site.unit_axis, 1)
        maps[:, unit] += change(maps)[:, unit]
        return maps.movedim(1, site.unit_axis)

    handle = model.get_submodule(site.layer).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model(images)
    finally:
        handle.remove()


def wave(maps: Tensor) -> Tensor:
    """A change that differs between units, positions and values."""
    return torch.cos(torch.arange(maps[0].numel(), dtype=maps.dtype)).view(maps.shape[1:]) + 0.5 * maps


@pytest.mark.parametrize(
    "fixture, name", [("tiny_cnn", "act3"), ("tiny_resnet", "blocks.1.relu@2"), ("tiny_vit", "blocks.1.act")]
)
@pytest.mark.parametrize("change", [torch.neg, wave])
def test_exact_where_the_logit_is_linear_in_the_site(
    fixture: str, name: str, change: Callable[[Tensor], Tensor], tiny_batch: Tensor, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(fixture)
    if fixture == "tiny_vit":
        model.norm = nn.Identity()
    sites = probe_sites(model, tiny_batch)
    delta = None if change is torch.neg else lambda _, maps: change(maps)
    found = first_order(model, tiny_batch, LABELS, sites, delta=delta)[name].target_logit_drop
    site = next(site for site in sites if site.name == name)
    before = model(tiny_batch).detach()[ROWS, LABELS]
    for unit in range(site.n_units):
        drop = before - edited(model, site, tiny_batch, unit, change)[ROWS, LABELS]
        torch.testing.assert_close(found[:, unit], drop, atol=1e-6, rtol=1e-5)


def test_linear_tail_equals_captums_ablation(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    site = probe_sites(tiny_resnet, tiny_batch)[-1]
    found = first_order(tiny_resnet, tiny_batch, LABELS, [site])[site.name].target_logit_drop
    ablated = captum_unit_logits(tiny_resnet, tiny_batch, LABELS, site, range(site.n_units))
    drop = tiny_resnet(tiny_batch).detach()[ROWS, LABELS] - ablated[:, ROWS, LABELS]
    torch.testing.assert_close(found, drop.T, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("change", [torch.neg, wave])
def test_finite_differences(change: Callable[[Tensor], Tensor], tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    model, images, step = tiny_model.double(), tiny_batch.double(), 1e-6
    sites = probe_sites(model, images)
    delta = None if change is torch.neg else lambda _, maps: change(maps)
    found = first_order(model, images, LABELS, sites, delta=delta)
    assert list(found) == [site.name for site in sites]
    for site in sites:
        for unit in (0, site.n_units - 1):
            up, down = (
                edited(model, site, images, unit, lambda maps, sign=sign: sign * step * change(maps))
                for sign in (1, -1)
            )
            loss = [cross_entropy(logits, LABELS, reduction="none") for logits in (up, down)]
            by_loss = ((loss[0] - loss[1]) / (2 * step)).float()
            by_logit = (-(up - down)[ROWS, LABELS] / (2 * step)).float()
            torch.testing.assert_close(found[site.name].loss_change[:, unit], by_loss, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(found[site.name].target_logit_drop[:, unit], by_logit, atol=1e-6, rtol=1e-4)


def test_logit_drop_is_gradient_x_activation(tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    sites = probe_sites(tiny_model, tiny_batch)
    for site_name, found in first_order(tiny_model, tiny_batch, LABELS, sites).items():
        site = next(site for site in sites if site.name == site_name)
        expected = unit_attributions(tiny_model, tiny_batch, LABELS, site, method="gradient_x_activation")
        assert found.target_logit_drop.dtype == found.loss_change.dtype == torch.float32
        torch.testing.assert_close(found.target_logit_drop, expected, atol=1e-7, rtol=1e-5)


def test_calls_of_one_module_are_told_apart(tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    first, second = (s for s in probe_sites(tiny_resnet, tiny_batch) if s.layer == "blocks.1.relu")
    both = first_order(tiny_resnet, tiny_batch, LABELS, [first, second])
    for site in (first, second):
        alone = first_order(tiny_resnet, tiny_batch, LABELS, [site])[site.name]
        torch.testing.assert_close(both[site.name].loss_change, alone.loss_change)
    assert (both[first.name].loss_change - both[second.name].loss_change).abs().max() > 1e-3


class Aliases(nn.Module):
    """Its tensors go by several names: a nonlinearity works in place, a dropout does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.drop = nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Dropout()
        self.left, self.right = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.act(x)  # the same as x from here on, unless a hook gives out another tensor
        z = self.drop(y)
        return self.left(z.mean((2, 3))) + self.right(x.mean((2, 3))) + self.right(y.mean((2, 3)))


def test_tensors_with_several_names(tiny_batch: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Aliases().eval()
    sites = probe_sites(model, tiny_batch, layers=["act", "drop"])
    before = model(tiny_batch).detach()[ROWS, LABELS]
    for site in sites:
        found = first_order(model, tiny_batch, LABELS, [site])[site.name].target_logit_drop
        for unit in range(5):
            drop = before - edited(model, site, tiny_batch, unit, torch.neg)[ROWS, LABELS]
            torch.testing.assert_close(found[:, unit], drop, atol=1e-6, rtol=1e-5)


def test_what_follows_a_site_may_work_in_place(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    sites = probe_sites(tiny_cnn, tiny_batch, layers=["conv1", "act1", "conv2", "act2", "fc1"])
    found = first_order(tiny_cnn, tiny_batch, LABELS, sites, delta=lambda _, maps: wave(maps))
    for module in tiny_cnn.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = first_order(tiny_cnn, tiny_batch, LABELS, sites, delta=lambda _, maps: wave(maps))
    for name in expected:
        torch.testing.assert_close(found[name].loss_change, expected[name].loss_change)


def state(model: nn.Module) -> list[object]:
    found: list[object] = []
    for name, module in model.named_modules():
        for key, value in sorted(vars(module).items()):
            entries = [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else id(value)
            found.append((name, id(module), key, entries))
    found += [(p.requires_grad, p.grad, p._version) for p in model.parameters()]
    return found


def test_nothing_is_left_behind_and_frozen_parameters_change_nothing(tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    sites = probe_sites(tiny_model, tiny_batch)
    images, before = tiny_batch.clone(), state(tiny_model)
    free = first_order(tiny_model, tiny_batch, LABELS, sites)
    assert state(tiny_model) == before
    with pytest.raises((IndexError, RuntimeError)):
        first_order(tiny_model, tiny_batch, LABELS + 5, sites)
    assert state(tiny_model) == before
    tiny_model.requires_grad_(False)
    with torch.no_grad():
        frozen = first_order(tiny_model, tiny_batch, LABELS, sites)
    assert torch.equal(images, tiny_batch)
    for name in free:
        assert not free[name].loss_change.requires_grad
        torch.testing.assert_close(free[name].loss_change, frozen[name].loss_change)
        torch.testing.assert_close(free[name].target_logit_drop, frozen[name].target_logit_drop)


def test_one_forward_and_two_backward_passes(
    tiny_resnet: nn.Module, tiny_batch: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = probe_sites(tiny_resnet, tiny_batch)
    passes: list[str] = []
    backward = torch.autograd.grad

    def counted(*args: object, **options: object) -> object:
        passes.append("backward")
        return backward(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    tiny_resnet.register_forward_pre_hook(lambda *_: passes.append("forward"))
    first_order(tiny_resnet, tiny_batch, LABELS, sites)
    assert passes == ["forward", "backward", "backward"]


def test_delta_sees_maps_with_units_first(tiny_vit: nn.Module, tiny_batch: Tensor) -> None:
    site = probe_sites(tiny_vit, tiny_batch)[0]
    seen: list[tuple[str, tuple[int, ...]]] = []

    def delta(at: Site, maps: Tensor) -> Tensor:
        seen.append((at.name, tuple(maps.shape)))
        return torch.ones(1, 1, 1)

    broadcast = first_order(tiny_vit, tiny_batch, LABELS, [site], delta=delta)[site.name]
    whole = first_order(tiny_vit, tiny_batch, LABELS, [site], delta=lambda _, m: torch.ones_like(m))[site.name]
    assert seen == [("blocks.0.act", (6, 24, 17))]
    torch.testing.assert_close(broadcast.loss_change, whole.loss_change)


def test_sites_without_effect_and_sites_that_are_not_there(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return self.fc(x.mean((2, 3)))

    for frozen in (False, True):
        model = Unused().eval().requires_grad_(not frozen)
        idle, fc = probe_sites(model, tiny_batch, layers=["idle", "fc"])
        for sites in ([idle], [fc, idle]):
            found = first_order(model, tiny_batch, LABELS, sites)["idle"]
            assert torch.equal(found.loss_change, torch.zeros(6, 4))
            assert torch.equal(found.target_logit_drop, torch.zeros(6, 4))
    assert first_order(tiny_cnn, tiny_batch, LABELS, []) == {}
    with pytest.raises(ModelError, match="not reached"):
        first_order(tiny_cnn, tiny_batch, LABELS, [Site("act1", 2, 2, 1, 8, (8, 8, 8), "ReLU")])
    with pytest.raises(ModelError, match="no layer"):
        first_order(tiny_cnn, tiny_batch, LABELS, [Site("act9", 1, 1, 1, 8, (8, 8, 8), "ReLU")])


# --- rank agreement --------------------------------------------------------------------------------------------------


def pairs(n: int, decimals: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=n)
    return x.round(decimals), (x + rng.normal(size=n)).round(decimals)


@pytest.mark.parametrize("decimals", [8, 0])
def test_rank_agreement_equals_scipy_and_its_percentiles(decimals: int) -> None:
    x, y = pairs(40, decimals)
    found = rank_agreement(x, y, confidence=0.9, bootstraps=200, seed=3)
    assert found.rho == pytest.approx(spearmanr(x, y).statistic)
    assert (found.n, found.reason) == (40, "")
    rng = np.random.default_rng(3)
    draws = [rng.integers(40, size=40) for _ in range(200)]
    low, high = np.quantile([spearmanr(x[draw], y[draw]).statistic for draw in draws], [0.05, 0.95])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found == rank_agreement(torch.tensor(x), y.tolist(), confidence=0.9, bootstraps=200, seed=3)
    assert found != rank_agreement(x, y, confidence=0.9, bootstraps=200, seed=4)


@pytest.mark.filterwarnings("error")
def test_resamples_without_variation_are_left_out() -> None:
    found = rank_agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], bootstraps=50)
    assert found.rho == pytest.approx(0.5)
    assert -1 <= found.low <= found.high <= 1


@pytest.mark.parametrize(
    "estimate, exact, reason",
    [
        ([1, 2], [1, 2], "fewer than 3"),
        ([], [], "fewer than 3"),
        ([1, 1, 1], [1, 2, 3], "the estimate is the same"),
        ([1, 2, 3], [2, 2, 2], "the exact effect is the same"),
        ([1, 2, math.nan], [1, 2, 3], "not finite"),
    ],
)
def test_rank_agreement_says_why_it_is_not_defined(estimate: list[float], exact: list[float], reason: str) -> None:
    found = rank_agreement(estimate, exact)
    assert all(math.isnan(value) for value in (found.rho, found.low, found.high))
    assert reason in found.reason
    assert found.n == len(estimate)


def test_rank_agreement_refuses_what_does_not_fit() -> None:
    with pytest.raises(DataError, match="equal length"):
        rank_agreement([1, 2, 3], [1, 2])
    with pytest.raises(OptionError, match="between 0 and 1"):
        rank_agreement([1, 2, 3], [1, 2, 3], confidence=95)
    with pytest.raises(OptionError, match="resamples"):
        rank_agreement([1, 2, 3], [1, 2, 3], bootstraps=0)


def test_the_estimate_ranks_the_units_of_a_network_as_ablation_does(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    site = next(site for site in probe_sites(tiny_cnn, tiny_batch) if site.name == "act2")
    estimate = first_order(tiny_cnn, tiny_batch, LABELS, [site])[site.name].target_logit_drop.mean(0)
    ablated = captum_unit_logits(tiny_cnn, tiny_batch, LABELS, site, range(site.n_units))
    exact = (tiny_cnn(tiny_batch).detach()[ROWS, LABELS] - ablated[:, ROWS, LABELS]).mean(1)
    found = rank_agreement(estimate, exact, bootstraps=100)
    assert found.low <= found.rho <= found.high
    assert found.rho > 0.8
