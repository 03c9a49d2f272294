"""Pixels and normalisation apart do what the transform does in one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from auditor.errors import DataError
from auditor.models.preprocessing import Preprocessing
from auditor.perturbations.pixels import PixelModel, pixel_identity, pixel_transform, to_channels, to_colour

PLANS = {
    "center": Preprocessing((3, 24, 24), (30,)),
    "squash": Preprocessing((3, 24, 20), (24, 20), crop_mode="squash"),
    "border": Preprocessing((3, 24, 24), (24, 24), crop_mode="border"),
    "grey": Preprocessing((1, 24, 24), (24,), mean=(0.3,), std=(0.2,)),
}


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 33, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", list(PLANS))
def test_pixels_then_model_is_the_models_own_input(name: str, picture: Image.Image) -> None:
    plan = PLANS[name]
    transform = pickle.loads(pickle.dumps(pixel_transform(plan)))
    pixels = transform(picture)[None]
    assert pixels.shape == (1, *plan.input_size)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    found = PixelModel(nn.Flatten(), plan)(pixels)
    torch.testing.assert_close(found, plan.build()(picture)[None].flatten(1))


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit"):
        PixelModel(nn.Flatten(), PLANS["grey"])(torch.rand(1, 3, 24, 24))


def test_grey_through_colour_and_back_is_unchanged() -> None:
    grey = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_channels(to_colour(grey), 1), grey)
    colour = torch.rand(2, 3, 8, 8)
    assert to_channels(to_colour(colour), 3) is colour


def test_grey_of_colour_is_pillows() -> None:
    values = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(values).convert("L"), dtype=np.float64)
    found = to_channels(torch.from_numpy(values).permute(2, 0, 1)[None] / 255, 1)[0, 0].double().numpy() * 255
    assert np.abs(found - pillow).max() <= 0.51  # Pillow rounds


def test_normalisation_decides_pixels_only_where_it_fills_the_border() -> None:
    other = Preprocessing((3, 24, 24), (30,), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert pixel_identity(other) == pixel_identity(PLANS["center"])
    padded = Preprocessing((3, 24, 24), (24, 24), crop_mode="border", mean=(0.5,) * 3)
    assert pixel_identity(padded) != pixel_identity(PLANS["border"])


def test_parameters_of_half_precision_are_fed_with_it() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)).to(torch.bfloat16)
    found = PixelModel(module, Preprocessing((3, 4, 4), (4,)))(torch.rand(2, 3, 4, 4))
    assert found.dtype == torch.float32
