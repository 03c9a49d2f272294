from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.models import get_model_weights

from auditor.errors import ModelError, OptionError
from auditor.models import Preprocessing, timm_preprocessing, torchvision_preprocessing


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for shape in ((300, 200), (150, 333), (224, 224), (33, 20))
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_mode": "border", "crop_pct": 1.0, "mean": (0.5, 0.5, 0.5)},
        {"crop_mode": "border", "crop_pct": 0.9},
        {"input_size": (3, 96, 128), "interpolation": "bilinear"},
        {"input_size": (3, 96, 128), "crop_mode": "squash"},
        {"input_size": (3, 96, 128), "crop_mode": "border"},
    ],
)
def test_timm_bit_for_bit(changes: dict[str, object]) -> None:
    module = timm.create_model("test_resnet", pretrained=False, pretrained_cfg_overlay=changes)
    theirs = create_transform(**resolve_data_config({}, model=module))
    ours = timm_preprocessing(module).build()
    for picture in pictures():
        assert torch.equal(ours(picture), theirs(picture))


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "swin_t", "inception_v3", "maxvit_t", "vit_l_16"])
def test_torchvision_bit_for_bit(name: str) -> None:
    theirs = get_model_weights(name).DEFAULT.transforms()
    ours = torchvision_preprocessing(name).build()
    for picture in pictures():
        assert torch.equal(ours(picture), theirs(picture))


@pytest.mark.parametrize("size, wanted", [(None, 518), (518, 518), (224, 224), (100, 518)])
def test_torchvision_weights_of_several_sizes(size: int | None, wanted: int) -> None:
    found = torchvision_preprocessing("vit_h_14", size)
    assert found.input_size == (3, wanted, wanted)
    assert found.resize == (wanted,)


def test_pictures_are_brought_to_the_models_channels() -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    rgb = Preprocessing().with_size(8).build()(grey)
    assert rgb.shape == (3, 8, 8)
    one = Preprocessing((1, 8, 8), (8,), "nearest", (0.0,), (1.0,)).build()
    assert torch.equal(one(grey)[0], torch.arange(64).reshape(8, 8) / 255)
    assert torch.equal(one(grey.convert("RGB")), one(grey))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_with_size_cuts_nothing_from_a_square(crop_mode: str) -> None:
    small = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest", crop_mode=crop_mode).with_size(4)
    picture = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2))
    expected = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]) / 255
    assert torch.equal(small.build()(picture)[0], expected)
    assert small.input_size == (3, 4, 4)


def test_round_trip_through_json_and_workers() -> None:
    one = torchvision_preprocessing("resnet18")
    assert Preprocessing.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    transform = pickle.loads(pickle.dumps(one.build()))
    picture = pictures()[0]
    assert torch.equal(transform(picture), one.build()(picture))
    assert one.describe() == (
        "RGB, resize to shorter side 256 (bilinear), center crop to 224 x 224, "
        "mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    )


def test_values_that_cannot_be_used() -> None:
    with pytest.raises(ModelError, match="input"):
        Preprocessing(input_size=(4, 8, 8))
    with pytest.raises(ModelError, match="normalisation"):
        Preprocessing(mean=(0.5,))
    with pytest.raises(OptionError, match="crop mode"):
        Preprocessing(crop_mode="zoom")
    with pytest.raises(OptionError, match="interpolation"):
        Preprocessing(interpolation="magic")
    with pytest.raises(OptionError, match="size"):
        Preprocessing().with_size(0)
