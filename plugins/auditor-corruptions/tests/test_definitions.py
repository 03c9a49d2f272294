"""Each corruption against its definition, written otherwise: loops, SciPy, Pillow, the standard library."""

from __future__ import annotations

import colorsys
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

import auditor_corruptions as plugin
from auditor.perturbations.base import SEVERITIES
from auditor_corruptions.elastic import affine, displaced
from auditor_corruptions.focus import disk, mirrored
from auditor_corruptions.fog import plasma
from auditor_corruptions.frost import frost_texture
from auditor_corruptions.glass import copied_from
from auditor_corruptions.motion import motion_blur
from auditor_corruptions.snow import snow_layer
from auditor_corruptions.spatter import MUD, WATER
from auditor_corruptions.water import distances, edges, equalize, glints
from auditor_corruptions.zoom import zoom_matrix


def images(n: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(n, 3, height, width)), (0, 0, 3, 3), mode="wrap")
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min()) + 0.05 * rng.normal(size=smooth.shape)
    return torch.from_numpy(np.rint(smooth.clip(0, 1) * 255) / 255).float()


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_shot_noise_counts_photons(level: float) -> None:
    photons = 500
    grey = torch.full((20, 3, 32, 32), level)
    counts = (plugin.ShotNoise()(grey, 1, seeds=range(20)) * photons).double().numpy().ravel()
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    values, found = np.unique(np.rint(counts), return_counts=True)
    expected = stats.poisson.pmf(values, level * photons)
    often = expected * counts.size > 20
    assert stats.chisquare(found[often], expected[often] / expected[often].sum() * found[often].sum()).pvalue > 1e-3


def test_black_makes_no_shot_noise_and_no_speckle() -> None:
    black = torch.zeros(1, 3, 8, 8)
    assert torch.equal(plugin.ShotNoise()(black, 5, seeds=[1]), black)
    assert torch.equal(plugin.SpeckleNoise()(black, 5, seeds=[1]), black)


@pytest.mark.parametrize("severity", [1, 5])
def test_impulses_are_half_salt_half_pepper(severity: int) -> None:
    grey = torch.full((50, 3, 32, 32), 0.5)
    amount = plugin.ImpulseNoise().parameters(severity, 32)["amount"]
    result = plugin.ImpulseNoise()(grey, severity, seeds=range(50))
    for value in (0.0, 1.0):
        hits = int((result == value).sum())
        assert stats.binomtest(hits, grey.numel(), amount / 2).pvalue > 1e-3
    assert int(((result == 0) | (result == 1) | (result == 0.5)).sum()) == grey.numel()


def test_speckle_noise_grows_with_the_value() -> None:
    for level in (0.1, 0.4):
        grey = torch.full((20, 3, 32, 32), level)
        noise = (plugin.SpeckleNoise()(grey, 1, seeds=range(20)) - grey).double()
        assert abs(float(noise.std()) / (0.06 * level) - 1) < 4 / (2 * noise.numel()) ** 0.5


# --- blur ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size,severity", [(32, 1), (32, 5), (64, 5), (224, 1), (224, 5)])
def test_defocus_is_a_convolution_with_a_softened_disk(size: int, severity: int) -> None:
    corruption = plugin.DefocusBlur()
    radius, soft = corruption.parameters(severity, size).values()
    reach = 10
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (np.hypot(x, y) <= radius).astype(float)
    taps = stats.norm.pdf(np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3), scale=soft)
    kernel = ndimage.convolve(kernel / kernel.sum(), np.outer(taps, taps) / taps.sum() ** 2, mode="mirror")
    given = images(1, size, size + 4)
    expected = [[ndimage.correlate(c, kernel, mode="mirror") for c in given[0].double().numpy()]]
    np.testing.assert_allclose(corruption(given, severity, seeds=[0]), expected, atol=2e-6)
    brightening = (
        1.0108 if radius == 10 else 1
    )  # its disk touches the border of the kernel, at which weight is mirrored
    assert float(disk(radius, soft).sum()) == pytest.approx(brightening, abs=1e-4)


