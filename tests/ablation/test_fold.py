"""Batch norms are folded where that is known to be right, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from ablations import (
    Net,
    assert_same,
    assert_untouched,
    by_engine,
    by_hand,
    calibrated,
    jobs_of,
    pictures,
    seeded,
    state_of,
)
from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from auditor.ablation import ExactEngine
from auditor.ablation.fold import folded_copy
from auditor.models import probe_sites

Build = Callable[[], nn.Module]


def norm(width: int = 4, **options: Any) -> nn.BatchNorm2d:
    """A batch norm that does something."""
    return shaken(nn.BatchNorm2d(width, **options))


def shaken(made: Any) -> Any:
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn_like(parameter) / 2
        if made.running_mean is not None:
            made.running_mean.normal_()
            made.running_var.uniform_(0.5, 2)
    return made


def conv(inputs: int = 3, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def in_a_row(net: Any, x: Tensor) -> Tensor:
    return functional.relu(net.norm(net.conv(x))).mean((2, 3))


def one(build_conv: Callable[[], nn.Module] = conv, build_norm: Build = norm) -> Build:
    return lambda: Net(in_a_row, conv=build_conv(), norm=build_norm())


FOLDED: dict[str, tuple[Build, int]] = {
    "with a bias": (one(lambda: conv(bias=True)), 1),
    "without a bias": (one(lambda: conv(bias=False)), 1),
    "depthwise": (one(lambda: conv(3, 6, groups=3), lambda: norm(6)), 1),
    "strided and dilated": (one(lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), dilation=(1, 2))), 1),
    "reflecting padding": (one(lambda: conv(padding_mode="reflect")), 1),
    "no affine parameters": (one(conv, lambda: norm(affine=False)), 1),
    "timm's padding": (one(lambda: Conv2dSame(3, 4, 3, stride=2, bias=False)), 1),
    "timm's norm with its nonlinearity": (one(conv, lambda: shaken(BatchNormAct2d(4, act_layer=nn.SiLU))), 1),
    "timm's norm without": (one(conv, lambda: shaken(BatchNormAct2d(4, apply_act=False))), 1),
    "a chain": (
        lambda: nn.Sequential(
            conv(), norm(), nn.ReLU(), conv(4, 4, bias=False), norm(), conv(4, 5), norm(5), nn.Flatten()
        ),
        3,
    ),
    "an identity between": (lambda: nn.Sequential(conv(), nn.Identity(), nn.Dropout(), norm(), nn.Flatten()), 1),
    "an in-place nonlinearity after": (lambda: nn.Sequential(conv(), norm(), nn.ReLU(inplace=True), nn.Flatten()), 1),
    "resnet18": (lambda: calibrated(models.resnet18(num_classes=5), pictures(8, 32)), 20),
    "densenet": (lambda: calibrated(models.DenseNet(8, (2, 2), 16, num_classes=5), pictures(8, 32)), 5),
    "timm's efficientnet": (
        lambda: calibrated(timm.create_model("test_efficientnet", num_classes=5), pictures(8, 64)),
        13,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FOLDED))
def test_a_folded_copy_computes_what_the_model_does(name: str) -> None:
    build, count = FOLDED[name]
    model, images = seeded(build), pictures(3, 32)
    before = state_of(model)
    copied, folded = folded_copy(model, images, [])
    assert folded == count
    with torch.no_grad():
        wanted = model(images)
        torch.testing.assert_close(copied(images), wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)
    # Of the modules only the batch norms are others.
    theirs, ours = dict(model.named_modules()), dict(copied.named_modules())
    changed = {name for name, child in theirs.items() if type(ours[name]) is not type(child)}
    assert len(changed) == count
    assert all(isinstance(theirs[name], nn.BatchNorm2d) for name in changed)
    assert not any(p.requires_grad for p in copied.parameters())
    assert not any(child.training for child in copied.modules())
    assert_untouched(model, before)


class Standardised(nn.Conv2d):
    """Its name is not its class: weights are standardised at each call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std(), self.bias, padding=1)


Standardised.__name__ = "Conv2d"


def twice(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(net.conv(x))).mean((2, 3))


def norm_twice(net: Any, x: Tensor) -> Tensor:
    return (net.norm(net.conv(x)) + net.norm(net.more(x))).mean((2, 3))


def skipping(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    return (net.norm(h) + h).mean((2, 3))


def read_later(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    return net.norm(h).mean((2, 3)) * h.flatten(2)[:, :, 0]


def after_relu(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).relu()).mean((2, 3))


def after_relu_in_place(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).relu_()).mean((2, 3))


def of_the_sum(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x) + 1).mean((2, 3))


def of_a_part(net: Any, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)[:, :, 1:]).mean((2, 3))


def sharing() -> nn.Module:
    net = Net(lambda net, x: net.norm(net.conv(x)).mean((2, 3)) + net.other(x).mean((2, 3)), conv=conv(), norm=norm(),
              other=conv())  # fmt: skip
    net.other.weight = net.conv.weight
    return net


def sharing_a_norm() -> nn.Module:
    net = Net(lambda net, x: net.norm(net.conv(x)).mean((2, 3)) + net.more(x[:, :1] * 0).mean((2, 3)), conv=conv(),
              norm=norm(), more=nn.Conv2d(1, 4, 1))  # fmt: skip
    net.more.bias = net.norm.bias
    return net


def hooked_weight() -> nn.Module:
    return Net(in_a_row, conv=nn.utils.spectral_norm(conv()), norm=norm())


def hooked_output() -> nn.Module:
    net = Net(in_a_row, conv=conv(), norm=norm())
    net.conv.register_forward_hook(_square)
    return net


