"""Captum's attributions equal their definitions by hand, sum to what METHODS says, and leave the model alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import LayerConductance, LayerDeepLift
from torch import Tensor, nn

from auditor.ablation import captum_unit_logits
from auditor.ablation.attributions import METHODS, unit_attributions
from auditor.errors import ModelError, OptionError, UnknownNameError
from auditor.models import probe_sites
from auditor.units import Site

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
ROWS = torch.arange(len(LABELS))


def label_logit(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)[ROWS, LABELS]


def sites_of(model: nn.Module, images: Tensor, layers: str | list[str] = "activations") -> dict[str, Site]:
    return {site.name: site for site in probe_sites(model, images, layers=layers)}


def by_unit(maps: Tensor, site: Site) -> Tensor:
    return maps.movedim(site.unit_axis, 1).reshape(len(maps), site.n_units, -1).sum(-1)


def with_hook(model: nn.Module, site: Site, images: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits with one call's output replaced, by a hook that knows nothing of the package."""
    calls = 0

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        return act(output) if calls == site.call else None

    handle = model.get_submodule(site.layer).register_forward_hook(hook)
    try:
        return model(images)
    finally:
        handle.remove()


def gradient(model: nn.Module, site: Site, images: Tensor) -> tuple[Tensor, Tensor]:
    """A site's output, and the gradient of the label's logit there."""
    found: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        found.append(output.clone())
        return found[0].clone()

    logits = with_hook(model, site, images, keep)
    return found[0].detach(), torch.autograd.grad(logits[ROWS, LABELS].sum(), found)[0]


def activation(model: nn.Module, site: Site, images: Tensor) -> Tensor:
    return gradient(model, site, images)[0]


# --- the definitions -------------------------------------------------------------------------------------------------


