from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from auditor.errors import ModelError, OptionError, UnknownNameError, WeightsUnavailableError
from auditor.models import (
    ModelSpec,
    Preprocessing,
    available_models,
    build_module,
    built_for,
    find_model,
    load_model,
    save_weights,
    state_hash,
)

FACTORIES = """
import torch
from torch import nn
import factory_neighbour

def net(num_classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))

def fixed():
    return nn.Linear(2, 2)

def trained(pretrained=False):
    layer = nn.Linear(1, 1)
    layer.bias.data.fill_(7.0 if pretrained else 0.0)
    return layer

def configured():
    layer = nn.Linear(1, 1)
    layer.pretrained_cfg = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
    return layer

def broken(num_classes):
    raise KeyError("oops")

def wrong():
    return 3

value = 5
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import sys

    (tmp_path / "factory_module.py").write_text(FACTORIES)
    (tmp_path / "factory_neighbour.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "factory_module"  # type: ignore[misc]
    for name in ("factory_module", "factory_neighbour"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "text, spec",
    [
        ("resnet18", "timm:resnet18"),
        ("timm:resnet18", "timm:resnet18"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("googlenet", "torchvision:googlenet"),
        ("some.module:make", "some.module:make"),
    ],
)
def test_find_model(text: str, spec: str) -> None:
    assert find_model(text).spec == spec


def test_misspelt_models_get_near_matches_of_both_zoos() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_model("resnet81")
    assert "resnet18" in caught.value.closest
    with pytest.raises(UnknownNameError) as caught:
        find_model("gogglenet")
    assert "googlenet" in caught.value.closest
    with pytest.raises(UnknownNameError, match="pretrained tag") as caught:
        find_model("resnet18.a1_in2k")
    assert "a1_in1k" in caught.value.closest
    for text in ("", "torchvision:convnext_atto", "huggingface:x/y", ":x", "a:"):
        with pytest.raises(UnknownNameError):
            find_model(text)


def test_available_models() -> None:
    everything = available_models()
    assert ModelSpec("timm", "resnet18") in everything
    assert ModelSpec("torchvision", "resnet18") in everything
    assert not [spec for spec in everything if "rcnn" in spec.name or "deeplab" in spec.name]
    found = [spec.spec for spec in available_models("resnet18")]
    assert {"timm:resnet18", "timm:seresnet18", "torchvision:resnet18"} <= set(found)
    assert [spec.spec for spec in available_models("resnet1[48]")] == ["timm:resnet18", "torchvision:resnet18"]
    assert {spec.source for spec in available_models("torchvision:*")} == {"torchvision"}
    assert available_models("nothing_like_it*") == []


def test_random_weights_depend_on_the_seed_alone() -> None:
    spec = find_model("timm:test_resnet")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    hashes = [state_hash(build_module(spec, n_outputs=3, pretrained=False, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("text", ["timm:test_vit", "torchvision:mnasnet0_5", "torchvision:googlenet"])
def test_the_number_of_outputs(text: str) -> None:
    size = 160 if "vit" in text else 64
    module = build_module(find_model(text), n_outputs=6, pretrained=False, seed=0)
    assert not module.training
    assert module(torch.zeros(1, 3, size, size)).shape == (1, 6)
    assert isinstance(module.train()(torch.zeros(2, 3, size, size)), torch.Tensor)


@pytest.mark.parametrize(
    "text, size, wanted",
    [
        ("timm:test_vit", (64, 96), (64, 96)),
        ("timm:test_vit", (160, 160), None),
        ("timm:test_vit", None, None),
        ("timm:test_vit.r160_in1k", (64, 64), (64, 64)),
        ("timm:test_resnet", (64, 64), None),
        ("torchvision:vit_b_32", (64, 64), (64, 64)),
        ("torchvision:vit_b_32", (224, 224), None),
        ("torchvision:maxvit_t", (448, 448), (448, 448)),
        ("torchvision:resnet18", (64, 64), None),
        ("somewhere:net", (64, 64), None),
    ],
)
def test_which_networks_are_built_for_a_size(
    text: str, size: tuple[int, int] | None, wanted: tuple[int, int] | None
) -> None:
    assert built_for(find_model(text), size) == wanted


def test_pretrained_weights_may_need_a_size_of_their_own() -> None:
    assert built_for(find_model("torchvision:vit_h_14"), None, pretrained=True) == (518, 518)
    assert built_for(find_model("torchvision:vit_h_14"), None) is None
    assert built_for(find_model("torchvision:vit_b_16"), None, pretrained=True) is None


@pytest.mark.parametrize("text, size", [("timm:test_vit", (64, 96)), ("torchvision:vit_b_32", (64, 64))])
def test_a_network_built_for_a_size(text: str, size: tuple[int, int]) -> None:
    loaded = load_model(text, n_outputs=3, weights="none", image_size=size)
    assert loaded.image_size == size
    with torch.no_grad():
        assert loaded.module(torch.zeros(1, 3, *size)).shape == (1, 3)


def test_a_size_that_cannot_be_built_for() -> None:
    with pytest.raises(ModelError, match=r"vit_b_32 cannot be built for 70 x 70 pixels: .*patch size") as caught:
        load_model("torchvision:vit_b_32", weights="none", image_size=(70, 70))
    assert "--input-size" in str(caught.value.fix)
    with pytest.raises(ModelError, match="takes square images alone") as caught:
        load_model("torchvision:vit_b_32", weights="none", image_size=(64, 96))
    assert caught.value.fix == "--input-size 64"


def test_factories(factories: str) -> None:
    assert build(f"{factories}:net", 9)[1].out_features == 9
    assert build(f"{factories}:net", None)[1].out_features == 4
    assert isinstance(build(f"{factories}:fixed", 9), nn.Linear)
    spec = find_model(f"{factories}:trained")
    assert build_module(spec, n_outputs=None, pretrained=True, seed=0).bias.item() == 7
    assert build_module(spec, n_outputs=None, pretrained=False, seed=0).bias.item() == 0


def build(text: str, n_outputs: int | None) -> nn.Module:
    return build_module(find_model(text), n_outputs=n_outputs, pretrained=False, seed=0)


def test_factories_that_fail_are_explained(factories: str) -> None:
    with pytest.raises(ModelError, match="cannot be imported"):
        build("no_such_module_here:f", None)
    with pytest.raises(UnknownNameError) as caught:
        build(f"{factories}:nett", None)
    assert "net" in caught.value.closest
    with pytest.raises(ModelError, match=r"broken\(num_classes=3\) failed: KeyError: 'oops'"):
        build(f"{factories}:broken", 3)
    with pytest.raises(ModelError, match="gave no model"):
        build(f"{factories}:wrong", None)
    with pytest.raises(ModelError, match="not a function"):
        build(f"{factories}:value", None)
    with pytest.raises(WeightsUnavailableError, match="takes no `pretrained` argument"):
        build_module(find_model(f"{factories}:net"), n_outputs=None, pretrained=True, seed=0)


def test_load_model_by_name(factories: str, tmp_path: Path) -> None:
    one = load_model("timm:test_resnet", n_outputs=3, weights="none", seed=4)
    assert (one.name, one.spec, one.weights) == ("test_resnet", "timm:test_resnet", "none")
    assert one.preprocessing is not None
    assert one.preprocessing.input_size == (3, 160, 160)
    save_weights(one.module, tmp_path / "w.safetensors", {})
    two = load_model("timm:test_resnet", n_outputs=3, checkpoint=tmp_path / "w.safetensors", seed=5)
    assert two.weights.startswith("checkpoint:")
    assert two.state_hash == one.state_hash
    three = load_model(f"{factories}:net", weights="none")
    assert (three.name, three.preprocessing) == ("net", Preprocessing())
    four = load_model(f"{factories}:configured", weights="none")
    assert four.preprocessing == Preprocessing((1, 32, 32), (32,), "bicubic", (0.5,), (0.5,))
    with pytest.raises(OptionError):
        load_model("timm:test_resnet", weights="some")


def test_a_given_module_is_used_as_it_is() -> None:
    module = nn.Linear(2, 2).train()
    loaded = load_model(module)
    assert loaded.module is module
    assert module.training
    assert (loaded.name, loaded.spec, loaded.weights, loaded.preprocessing) == ("Linear", None, "given", None)
