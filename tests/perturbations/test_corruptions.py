from __future__ import annotations

import colorsys
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from auditor.errors import DataError, OptionError
from auditor.perturbations.base import GROUPS, SEVERITIES, Corruption
from auditor.perturbations.basic import Brightness, Contrast, GaussianBlur, GaussianNoise, Pixelate
from auditor.perturbations.builtin import auditor_corruptions
from auditor.perturbations.filters import gaussian_blur
from auditor.perturbations.pictures import through_pillow
from auditor.perturbations.seeds import corruption_seeds
from auditor.registry import Registry

BUILTIN = auditor_corruptions()
by_name = pytest.mark.parametrize("corruption", BUILTIN, ids=repr)


def images(n: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth colour with noise: every value from 0 to 1 occurs, multiples of 1/255."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, 3, height, width)), (0, 0, 4, 4), mode="wrap")
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min()) + 0.05 * rng.normal(size=smooth.shape)
    return torch.from_numpy(np.rint(smooth.clip(0, 1) * 255) / 255).float()


# --- what every corruption keeps to ----------------------------------------------------------------------------------


class Shifted(Corruption):
    name = "shifted"
    label = "Shifted"
    group = "extra"
    fields = ("by", "times")
    table: ClassVar = {32: ((1, 2), (2, 3), (3, 4), (4, 5), (5, 6)), 64: ((0, 0),) * 5, 224: ((9, 9),) * 5}

    def corrupt(self, images, parameters, generators):
        return images + parameters["by"]


def test_the_builtin_ones_come_in_through_the_hook() -> None:
    known = Registry().corruptions()
    for corruption in BUILTIN:
        assert type(known[corruption.name]) is type(corruption)
        assert corruption.group in GROUPS


@pytest.mark.parametrize(
    "size,table",
    [(1, 32), (8, 32), (32, 32), (45, 32), (46, 64), (64, 64), (119, 64), (120, 224), (224, 224), (512, 224)],
)
def test_the_table_nearest_by_ratio_is_taken_as_it_stands(size: int, table: int) -> None:
    assert Shifted().table_size(size) == table
    assert Shifted().parameters(2, 32) == {"by": 2, "times": 3}
    assert GaussianNoise().parameters(5, size) == {"sigma": {32: 0.10, 64: 0.18, 224: 0.38}[table]}


def test_what_leaves_the_range_is_clipped() -> None:
    assert (Shifted()(images(), 1, seeds=[0, 1, 2]) == 1).all()


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_other_severities_are_refused(severity: int) -> None:
    with pytest.raises(OptionError, match="five severities"):
        GaussianNoise()(images(), severity, seeds=[0, 1, 2])


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 32, 32), torch.zeros(2, 1, 32, 32), torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 0, 4), torch.full((2, 3, 4, 4), 1.01), torch.full((2, 3, 4, 4), -0.01),
        torch.full((2, 3, 4, 4), torch.nan),
    ],
    ids=["no batch", "grey", "bytes", "no pixels", "above 1", "below 0", "nan"],
)  # fmt: skip
def test_what_is_no_image_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(DataError, match="cannot be applied"):
        GaussianNoise()(wrong, 1, seeds=[0] * len(wrong))


def test_every_image_needs_a_seed() -> None:
    with pytest.raises(DataError, match="needs a seed"):
        GaussianNoise()(images(3), 1, seeds=[1, 2])


@by_name
def test_no_images_give_no_images(corruption: Corruption) -> None:
    assert corruption(torch.zeros(0, 3, 8, 8), 1, seeds=[]).shape == (0, 3, 8, 8)


@by_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shape_type_and_input_are_kept_and_there_is_no_gradient(corruption: Corruption, dtype: torch.dtype) -> None:
    given = images(2, 12, 20).to(dtype).requires_grad_()
    before = given.detach().clone()
    result = corruption(given, 3, seeds=[1, 2])
    assert result.shape == given.shape
    assert result.dtype == dtype
    assert not result.requires_grad
    assert torch.equal(given.detach(), before)


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_seeds_are_stable() -> None:
    # Known values: another release must corrupt alike.
    assert corruption_seeds(0, "fog", 1, [0, 1]) == corruption_seeds(0, "fog", 1, ["0", "1"])
    assert corruption_seeds(3, "fog", 2, ["a.png"]) == [3794386004385242496]


