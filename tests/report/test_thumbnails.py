"""Small images, and the region of an image that drives a unit."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from auditor.errors import DataError
from auditor.report.thumbnails import region, thumbnail


def opened(uri):
    head, body = uri.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(body, validate=True)))
    assert head == f"data:image/{image.format.lower()};base64"
    return image


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (32, 32, 3), (16, 48, 3)])
def test_every_pixel_of_a_tiny_image_can_be_seen(shape):
    pixels = noise(*shape)
    picture = opened(thumbnail(pixels, 96))
    factor = 96 // max(shape[:2])
    expected = np.kron(pixels, np.ones((factor, factor, 1)[: len(shape)], dtype=np.uint8))
    assert picture.format == "PNG"
    np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize(
    "shape, expected", [((224, 224, 3), (96, 96)), ((300, 600), (96, 48)), ((64, 40, 3), (60, 96)), ((900, 2), (1, 96))]
)
def test_photographs_keep_their_aspect_and_are_small(shape, expected):
    picture = opened(thumbnail(noise(*shape), 96))
    assert (picture.format, picture.size) == ("JPEG", expected)
    flat = np.full((224, 224, 3), (200, 30, 90), dtype=np.uint8)
    assert np.abs(np.asarray(opened(thumbnail(flat))).astype(int) - flat[0, 0]).max() <= 3
    assert len(thumbnail(flat)) < 2_000


def test_the_same_image_gives_the_same_bytes():
    pixels = noise(224, 224, 3)
    assert thumbnail(pixels) == thumbnail(pixels.copy())
    assert region(pixels, np.eye(7)) == region(pixels, np.eye(7))


def bilinear(values, height, width):
    """Bilinear up-sampling with half-pixel centres, by scipy."""
    y = (np.arange(height) + 0.5) * values.shape[0] / height - 0.5
    x = (np.arange(width) + 0.5) * values.shape[1] / width - 0.5
    return map_coordinates(values, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")


@pytest.mark.parametrize("shape", [(224, 224, 3), (100, 200, 3), (28, 28)])
def test_the_region_is_where_the_map_reaches_half_of_its_maximum(shape):
    values = np.random.default_rng(1).gamma(1, 1, (7, 7))
    overlay = opened(region(np.zeros(shape, np.uint8), values))
    assert overlay.size == opened(thumbnail(np.zeros(shape, np.uint8))).size
    width, height = overlay.size
    grown = bilinear(values, height, width)
    pixels = np.asarray(overlay.convert("RGBA")).astype(int)
    clear, orange = pixels[..., 3] == 0, (pixels[..., :3] == (0xE6, 0x9F, 0)).all(-1)
    dark, veil = (pixels[..., :3] == (0x22, 0x22, 0x22)).all(-1), pixels[..., 3] == 150
    assert (clear.astype(int) + orange + dark + veil == 1).all()
    sure = np.abs(grown - grown.max() / 2) > 1e-4
    np.testing.assert_array_equal((clear | orange)[sure], (grown >= grown.max() / 2)[sure])


def test_the_edge_has_a_dark_outline():
    values = np.zeros((3, 3))
    values[1, 1] = 1
    row = np.asarray(opened(region(np.zeros((96, 96), np.uint8), values)).convert("RGBA"))[48]
    first = int(np.flatnonzero(row[:, 0] == 0xE6)[0])
    assert tuple(row[first - 1]) == (0x22, 0x22, 0x22, 255)
    assert row[first - 2, 3] == 150
    assert row[first + 1, 3] == 0


def test_a_constant_map_marks_all_and_a_silent_one_nothing():
    image = np.zeros((96, 96), np.uint8)
    assert (np.asarray(opened(region(image, np.ones((1, 1)))).convert("RGBA"))[..., 3] == 0).all()
    for silent in (np.zeros((4, 4)), np.full((4, 4), -1.0)):
        assert (np.asarray(opened(region(image, silent)).convert("RGBA"))[..., 3] == 150).all()


def test_an_overlay_takes_a_few_hundred_bytes():
    assert len(region(noise(224, 224, 3), np.random.default_rng(2).gamma(1, 1, (14, 14)))) < 1_500


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(DataError, match="no image"):
        thumbnail(image)
    with pytest.raises(DataError, match="no image"):
        region(image, np.eye(3))


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 3)), np.array([[1.0, np.nan]]), np.zeros((1, 2, 2))])
def test_what_is_no_map_is_refused(values):
    with pytest.raises(DataError, match="no activation map"):
        region(np.zeros((8, 8), np.uint8), values)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(DataError, match="needs pixels"):
        thumbnail(np.zeros((8, 8), np.uint8), 0)
