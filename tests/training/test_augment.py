"""Augmentation against torchvision, and what it must keep."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from auditor.training.augment import PRESETS, augmentation, flip, resized_crop, shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(64, 3, 16, 16, generator=generator(9))


@pytest.mark.parametrize("name", [preset for preset in PRESETS if preset != "none"])
def test_it_is_a_function_of_the_generator(images: torch.Tensor, name: str) -> None:
    augment = augmentation(name)
    assert augment is not None
    before = images.clone()
    first, again, other = (augment(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.min() >= images.min()
    assert first.max() <= images.max()
    assert torch.equal(images, before)


def test_a_flip_mirrors_about_half(images: torch.Tensor) -> None:
    found = flip(images, generator())
    mirrored = [torch.equal(a, vision.horizontal_flip(b)) for a, b in zip(found, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(found, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 20 < sum(mirrored) < 44


def test_a_shift_is_a_crop_of_the_padded_picture(images: torch.Tensor) -> None:
    found, reach = shift(images, generator()), 2
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    crops = {(y, x): vision.crop(padded, y, x, 16, 16) for y in range(2 * reach + 1) for x in range(2 * reach + 1)}
    places = [[place for place, crop in crops.items() if torch.equal(crop[i], found[i])] for i in range(len(images))]
    assert all(len(each) == 1 for each in places)
    for axis in (0, 1):
        assert {each[0][axis] for each in places} == set(range(2 * reach + 1))


def test_a_resized_crop_keeps_a_plane_a_plane() -> None:
    """Bilinear sampling of a linear ramp is exact: what is seen must be a smaller part of it, evenly spaced."""
    ramp = torch.linspace(-1, 1, 33)[:-1] + 1 / 32
    images = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32)])[None].expand(200, 2, 32, 32)
    found = resized_crop(images, generator())
    inner = found[:, :, 1:-1, 1:-1]
    for channel, axis in ((0, 3), (1, 2)):
        steps = inner[:, channel : channel + 1].diff(dim=axis)
        assert (steps.amax((1, 2, 3)) - steps.amin((1, 2, 3)) < 1e-2).all()
    sides = [found[:, 0].diff(dim=2).amax((1, 2)) * 16, found[:, 1].diff(dim=1).amax((1, 2)) * 16]
    area, aspect = sides[0] * sides[1], sides[0] / sides[1]
    assert area.min() > 0.07
    assert area.max() < 1.001
    assert area.min() < 0.2
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