def test_mirrored_places_repeat_for_tiny_images() -> None:
    assert mirrored(3, 5).tolist() == np.pad(np.arange(3), 5, mode="reflect").tolist()
    assert mirrored(1, 2).tolist() == [0] * 5


@pytest.mark.parametrize("height,width,reach,rounds", [(9, 9, 1, 1), (12, 9, 2, 1), (16, 20, 3, 2), (14, 14, 4, 3)])
def test_glass_moves_pixels_as_the_loop_does(height: int, width: int, reach: int, rounds: int) -> None:
    rng = np.random.default_rng(reach)
    pictures = rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    expected = pictures.copy()
    flat = torch.from_numpy(pictures).view(3, -1, 3)
    for _ in range(rounds):
        moves = rng.integers(-reach, reach, (3, 2, height, width))
        for picture, (right, down) in zip(expected, moves, strict=True):
            for h in range(height - reach, reach, -1):
                for w in range(width - reach, reach, -1):
                    # The original's line: the right side holds views, so that the second pixel stays as it is.
                    there = h + down[h, w], w + right[h, w]
                    picture[h, w], picture[there] = picture[there], picture[h, w]
        flat = flat.gather(1, copied_from(torch.from_numpy(moves), reach)[..., None].expand(-1, -1, 3))
    np.testing.assert_array_equal(flat.view(3, height, width, 3), expected)


def test_glass_moves_no_pixel_farther_than_its_chains_and_keeps_the_margin() -> None:
    given = images(1)
    result = plugin.GlassBlur()(given, 1, seeds=[0])  # sigma 0.05 does not blur
    assert torch.equal(result[..., :2, :], given[..., :2, :])
    assert torch.equal(result[..., :2], given[..., :2])
    assert {*result[0, 0].ravel().tolist()} <= {*given[0, 0].ravel().tolist()}


@pytest.mark.parametrize("angle", [0.0, 30.0, -45.0, -90.0, -135.0, 77.3])
def test_motion_blur_is_a_sum_along_a_line(angle: float) -> None:
    radius, sigma = 5, 2.5
    given = images(1, 20, 26).double()
    weights = stats.norm.pdf(np.arange(2 * radius + 1), scale=sigma)
    weights /= weights.sum()
    margin = 2 * radius + 1
    padded = np.pad(given[0].numpy(), ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    expected = np.zeros((3, 20, 26))
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5) + margin
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5) + margin
        expected += weight * padded[:, down : down + 20, right : right + 26]
    np.testing.assert_allclose(motion_blur(given, radius, sigma, torch.tensor([angle]))[0], expected, atol=1e-12)


def test_motion_smears_a_point_to_one_side() -> None:
    point = torch.zeros(1, 1, 1, 9)
    point[..., 6] = 1
    result = motion_blur(point, 2, 1.0, torch.tensor([0.0]))[0, 0, 0].numpy()
    half = np.exp(-(np.arange(5) ** 2) / 2)
    np.testing.assert_allclose(result[6:1:-1], half / half.sum(), rtol=1e-6)
    assert not result[[0, 1, 7, 8]].any()


def test_angles_of_motion_span_their_range() -> None:
    images_ = torch.zeros(200, 3, 21, 21)
    images_[:, :, 10, 10] = 1
    # The far end of the smear lies left of the point, above or below by at most as much as to the side.
    result = plugin.MotionBlur()(images_, 5, seeds=range(200))[:, 0]
    y, x = np.mgrid[-10:11, -10:11]
    down, right = (result.numpy() * y).sum((1, 2)), (result.numpy() * x).sum((1, 2))
    angles = np.degrees(np.arctan2(-down, -right))
    assert stats.kstest(angles, stats.uniform(-45, 90).cdf).pvalue > 1e-3