def _square(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output**2


KEPT: dict[str, Build] = {
    "a convolution that runs twice": lambda: Net(twice, conv=conv(3, 3), norm=norm(3)),
    "a batch norm that runs twice": lambda: Net(norm_twice, conv=conv(), more=conv(), norm=norm()),
    "a convolution whose output is also added": lambda: Net(skipping, conv=conv(), norm=norm()),
    "a convolution whose output is read later": lambda: Net(read_later, conv=conv(), norm=norm()),
    "a batch norm after a nonlinearity": lambda: Net(after_relu, conv=conv(), norm=norm()),
    "a batch norm after a nonlinearity in place": lambda: Net(after_relu_in_place, conv=conv(), norm=norm()),
    "a batch norm of a sum": lambda: Net(of_the_sum, conv=conv(), norm=norm()),
    "a batch norm of a part": lambda: Net(of_a_part, conv=conv(), norm=norm()),
    "a weight of two convolutions": sharing,
    "a bias of a norm and a convolution": sharing_a_norm,
    "a weight made by a hook": hooked_weight,
    "an output changed by a hook": hooked_output,
    "a parametrised weight": one(lambda: nn.utils.parametrizations.weight_norm(conv())),
    "timm's standardised convolution": one(lambda: StdConv2d(3, 4, 3)),
    "timm's scaled standardised convolution": one(lambda: ScaledStdConv2d(3, 4, 3)),
    "a convolution of one's own that has a plain name": one(lambda: Standardised(3, 4, 3, padding=1)),
    "a transposed convolution": one(lambda: nn.ConvTranspose2d(3, 4, 3)),
    "a norm of groups": one(conv, lambda: nn.GroupNorm(2, 4)),
    "a norm of each image": one(conv, lambda: nn.InstanceNorm2d(4)),
    "a batch norm without running statistics": one(conv, lambda: norm(track_running_stats=False)),
    "a linear layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.BatchNorm1d(4)),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_what_is_not_known_to_be_right_is_not_folded(name: str) -> None:
    model, images = seeded(KEPT[name]), pictures(3, 32)
    with torch.no_grad():
        model(images)
    before = state_of(model)
    copied, folded = folded_copy(model, images, [])
    assert folded == 0
    with torch.no_grad():
        torch.testing.assert_close(copied(images), model(images), rtol=0, atol=0)
    assert_untouched(model, before)


def test_a_convolution_that_is_a_site_keeps_its_output() -> None:
    model, images = seeded(FOLDED["a chain"][0]), pictures(3, 32)
    copied, folded = folded_copy(model, images, ["3"])
    assert folded == 2
    with torch.no_grad():
        torch.testing.assert_close(copied[:4](images), model[:4](images), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(copied(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", ["0", "1"])
def test_what_returns_a_convolutions_output_keeps_it(site: str) -> None:
    """Be it a container that ends in one, or an identity after it."""
    model = seeded(lambda: nn.Sequential(nn.Sequential(conv()), nn.Identity(), norm(), nn.Flatten()))
    images = pictures(2, 32)
    copied, folded = folded_copy(model, images, [site])
    assert folded == 0
    with torch.no_grad():
        torch.testing.assert_close(copied[:2](images), model[:2](images))


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_a_batch_norm_that_is_a_site_gives_what_it_gave(act: type[nn.Module]) -> None:
    model = seeded(lambda: nn.Sequential(conv(), shaken(BatchNormAct2d(4, act_layer=act)), nn.Flatten()))
    images = pictures(2, 32)
    copied, folded = folded_copy(model, images, ["1"])
    assert folded == 1
    with torch.no_grad():
        torch.testing.assert_close(copied[:2](images), model[:2](images), atol=1e-5, rtol=1e-5)


def test_weights_are_fused_in_double_precision() -> None:
    model = seeded(FOLDED["without a bias"][0])
    with torch.no_grad():
        model.norm.running_var.mul_(1e-6)
        model.norm.running_mean.add_(1e3)
    copied, _ = folded_copy(model, pictures(2), [])
    scale = model.norm.weight.double() / (model.norm.running_var.double() + model.norm.eps).sqrt()
    bias = model.norm.bias.double() - model.norm.running_mean.double() * scale
    torch.testing.assert_close(copied.conv.bias, bias.float(), rtol=1e-7, atol=0)
    weight = (model.conv.weight.double() * scale[:, None, None, None]).float()
    torch.testing.assert_close(copied.conv.weight, weight, rtol=1e-6, atol=0)


def test_a_model_in_training_mode_stays_in_it() -> None:
    model, images = seeded(FOLDED["a chain"][0]).train(), pictures(2)
    model[1].eval()
    before = state_of(model)
    copied, folded = folded_copy(model, images, [])
    assert folded == 3
    assert_untouched(model, before)
    with torch.no_grad():
        torch.testing.assert_close(copied(images), model.eval()(images), atol=1e-5, rtol=1e-5)


def test_a_fold_that_turns_out_wrong_is_not_used() -> None:
    """No module tells that a weight is used behind its back; the logits do."""

    def run(net: Any, x: Tensor) -> Tensor:
        beside = functional.conv2d(x, net.conv.weight, padding=1)
        return net.fc(net.act(net.norm(net.conv(x)) + beside).mean((2, 3)))

    model, images = seeded(lambda: Net(run, conv=conv(), norm=norm(), act=nn.ReLU(), fc=nn.Linear(4, 3))), pictures(4)
    assert folded_copy(model, images, [])[1] == 1
    sites = probe_sites(model, images)
    jobs = jobs_of(sites)
    engine = ExactEngine(model, sites, images)
    assert (engine.folded, engine.deviation) == (0, 0.0)
    assert_same(by_engine(engine, images, jobs)[1], by_hand(model, images, jobs)[1])
