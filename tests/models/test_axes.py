"""The unit axis, against what permuting and zeroing weights does to a layer's output."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auditor.models import build_module, find_model, probe_sites
from auditor.models.axes import by_intervention, unit_axes
from auditor.models.trace import trace_calls
from auditor.units import Site

# Model, input size, layers that make the units, nonlinearity, its layout, its unit axis.
LAYOUTS = [
    ("timm:test_resnet", 64, ["layer1.0.conv1", "layer1.0.bn1"], "layer1.0.act1", "B C H W", 1),
    ("timm:test_vit", 160, ["blocks.0.mlp.fc1"], "blocks.0.mlp.act", "B T C", -1),
    ("timm:test_convnext", 64, ["stages.0.blocks.0.mlp.fc1"], "stages.0.blocks.0.mlp.act", "B H W C", -1),
    ("timm:convnext_atto", 64, ["stages.0.blocks.0.mlp.fc1"], "stages.0.blocks.0.mlp.act", "B C H W", 1),
    ("torchvision:swin_t", 64, ["features.1.0.mlp.0"], "features.1.0.mlp.1", "B H W C", -1),
    ("timm:mixer_s32_224", 224, ["blocks.0.mlp_tokens.fc1"], "blocks.0.mlp_tokens.act", "B C hidden", -1),
    ("timm:efficientvim_m1", 224, ["stages.0.blocks.0.mixer.hz_proj"], "stages.0.blocks.0.mixer.act", "B C L", 1),
]


def zoo(text: str) -> nn.Module:
    return build_module(find_model(text), n_outputs=7, pretrained=False, seed=0)


def noise(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def output_of(module: nn.Module, layer: str, images: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _m, _i, output: found.append(output.clone()))
    with torch.no_grad():
        module(images)
    handle.remove()
    return found[0]


def change_rows(module: nn.Module, layers: list[str], change: Callable[[Tensor], Tensor]) -> int:
    """Apply `change` to everything in `layers` that has a row for each of their outputs; return how many there are."""
    tensors = [t for name in layers for t in module.get_submodule(name).state_dict().values() if t.ndim]
    for tensor in tensors:
        tensor.copy_(change(tensor))
    return len(tensors[0])


@pytest.mark.parametrize(
    "name, size, makers, layer, layout, axis", LAYOUTS, ids=[f"{row[0]} {row[4]}" for row in LAYOUTS]
)
def test_permuting_the_weights_permutes_the_units(
    name: str, size: int, makers: list[str], layer: str, layout: str, axis: int
) -> None:
    module, images = zoo(name), noise(size)
    (site,) = probe_sites(module, images, layers=layer)
    before = output_of(module, layer, images)
    # The last units of the layers before: efficientvim's activation gets the second half of its convolution.
    order = torch.randperm(site.n_units, generator=torch.Generator().manual_seed(1))

    def permute(rows: Tensor) -> Tensor:
        rest = len(rows) - site.n_units
        return torch.cat([rows[:rest], rows[rest:][order]])

    change_rows(module, makers, permute)
    after = output_of(module, layer, images)
    fitting = [
        axis
        for axis in range(1, before.ndim)
        if before.shape[axis] == len(order)
        and torch.allclose(after, before.index_select(axis, order), rtol=1e-4, atol=1e-5)
    ]
    assert fitting == [site.unit_axis % before.ndim]
    assert site.unit_axis == axis
    assert site.n_units == before.shape[axis]


@pytest.mark.parametrize(
    "name, size, makers, layer", [row[:4] for row in LAYOUTS[:3]], ids=[row[0] for row in LAYOUTS[:3]]
)
def test_zeroing_a_row_silences_one_unit(name: str, size: int, makers: list[str], layer: str) -> None:
    module, images = zoo(name), noise(size)
    (site,) = probe_sites(module, images, layers=layer)
    unit = site.n_units // 2

    def zero(rows: Tensor) -> Tensor:
        return rows.index_fill(0, torch.tensor([unit]), 0.0)

    before = output_of(module, layer, images)
    change_rows(module, makers, zero)
    after = output_of(module, layer, images)
    axis = site.unit_axis % after.ndim
    assert not after.select(axis, unit).any()
    others = torch.tensor([other for other in range(site.n_units) if other != unit])
    assert torch.allclose(after.index_select(axis, others), before.index_select(axis, others), atol=1e-6)


class FixedSize(nn.Module):
    """Takes only 8 x 8 pixels, and every axis of its activation is 8 long: neither size nor shape tells."""

    def __init__(self, channels_last: bool, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.make = make()
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 8:
            raise ValueError(x.shape)
        y = self.make(x.permute(0, 2, 3, 1) if isinstance(self.make, nn.Linear) else x)
        last = isinstance(self.make, nn.Linear)
        if last != self.channels_last:
            y = y.permute(0, 2, 3, 1) if self.channels_last else y.permute(0, 3, 1, 2)
        y = self.act(y)
        out: Tensor = self.head(y.mean((1, 2) if self.channels_last else (2, 3)))
        return out


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 8, 1), lambda: nn.Linear(3, 8)], ids=["convolution", "linear"])
def test_a_permuted_map_of_equal_sides(channels_last: bool, make: Callable[[], nn.Module]) -> None:
    (site,) = probe_sites(FixedSize(channels_last, make), noise(8))
    assert site.unit_axis == (-1 if channels_last else 1)


def test_the_intervention_agrees_with_the_picture_size() -> None:
    for name, size in [("timm:test_resnet", 64), ("timm:test_convnext", 64), ("torchvision:shufflenet_v2_x0_5", 64)]:
        module = zoo(name)
        sites = probe_sites(module, noise(size))
        found = by_intervention(module, noise(size), {(site.layer, site.call) for site in sites})
        assert found == {(site.layer, site.call): site.unit_axis % (len(site.shape) + 1) for site in sites}, name


def test_without_a_weighted_layer_before_the_shape_decides() -> None:
    def axis(shape: tuple[int, ...]) -> int:
        class Reshape(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.act = nn.Tanh()

            def forward(self, x: Tensor) -> Tensor:
                if x.shape[-1] != 8:
                    raise ValueError(x.shape)
                out: Tensor = self.act(x.reshape(2, *shape)).flatten(1)
                return out

        module = Reshape()
        trace = trace_calls(module, noise(8))
        return unit_axes(module, noise(8), trace, [0])[0]

    assert axis((192,)) == 1
    assert axis((12, 4, 4)) == 1
    assert axis((4, 4, 12)) == 3
    assert axis((16, 12)) == 2


def test_a_norm_over_whole_maps_says_nothing_about_the_axis() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)
            self.norm = nn.LayerNorm([6, 8, 8])
            self.act = nn.ReLU()
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.act(self.norm(self.conv(x))).mean((2, 3)))
            return out

    (site,) = probe_sites(Normed(), noise(8))
    assert (site.unit_axis, site.n_units) == (1, 6)


def test_intervention_leaves_no_trace() -> None:
    module = FixedSize(False, lambda: nn.Conv2d(3, 8, 1)).train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    sites: list[Site] = probe_sites(module, noise(8))
    assert by_intervention(module, noise(8), {(sites[0].layer, 1)}) == {("act", 1): 1}
    assert module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not any(child._forward_hooks for child in module.modules())