@pytest.mark.parametrize("size,severity", [(32, 1), (32, 5), (64, 3), (224, 4)])
def test_zoom_blur_is_the_mean_of_enlarged_centres(size: int, severity: int) -> None:
    corruption = plugin.ZoomBlur()
    given = images(1, size, size)
    end, step = corruption.parameters(severity, size).values()
    picture = given[0].permute(1, 2, 0).double().numpy()
    layers = [picture]
    for factor in np.arange(1, end, step):
        kept = math.ceil(size / factor)
        start = (size - kept) // 2
        enlarged = ndimage.zoom(picture[start : start + kept, start : start + kept], (factor, factor, 1), order=1)
        trim = (len(enlarged) - size) // 2
        layers.append(enlarged[trim : trim + size, trim : trim + size])
    expected = np.mean(layers, axis=0).transpose(2, 0, 1)
    np.testing.assert_allclose(corruption(given, severity, seeds=[0])[0], expected, atol=2e-6)


def test_a_zoom_of_one_leaves_everything() -> None:
    np.testing.assert_array_equal(zoom_matrix(17, 1.0), np.eye(17))


# --- weather ---------------------------------------------------------------------------------------------------------


def test_plasma_is_the_diamond_square_algorithm() -> None:
    size, decay = 8, 1.7
    draws = np.random.default_rng(0).uniform(-1, 1, size * size)
    grid, noise, step, wibble = np.zeros((size, size)), iter(draws), size, 100.0
    while step >= 2:
        half = step // 2

        def put(r: int, c: int, around: list[tuple[int, int]], wibble: float = wibble) -> None:
            mean = sum(grid[(r + down) % size, (c + right) % size] for down, right in around) / 4
            grid[r, c] = mean + wibble * wibble * next(noise)

        corners = [(-half, -half), (-half, half), (half, -half), (half, half)]
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for r in range(half, size, step):
            for c in range(half, size, step):
                put(r, c, corners)
        for first_r, first_c in ((0, half), (half, 0)):
            for r in range(first_r, size, step):
                for c in range(first_c, size, step):
                    put(r, c, cross)
        step, wibble = half, wibble / decay
    expected = (grid - grid.min()) / (grid.max() - grid.min())
    found = plasma(torch.from_numpy(draws)[None], size, decay)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_fog_keeps_the_brightest_value_as_the_bound() -> None:
    given = images(4) * 0.6
    result = plugin.Fog()(given, 5, seeds=range(4))
    assert (result.amax((1, 2, 3)) <= given.amax((1, 2, 3)) + 1e-6).all()
    # What fog adds is grey: differences between channels shrink by one factor.
    factor = given.amax((1, 2, 3)) / (given.amax((1, 2, 3)) + 1.5)
    torch.testing.assert_close(result[:, 0] - result[:, 1], (given[:, 0] - given[:, 1]) * factor[:, None, None],
                               atol=1e-6, rtol=0)  # fmt: skip


def test_without_flakes_snow_only_whitens() -> None:
    given = images(2)
    parameters = plugin.Snow().parameters(5, 32) | {"threshold": 1e9}
    result = plugin.Snow().corrupt(given, parameters, [torch.Generator(), torch.Generator()])
    grey = 0.299 * given[:, :1] + 0.587 * given[:, 1:2] + 0.114 * given[:, 2:]
    torch.testing.assert_close(result, 0.8 * given + 0.2 * torch.maximum(given, 1.5 * grey + 0.5))


def test_flakes_are_what_exceeds_the_threshold_blurred_along_the_fall() -> None:
    noise = np.random.default_rng(0).normal(size=(1, 16, 16))
    parameters = {"mean": 0.2, "spread": 0.3, "zoom": 1.0, "threshold": 0.6, "radius": 2.0, "sigma": 1.5}
    flakes = 0.2 + 0.3 * noise[0]
    flakes = np.floor(np.where(flakes < 0.6, 0, flakes).clip(0, 1) * 255)
    weights = stats.norm.pdf(np.arange(5), scale=1.5)
    padded = np.pad(flakes, ((4, 0), (0, 0)), mode="edge")  # at -90 degrees each pixel looks up
    expected = sum(w * padded[4 - i : 20 - i] for i, w in enumerate(weights / weights.sum()))
    found = snow_layer(torch.from_numpy(noise), parameters, torch.tensor([-90.0]))
    np.testing.assert_allclose(found[0, 0] * 255, np.rint(expected), atol=1e-9)