@given(st.integers(0, 2**31), st.sampled_from(["fog", "snow"]), st.sampled_from(SEVERITIES), st.integers(1, 50))
def test_seeds_belong_to_the_image_and_not_to_its_company(seed: int, name: str, severity: int, n: int) -> None:
    seeds = corruption_seeds(seed, name, severity, range(n))
    assert seeds == [corruption_seeds(seed, name, severity, [row])[0] for row in range(n)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert len(set(seeds)) == n


def test_everything_that_matters_changes_the_seed() -> None:
    base = (0, "fog", 1, ["x"])
    others = [
        (1, "fog", 1, ["x"]),
        (0, "snow", 1, ["x"]),
        (0, "fog", 2, ["x"]),
        (0, "fog", 1, ["y"]),
        (0, "fog1", 1, ["x"]),
    ]
    seeds = {corruption_seeds(*each)[0] for each in (base, *others)}
    assert len(seeds) == 6


def test_seeds_of_many_images_are_spread_evenly() -> None:
    # torch's generator on the CPU uses the lower 32 bits alone.
    low = np.array(corruption_seeds(0, "fog", 1, range(20_000))) % 2**32
    assert len(np.unique(low)) >= 19_998
    assert abs(low.mean() / 2**32 - 0.5) < 4 * np.sqrt(1 / 12 / 20_000)


# --- the built-in ones, against definitions written otherwise --------------------------------------------------------


def test_gaussian_noise_has_its_standard_deviation_and_no_mean() -> None:
    grey = torch.full((40, 3, 32, 32), 0.5)
    noise = (GaussianNoise()(grey, 2, seeds=range(40)) - grey).double()
    n = noise.numel()
    assert abs(float(noise.mean())) < 4 * 0.06 / n**0.5
    assert abs(float(noise.std()) / 0.06 - 1) < 4 / (2 * n) ** 0.5
    # Channels, pixels and images are drawn by themselves.
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 64])
def test_gaussian_blur_is_scipys(size: int, severity: int) -> None:
    given = images(2, size, size + 10)
    sigma = GaussianBlur().parameters(severity, size)["sigma"]
    expected = gaussian_filter(given.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    np.testing.assert_allclose(GaussianBlur()(given, severity, seeds=[0, 0]), expected, atol=2e-6)


def test_a_blur_of_zero_leaves_the_image() -> None:
    assert torch.equal(gaussian_blur(images(), 0.0), images())


@pytest.mark.parametrize("sigma", [0.3, 2.0, 30.0])
def test_a_wide_blur_mirrors_as_often_as_needed(sigma: float) -> None:
    given = images(1, 9, 14).double()
    expected = gaussian_filter(given.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=3)
    np.testing.assert_allclose(gaussian_blur(given, sigma, mode="reflect", truncate=3.0), expected, atol=1e-12)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_is_added_to_the_value_of_hsv(severity: int) -> None:
    given = images(1, 8, 8)
    given[0, :, 0, :3] = torch.tensor([0.0, 0.5, 1.0])  # black, grey and white
    added = Brightness().parameters(severity, 32)["added"]
    result = Brightness()(given, severity, seeds=[0])[0]
    for pixel, found in zip(given[0].flatten(1).T.tolist(), result.flatten(1).T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        assert found == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1)), abs=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_scales_each_channels_deviation(severity: int) -> None:
    given = images(2)
    factor = Contrast().parameters(severity, 32)["factor"]
    result = Contrast()(given, severity, seeds=[0, 0])
    assert torch.allclose(result.mean((2, 3)), given.mean((2, 3)), atol=1e-6)
    assert torch.allclose(result.std((2, 3)), factor * given.std((2, 3)), atol=1e-6)


def test_pixelate_by_half_is_the_mean_of_blocks() -> None:
    given = images(2, 64, 96)  # severity 5 at 64 pixels: half the side
    blocks = given.view(2, 3, 32, 2, 48, 2).mean((3, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    result = Pixelate()(given, 5, seeds=[0, 0])
    assert float((result - blocks).abs().max()) <= 1.01 / 255  # Pillow rounds after each axis
    assert torch.equal(result[:, :, ::2, ::2], result[:, :, 1::2, 1::2])


def test_tiny_pictures_keep_a_pixel() -> None:
    assert Pixelate()(images(1, 1, 1), 5, seeds=[0]).shape == (1, 3, 1, 1)


def test_pillow_sees_the_channels_in_order() -> None:
    given = images(2, 5, 7)
    assert torch.equal(through_pillow(given, lambda picture: picture), given)
    turned = through_pillow(given, lambda picture: picture.transpose(0))  # left and right exchanged
    assert torch.equal(turned, given.flip(3))