def test_gradient_x_activation_equals_autograd_by_hand(tiny_model: nn.Module, tiny_batch: Tensor) -> None:
    for site in probe_sites(tiny_model, tiny_batch):
        found = unit_attributions(tiny_model, tiny_batch, LABELS, site, method="gradient_x_activation")
        output, slope = gradient(tiny_model, site, tiny_batch)
        assert found.shape == (6, site.n_units)
        torch.testing.assert_close(found, by_unit(output * slope, site), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fixture, name", [("tiny_cnn", "act3"), ("tiny_resnet", "blocks.1.relu@2")])
def test_gradient_x_activation_equals_ablation_before_a_linear_tail(
    fixture: str, name: str, tiny_batch: Tensor, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(fixture)
    site = sites_of(model, tiny_batch)[name]
    found = unit_attributions(model, tiny_batch, LABELS, site, method="gradient_x_activation")
    ablated = captum_unit_logits(model, tiny_batch, LABELS, site, range(site.n_units))
    drop = label_logit(model, tiny_batch) - ablated[:, ROWS, LABELS]
    torch.testing.assert_close(found, drop.T, atol=1e-6, rtol=1e-5)


def test_integrated_gradients_sum_to_the_change_from_the_zero_inputs_activation(
    tiny_model: nn.Module, tiny_batch: Tensor
) -> None:
    for site in probe_sites(tiny_model, tiny_batch):
        found = unit_attributions(tiny_model, tiny_batch, LABELS, site, method="integrated_gradients", steps=200)
        start = activation(tiny_model, site, torch.zeros_like(tiny_batch))
        with torch.no_grad():
            at_start = with_hook(tiny_model, site, tiny_batch, lambda _, start=start: start.clone())[ROWS, LABELS]
        change = label_logit(tiny_model, tiny_batch) - at_start
        assert (found.sum(1) - change).abs().max() < 0.01 * change.abs().max()


def test_integrated_gradients_without_biases_sum_to_the_effect_of_silencing_the_site(
    tiny_cnn: nn.Module, tiny_batch: Tensor
) -> None:
    for name, parameter in tiny_cnn.named_parameters():
        if "bias" in name:
            parameter.detach().zero_()
    for site in probe_sites(tiny_cnn, tiny_batch):
        found = unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method="integrated_gradients")
        with torch.no_grad():
            silent = with_hook(tiny_cnn, site, tiny_batch, torch.zeros_like)[ROWS, LABELS]
        torch.testing.assert_close(found.sum(1), label_logit(tiny_cnn, tiny_batch) - silent, atol=1e-6, rtol=1e-5)


def test_internal_influence_is_the_mean_gradient_on_the_way_from_zero(
    tiny_model: nn.Module, tiny_batch: Tensor
) -> None:
    points, weights = np.polynomial.legendre.leggauss(5)
    for site in probe_sites(tiny_model, tiny_batch):
        found = unit_attributions(tiny_model, tiny_batch, LABELS, site, method="internal_influence", steps=5)
        expected = sum(
            float(weight) / 2 * gradient(tiny_model, site, tiny_batch * float((1 + point) / 2))[1]
            for point, weight in zip(points, weights, strict=True)
        )
        torch.testing.assert_close(found, by_unit(expected, site), atol=1e-6, rtol=1e-4)


def test_conductance_is_the_change_of_the_site_times_the_gradient_step_by_step(
    tiny_resnet: nn.Module, tiny_batch: Tensor
) -> None:
    steps = 4
    for site in probe_sites(tiny_resnet, tiny_batch):
        found = unit_attributions(tiny_resnet, tiny_batch, LABELS, site, method="conductance", steps=steps)
        path = [gradient(tiny_resnet, site, tiny_batch * (i / steps)) for i in range(steps + 1)]
        expected = sum((path[i + 1][0] - path[i][0]) * path[i][1] for i in range(steps))
        torch.testing.assert_close(found, by_unit(expected, site), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "fixture, names",
    [
        ("tiny_cnn", ["act1", "act2", "act3"]),
        ("tiny_resnet", ["relu", "blocks.0.relu@2", "blocks.1.relu@2"]),
    ],
)
def test_conductance_and_deeplift_sum_to_the_change_from_the_zero_input(
    fixture: str, names: list[str], tiny_batch: Tensor, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(fixture)
    sites = sites_of(model, tiny_batch)
    change = label_logit(model, tiny_batch) - label_logit(model, torch.zeros_like(tiny_batch))
    for name in names:
        exact = unit_attributions(model, tiny_batch, LABELS, sites[name], method="deeplift").sum(1)
        torch.testing.assert_close(exact, change, atol=1e-6, rtol=1e-5)
        coarse, fine = (
            unit_attributions(model, tiny_batch, LABELS, sites[name], method="conductance", steps=n).sum(1) - change
            for n in (16, 256)
        )
        assert fine.abs().max() < 0.02 * change.abs().max()
        assert fine.abs().max() <= 0.3 * coarse.abs().max() + 1e-6


def test_conductance_equals_captum_used_directly(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    site = sites_of(tiny_cnn, tiny_batch)["act2"]
    found = unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method="conductance", steps=9)
    direct = LayerConductance(tiny_cnn, tiny_cnn.act2).attribute(
        tiny_batch, target=LABELS, n_steps=9, method="riemann_trapezoid"
    )
    torch.testing.assert_close(found, by_unit(direct.detach(), site), atol=1e-6, rtol=1e-5)


# --- DeepLift --------------------------------------------------------------------------------------------------------


def deeplift_by_hand(model: nn.Module, images: Tensor, site: Site) -> Tensor:
    """Rescale rule: every ReLU becomes a straight line through its values on the image and on the zero input."""
    model = copy.deepcopy(model)
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.inplace = False
    calls: list[tuple[Tensor, Tensor]] = []
    handles = [r.register_forward_hook(lambda _, given, out: calls.append((given[0], out))) for r in relus]
    with torch.no_grad():
        model(images)
        on_image, calls[:] = list(calls), []
        model(torch.zeros_like(images))
        on_zero = list(calls)
    for handle in handles:
        handle.remove()
    lines = iter(zip(on_image, on_zero, strict=True))

    def line(_module: nn.Module, given: tuple[Tensor], _out: Tensor) -> Tensor:
        (x, y), (x0, y0) = next(lines)
        return y + torch.where(x == x0, (x > 0).float(), (y - y0) / (x - x0)) * (given[0] - x)

    before = activation(model, site, images), activation(model, site, torch.zeros_like(images))
    for relu in relus:
        relu.register_forward_hook(line)
    _, slope = gradient(model, site, images)
    return by_unit(slope * (before[0] - before[1]), site)


class Net(nn.Module):
    """Two convolutions and something between and after them."""

    def __init__(self, between: nn.Module, after: nn.Module, kind: str = "chain") -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3, padding=1)
        self.between, self.after, self.fc, self.kind = between, after, nn.Linear(6, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.kind == "preactivation":
            x = x + self.conv2(self.between(x))
        elif self.kind == "branches":
            x = self.after(x) + self.after(self.conv2(x))
        elif self.kind == "function":
            x = torch.relu(self.conv2(self.between(x)))
        else:
            x = self.after(self.conv2(self.between(x)))
        return self.fc(x.mean((2, 3)))


def net(between: nn.Module, after: nn.Module | None = None, kind: str = "chain") -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net(between, after or nn.ReLU(), kind).eval()


def deeplift_error(model: nn.Module, images: Tensor, site: Site) -> float:
    found = unit_attributions(model, images, LABELS, site, method="deeplift")
    expected = deeplift_by_hand(model, images, site)
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("fixture", ["tiny_cnn", "tiny_resnet"])
def test_deeplift_equals_the_rescale_rule_by_hand(
    fixture: str, tiny_batch: Tensor, request: pytest.FixtureRequest
) -> None:
    """All nonlinearities work in place here, and those of the residual net are called twice."""
    model = request.getfixturevalue(fixture)
    for site in probe_sites(model, tiny_batch):
        assert deeplift_error(model, tiny_batch, site) < 1e-5


@pytest.mark.parametrize("kind", ["preactivation", "branches"])
def test_deeplift_where_inputs_or_modules_are_shared(kind: str, tiny_batch: Tensor) -> None:
    shared = nn.ReLU()
    model = net(shared, shared, kind)
    sites = sites_of(model, tiny_batch, ["conv1", "conv2"])
    for site in sites.values():
        assert deeplift_error(model, tiny_batch, site) < 1e-5
    direct = LayerDeepLift(model, model.conv1)
    if kind == "preactivation":  # Captum by itself drops the path around the nonlinearity, without a word
        alone = direct.attribute(tiny_batch.clone().requires_grad_(), target=LABELS).detach()
        expected = deeplift_by_hand(model, tiny_batch, sites["conv1"])
        assert (by_unit(alone, sites["conv1"]) - expected).abs().max() > 0.1 * expected.abs().max()
    else:
        with pytest.raises(RuntimeError, match="being used more than once"):
            direct.attribute(tiny_batch.clone().requires_grad_(), target=LABELS)


def test_deeplift_through_max_pooling_sums_to_the_change_from_the_zero_input(tiny_batch: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        model = nn.Sequential(*layers, nn.Conv2d(6, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 3)).eval()
    change = label_logit(model, tiny_batch) - label_logit(model, torch.zeros_like(tiny_batch))
    for site in probe_sites(model, tiny_batch, layers=["0", "1", "2", "3", "4", "5"]):
        found = unit_attributions(model, tiny_batch, LABELS, site, method="deeplift")
        torch.testing.assert_close(found.sum(1), change, atol=1e-6, rtol=1e-5)
    # Captum by itself takes the ordinary gradient of a pool that follows a ReLU.
    alone = LayerDeepLift(model, model[2]).attribute(tiny_batch.clone().requires_grad_(), target=LABELS)
    assert (alone.detach().flatten(1).sum(1) - change).abs().max() > 0.01 * change.abs().max()


@pytest.mark.parametrize(
    "build",
    [
        lambda: net(nn.ReLU(), kind="function"),
        lambda: net(nn.GELU()),
        lambda: net(nn.MaxPool2d(3, stride=2, padding=1)),
        lambda: nn.Sequential(net(nn.ReLU()), nn.Softmax(1)).eval(),
        lambda: net(nn.ReLU(), nn.GroupNorm(2, 6)),
    ],
    ids=["function", "no rule", "overlapping windows", "softmax", "norm"],
)
def test_deeplift_is_refused_where_captum_would_be_silently_wrong(
    build: Callable[[], nn.Module], tiny_batch: Tensor
) -> None:
    model = build()
    layer = next(name for name, _ in model.named_modules() if name.endswith("conv1"))
    site = sites_of(model, tiny_batch, [layer])[layer]
    before = state(model)
    with pytest.raises(ModelError, match=f"DeepLift is not right at {layer}") as caught:
        unit_attributions(model, tiny_batch, LABELS, site, method="deeplift")
    assert caught.value.wanted
    assert caught.value.got
    assert caught.value.fix
    assert state(model) == before
    alone = LayerDeepLift(model, model.get_submodule(layer)).attribute(
        tiny_batch.clone().requires_grad_(), target=LABELS
    )
    change = label_logit(model, tiny_batch) - label_logit(model, torch.zeros_like(tiny_batch))
    if "MaxPool" not in str(model):  # there the sum is right by chance: the zero input's maps are flat
        assert (alone.detach().flatten(1).sum(1) - change).abs().max() > 0.01 * change.abs().max()


def test_deeplift_after_what_it_has_no_rule_for(tiny_batch: Tensor) -> None:
    model = net(nn.GELU())
    site = sites_of(model, tiny_batch, ["conv2"])["conv2"]
    assert deeplift_error(model, tiny_batch, site) < 1e-5


def test_deeplift_is_refused_behind_a_backward_hook_and_on_a_transformer(
    tiny_vit: nn.Module, tiny_batch: Tensor
) -> None:
    model = net(nn.ReLU())
    model.after.register_full_backward_hook(lambda *_: None)
    for refused, layer in ((model, "conv1"), (tiny_vit, "blocks.0.act")):
        with pytest.raises(ModelError, match="has no rule"):
            unit_attributions(
                refused, tiny_batch, LABELS, sites_of(refused, tiny_batch, [layer])[layer], method="deeplift"
            )


def test_deeplift_is_refused_where_the_model_needs_what_changed_in_place(tiny_batch: Tensor) -> None:
    model = net(nn.ReLU(inplace=True), kind="preactivation")
    site = sites_of(model, tiny_batch, ["conv2"])["conv2"]
    before = state(model)
    with pytest.raises(ModelError, match="changed in place"):
        unit_attributions(model, tiny_batch, LABELS, site, method="deeplift")
    assert state(model) == before


# --- the model is left alone -----------------------------------------------------------------------------------------


def state(model: nn.Module) -> list[object]:
    """Everything that hangs on the modules, tables by their entries."""
    found: list[object] = []
    for name, module in model.named_modules():
        for key, value in sorted(vars(module).items()):
            entries = [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else id(value)
            found.append((name, id(module), key, entries))
    found += [(p.requires_grad, p.grad, p._version) for p in model.parameters()]
    return found


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_on_the_model(method: str, tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    site = sites_of(tiny_resnet, tiny_batch)["blocks.0.relu@1"]
    before, images = state(tiny_resnet), tiny_batch.clone()
    found = unit_attributions(tiny_resnet, tiny_batch, LABELS, site, method=method, steps=3)
    assert not found.requires_grad
    assert found.dtype == torch.float32
    assert state(tiny_resnet) == before
    with pytest.raises((IndexError, RuntimeError)):
        unit_attributions(tiny_resnet, tiny_batch, LABELS + 5, site, method=method, steps=3)
    assert state(tiny_resnet) == before
    assert torch.equal(images, tiny_batch)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_and_no_grad_change_nothing(method: str, tiny_resnet: nn.Module, tiny_batch: Tensor) -> None:
    for site in probe_sites(tiny_resnet, tiny_batch):
        tiny_resnet.requires_grad_(True)
        free = unit_attributions(tiny_resnet, tiny_batch, LABELS, site, method=method, steps=3)
        tiny_resnet.requires_grad_(False)
        with torch.no_grad():
            frozen = unit_attributions(tiny_resnet, tiny_batch, LABELS, site, method=method, steps=3)
        torch.testing.assert_close(free, frozen, atol=1e-7, rtol=1e-5)


# --- options and edges -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error:Internal batch size", "error:This method computes finite differences")
@pytest.mark.parametrize("method", METHODS)
def test_no_pass_is_larger_than_asked_for(method: str, tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    site = sites_of(tiny_cnn, tiny_batch)["act2"]
    whole = unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method=method, steps=7)
    sizes: list[int] = []
    handle = tiny_cnn.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for largest in (2, 5, 13):
        sizes.clear()
        parts = unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method=method, steps=7, max_batch=largest)
        assert max(sizes) <= largest
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)
    handle.remove()


@pytest.mark.parametrize("method", METHODS)
def test_what_follows_the_site_may_work_in_place(method: str, tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    site = sites_of(tiny_cnn, tiny_batch, ["conv2"])["conv2"]
    found = unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method=method, steps=5)
    for module in tiny_cnn.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    torch.testing.assert_close(found, unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method=method, steps=5))


class Unused(nn.Module):
    """Computes something that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_a_site_without_effect_gets_zero(method: str, tiny_batch: Tensor) -> None:
    for frozen in (False, True):
        model = Unused().eval().requires_grad_(not frozen)
        site = sites_of(model, tiny_batch, ["idle"])["idle"]
        found = unit_attributions(model, tiny_batch, LABELS, site, method=method, steps=2)
        assert torch.equal(found, torch.zeros(6, 4))


def test_mistakes_are_named(tiny_cnn: nn.Module, tiny_batch: Tensor) -> None:
    site = sites_of(tiny_cnn, tiny_batch)["act1"]
    with pytest.raises(UnknownNameError, match="conductance"):
        unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method="conductence")
    with pytest.raises(OptionError, match="positive"):
        unit_attributions(tiny_cnn, tiny_batch, LABELS, site, method="conductance", steps=0)
    later = Site("act1", 2, 2, 1, 8, (8, 8, 8), "ReLU")
    for method in METHODS:
        with pytest.raises(ModelError, match="not reached"):
            unit_attributions(tiny_cnn, tiny_batch, LABELS, later, method=method)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_cuda_equals_the_cpu(
    method: str, tiny_resnet: nn.Module, tiny_batch: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    site = sites_of(tiny_resnet, tiny_batch)["blocks.0.relu@1"]
    cpu = unit_attributions(tiny_resnet, tiny_batch, LABELS, site, method=method, steps=8)
    gpu = unit_attributions(tiny_resnet.cuda(), tiny_batch.cuda(), LABELS, site, method=method, steps=8)
    torch.testing.assert_close(cpu, gpu, atol=1e-3, rtol=1e-2)