def test_frost_blends_a_texture_of_the_stated_brightness() -> None:
    textures = torch.stack([frost_texture(64, 64, 1.4, torch.Generator().manual_seed(i)) for i in range(300)])
    assert float(textures.min()) >= 0
    assert float(textures.max()) <= 1
    # Means over the five panes: red 0.564, green 0.646, blue 0.706.
    means = textures.mean((2, 3))
    error = means.std(0) / 300**0.5
    assert ((means.mean(0) - torch.tensor([0.564, 0.646, 0.706])).abs() < 4 * error).all()
    result = plugin.Frost().corrupt(images(1), {"image": 1.0, "procedural_texture": 0.0}, [torch.Generator()])
    assert torch.equal(result, images(1))


def test_frost_has_the_stated_spectrum() -> None:
    power = np.zeros((64, 64))
    for i in range(60):
        texture = frost_texture(64, 64, 1.4, torch.Generator().manual_seed(i)).mean(0).double().numpy()
        power += np.abs(np.fft.fft2(texture - texture.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    middle = (frequency > 2 / 64) & (frequency < 0.4)
    slope = stats.linregress(np.log(frequency[middle]), np.log(power[middle])).slope
    assert -1.6 < slope < -1.0  # the ridges flatten it a little


# --- digital and colour ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillows(severity: int) -> None:
    given = images(2, 30, 45)
    quality = (80, 65, 58, 50, 40)[severity - 1]
    for image, found in zip(given, plugin.JpegCompression()(given, severity, seeds=[0, 0]), strict=True):
        file = BytesIO()
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file)) / 255
        np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturation_is_that_of_hsv(severity: int, size: int) -> None:
    given = images(1, size, size)[:, :, :, :8].repeat(1, 1, 1, size // 8)
    given[0, :, 0, :3] = torch.tensor([0.0, 0.5, 1.0])  # black, grey and white
    factor, added = plugin.Saturate().parameters(severity, size).values()
    result = plugin.Saturate()(given, severity, seeds=[0])[0, :, :, :8]
    for pixel, found in zip(given[0, :, :, :8].flatten(1).T.tolist(), result.flatten(1).T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb(hue, min(saturation * factor + added, 1), value)
        assert found == pytest.approx(expected, abs=2e-6)


def test_nothing_moved_is_the_image_itself() -> None:
    given = images(2, 24, 33)
    torch.testing.assert_close(affine(given, torch.zeros(2, 3, 2)), given, atol=1e-5, rtol=0)
    torch.testing.assert_close(displaced(given, torch.zeros(2, 2, 24, 33)), given, atol=1e-5, rtol=0)


def test_the_affine_map_moves_the_three_corners() -> None:
    given = images(1, 24, 30).double()
    moved = torch.tensor([[[2.0, -1.0], [0.5, 3.0], [-4.0, 1.5]]])
    side, middle = 8, np.array([15, 12])
    before = middle + side * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + moved[0].numpy()
    # Independent of ours: least squares of where each moved corner comes from, in SciPy's order of rows and columns.
    matrix, *_ = np.linalg.lstsq(np.c_[after[:, ::-1], np.ones(3)], before[:, ::-1].astype(float), rcond=None)
    expected = [
        ndimage.affine_transform(c, matrix[:2].T, offset=matrix[2], order=1, mode="mirror") for c in given[0].numpy()
    ]
    np.testing.assert_allclose(affine(given, moved)[0], expected, atol=1e-9)


def test_displacements_are_scipys() -> None:
    given = images(1, 20, 26).double()
    shifts = 6 * torch.randn((1, 2, 20, 26), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = np.mgrid[:20, :26]
    places = [rows + shifts[0, 1].numpy(), columns + shifts[0, 0].numpy()]
    expected = [ndimage.map_coordinates(c, places, order=1, mode="reflect") for c in given[0].numpy()]
    np.testing.assert_allclose(displaced(given, shifts)[0], expected, atol=1e-9)


# --- spatter ---------------------------------------------------------------------------------------------------------


def test_mud_covers_or_leaves() -> None:
    given = images(2)
    parameters = plugin.Spatter().parameters(5, 32) | {"threshold": -1e9}  # everything is mud
    result = plugin.Spatter().corrupt(given, parameters, [torch.Generator(), torch.Generator()])
    torch.testing.assert_close(result, torch.tensor(MUD)[:, None, None].expand(2, 3, 32, 32).float())
    none = plugin.Spatter().corrupt(given, parameters | {"threshold": 1e9}, [torch.Generator(), torch.Generator()])
    assert torch.equal(none, given)


def test_water_adds_one_colour() -> None:
    given = images(3) * 0.2
    added = (plugin.Spatter()(given, 3, seeds=[1, 2, 3]) - given).clamp(min=0)
    ratio = torch.tensor(WATER)[:, None, None]
    torch.testing.assert_close(added / ratio, (added / ratio).mean(1, keepdim=True).expand_as(added), atol=1e-6, rtol=0)
    assert added.amax((1, 2, 3)).numpy() == pytest.approx(0.5 * max(WATER), abs=1e-6)


def test_the_edges_of_a_square_are_its_outline() -> None:
    picture = np.zeros((1, 20, 20), dtype=np.uint8)
    picture[0, 5:15, 5:15] = 200
    found = edges(picture)[0]
    filled = ndimage.binary_fill_holes(found)
    # One pixel wide, closed, at most one pixel off the border of the square.
    assert 10**2 <= filled.sum() <= 12**2
    assert ndimage.binary_erosion(filled).sum() == filled.sum() - found.sum()
    assert not edges(np.full((1, 9, 9), 90, dtype=np.uint8)).any()
    assert not edges(np.kron([[0, 10]], np.ones((1, 9, 9))).astype(np.uint8)).any()  # gradient 40, below the threshold


def test_weak_edges_are_kept_where_they_touch_strong_ones() -> None:
    # A step that fades along its length: 25 times 4 is weak, 60 times 4 is strong.
    fading = np.zeros((1, 12, 12), dtype=np.uint8)
    fading[0, :6, 6:], fading[0, 6:, 6:] = 60, 25
    weak = np.zeros_like(fading)
    weak[0, :, 6:] = 25
    both = edges(np.concatenate([fading, weak]))
    assert both[0, 10].any()
    assert not both[1].any()


def test_distances_are_the_shortest_of_all_paths() -> None:
    edge = np.random.default_rng(0).random((3, 18, 23)) < 0.01
    edge[2] = False
    y, x = np.mgrid[:18, :23]
    for picture, found in zip(edge, distances(edge), strict=True):
        expected = np.full((18, 23), 20.0)
        for row, column in np.argwhere(picture):
            near, far = np.sort([abs(y - row), abs(x - column)], axis=0)
            # Knight's moves and straight steps, or knight's moves and diagonal ones.
            length = np.where(far >= 2 * near, 2.1969 * near + (far - 2 * near),
                              2.1969 * (far - near) + 1.4 * (2 * near - far))  # fmt: skip
            expected = np.minimum(expected, length)
        np.testing.assert_allclose(found, expected, atol=0.05)  # a path that would leave the image takes another way
        inner = expected < 2.5
        np.testing.assert_allclose(found[inner], expected[inner], atol=1e-9)


def test_equalized_levels_follow_the_share_of_darker_pixels() -> None:
    picture = np.random.default_rng(0).integers(3, 9, (1, 10, 10)).astype(np.uint8)
    found = equalize(picture)[0]
    darkest = int((picture == picture.min()).sum())
    for level in np.unique(picture):
        expected = 255 * (int((picture <= level).sum()) - darkest) / (100 - darkest)
        assert set(found[picture[0] == level].tolist()) == {round(expected)}
    assert (equalize(np.full((1, 4, 4), 7, dtype=np.uint8)) == 7).all()


def test_no_water_no_glint() -> None:
    assert not glints(np.zeros((2, 8, 8), dtype=np.uint8)).any()
