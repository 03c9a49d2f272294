from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auditor.errors import ModelError, OptionError, UnknownNameError
from auditor.models import build_module, find_logit_layer, find_model, n_outputs, probe_sites


def zoo(text: str, n: int = 7) -> nn.Module:
    return build_module(find_model(text), n_outputs=n, pretrained=False, seed=0)


def images(size: int = 64) -> Tensor:
    return torch.zeros(2, 3, size, size)


class Reuse(nn.Module):
    """A block that calls one ReLU twice, then pools, with a module that is never called."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.act = act()
        self.spare = nn.Tanh()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x) + x)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Returns(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer(self.act(x))


class Inner(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_reused_module_is_one_site_for_each_call() -> None:
    sites = probe_sites(Reuse(), images())
    assert [site.name for site in sites] == ["act@1", "act@2"]
    assert [(site.call, site.calls, site.n_units, site.unit_axis, site.shape) for site in sites] == [
        (1, 2, 4, 1, (4, 64, 64)),
        (2, 2, 4, 1, (4, 64, 64)),
    ]


def test_torchvision_resnet_reuses_eight_modules() -> None:
    sites = probe_sites(zoo("torchvision:resnet18"), images())
    assert len(sites) == 17
    assert len({site.layer for site in sites if site.calls == 2}) == 8
    assert sites[1].name == "layer1.0.relu@1"
    assert all(site.unit_axis == 1 for site in sites)


def test_timm_resnet_does_not() -> None:
    sites = probe_sites(zoo("timm:resnet18"), images())
    assert [site.calls for site in sites] == [1] * 17
    assert sites[-1].name == "layer4.1.act2"
    assert sites[-1].n_units == 512


@pytest.mark.parametrize(
    "name, size, n_sites, axes",
    [
        ("vit_tiny_patch16_224", 224, 12, {-1}),
        pytest.param("swin_tiny_patch4_window7_224", 224, 12, {-1}, marks=pytest.mark.slow),
        ("mixer_s32_224", 224, 16, {-1}),
        ("convnext_atto", 64, 12, {1}),
        pytest.param("torchvision:convnext_tiny", 64, 18, {-1}, marks=pytest.mark.slow),
        pytest.param("torchvision:swin_t", 64, 12, {-1}, marks=pytest.mark.slow),
        pytest.param("densenet121", 64, 121, {1}, marks=pytest.mark.slow),
        pytest.param("torchvision:densenet121", 64, 120, {1}, marks=pytest.mark.slow),
        pytest.param("torchvision:vgg11", 64, 10, {1, -1}, marks=pytest.mark.slow),
    ],
)
def test_the_unit_axis_is_never_a_token_or_pixel_axis(name: str, size: int, n_sites: int, axes: set[int]) -> None:
    module = zoo(name)
    sites = probe_sites(module, images(size))
    assert len(sites) == n_sites
    assert {site.unit_axis for site in sites} == axes
    widths = {m.out_features for m in module.modules() if isinstance(m, nn.Linear)}
    widths |= {m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d)}
    widths |= {m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)}
    assert {site.n_units for site in sites} <= widths
    for site in sites:
        assert (1, *site.shape)[site.unit_axis] == site.n_units


def test_the_axis_of_channels_last_maps_is_found_without_a_second_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(3, 8)
            self.act = nn.GELU()
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != 8:
                raise ValueError(x.shape)
            hidden = self.act(self.fc1(x.permute(0, 2, 3, 1)))  # (B, 8, 8, 8): the shape tells nothing
            out: Tensor = self.head(hidden.mean((1, 2)))
            return out

    (site,) = probe_sites(Fixed(), images(8))
    assert (site.unit_axis, site.n_units) == (-1, 8)


def test_the_axis_of_a_flattened_map_is_found_without_a_second_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)
            self.act = nn.SiLU()
            self.head = nn.Linear(6 * 64, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.act(self.conv(x).flatten(2)).flatten(1))
            return out

    (site,) = probe_sites(Fixed(), images(8))
    assert (site.unit_axis, site.n_units, site.shape) == (1, 6, (6, 64))


def test_gates_are_not_units_but_squeezed_hidden_units_are() -> None:
    sites = probe_sites(zoo("mobilenetv3_small_100"), images())
    assert {site.kind for site in sites} == {"Hardswish", "ReLU"}
    squeezed = [site for site in sites if ".se." in site.name]
    assert squeezed
    assert all(site.unit_axis == 1 and site.shape[1:] == (1, 1) for site in squeezed)


def test_a_network_of_sigmoids_keeps_them() -> None:
    model = Reuse(nn.Sigmoid)
    del model.spare
    assert [site.kind for site in probe_sites(model, images())] == ["Sigmoid", "Sigmoid"]


@pytest.mark.parametrize(
    "name, size, n_blocks, first",
    [
        ("resnet18", 64, 8, "layer1.0"),
        ("vit_tiny_patch16_224", 224, 12, "blocks.0"),
        ("convnext_atto", 64, 12, "stages.0.blocks.0"),
        ("mobilenetv3_small_100", 64, 12, "blocks.0.0"),
        pytest.param("torchvision:efficientnet_b0", 64, 16, "features.1.0", marks=pytest.mark.slow),
        pytest.param("torchvision:swin_t", 64, 15, "features.1.0", marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", 224, 12, "layers.0.blocks.0", marks=pytest.mark.slow),
    ],
)
def test_blocks(name: str, size: int, n_blocks: int, first: str) -> None:
    sites = probe_sites(zoo(name), images(size), layers="blocks")
    assert (len(sites), sites[0].name) == (n_blocks, first)


def test_layers_by_name_glob_regex_and_type() -> None:
    module = zoo("timm:resnet18")
    probe = lambda layers: [site.name for site in probe_sites(module, images(), layers=layers)]  # noqa: E731
    assert probe("layer4.1.act2") == ["layer4.1.act2"]
    assert probe("layer4.?") == ["layer4.0", "layer4.1"]
    assert probe(r"re:layer[12]\.0\.act1") == ["layer1.0.act1", "layer2.0.act1"]
    assert probe("type:BasicBlock") == probe("blocks")
    assert probe(["layer2", "layer1"]) == ["layer1", "layer2"]
    assert probe(["fc", "layer1"]) == ["layer1", "fc"]  # asked for by name, the logits are a layer like any other


def test_a_misspelt_layer_gets_near_matches() -> None:
    with pytest.raises(UnknownNameError, match="no layer named") as caught:
        probe_sites(zoo("timm:resnet18"), images(), layers="layer4.1.act9")
    assert "layer4.1.act2" in caught.value.closest
    with pytest.raises(UnknownNameError):
        probe_sites(Reuse(), images(), layers="block*")
    with pytest.raises(OptionError):
        probe_sites(Reuse(), images(), layers="re:(")
    with pytest.raises(OptionError):
        probe_sites(Reuse(), images(), layers=[])


def test_a_layer_that_is_not_called_is_an_error_only_by_name() -> None:
    with pytest.raises(ModelError, match="spare is never called"):
        probe_sites(Reuse(), images(), layers="spare")
    assert [site.layer for site in probe_sites(Reuse(), images(), layers=["act", "sp*"])] == ["act", "act"]
    with pytest.raises(ModelError, match="None of the chosen layers"):
        probe_sites(Reuse(), images(), layers="sp*")


def test_a_layer_without_a_tensor_is_named() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Inner()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.pair(x)[0].mean((2, 3)))
            return out

    with pytest.raises(ModelError, match="pair cannot be measured") as caught:
        probe_sites(Pair(), images(), layers="pair")
    assert caught.value.got == "no tensor"


def test_what_comes_after_the_logits_is_left_out() -> None:
    sites = probe_sites(zoo("torchvision:squeezenet1_1"), images())
    assert "classifier.2" not in [site.layer for site in sites]
    assert find_logit_layer(zoo("torchvision:squeezenet1_1"), images()) == "classifier.1"


def test_logit_layer_and_outputs() -> None:
    assert find_logit_layer(zoo("timm:resnet18"), images()) == "fc"
    assert find_logit_layer(zoo("vit_tiny_patch16_224"), images(224)) == "head"
    assert find_logit_layer(nn.Sequential(nn.ReLU(), nn.Flatten()), images(8)) is None
    assert n_outputs(Reuse(), images()) == 5


@pytest.mark.parametrize("answer", [lambda x: x, lambda x: (x, x), lambda x: x.flatten(1).argmax(1, keepdim=True)])
def test_what_is_no_classifier_is_refused(answer: Callable[[Tensor], object]) -> None:
    with pytest.raises(ModelError, match="not a classifier"):
        n_outputs(Returns(answer), images(8))


def test_the_model_is_left_as_it_was() -> None:
    model = Reuse().train()
    model.conv2.eval()
    model.conv1.weight.requires_grad_(False)
    calls: list[int] = []
    handle = model.act.register_forward_hook(lambda *_: calls.append(1))
    before = {name: (m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    generator = torch.get_rng_state()
    probe_sites(model, images())
    with pytest.raises(ModelError):
        probe_sites(model, torch.zeros(2, 9, 8, 8))
    assert {name: (m.training, len(m._forward_hooks)) for name, m in model.named_modules()} == before
    assert not model.conv1.weight.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    handle.remove()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_models_that_hide_from_hooks_are_refused() -> None:
    with pytest.raises(ModelError, match="compiled"):
        probe_sites(torch.compile(Reuse()), images())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="scripted"):
        probe_sites(torch.jit.trace(Reuse().eval(), images(8)), images(8))


def test_one_image_is_too_few() -> None:
    with pytest.raises(ModelError, match="at least two images"):
        probe_sites(Reuse(), images()[:1])
