from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.data import UnreadableImageError
from auditor.data.decode import as_picture, read_image
from auditor.errors import DataError

RNG = np.random.default_rng(3)
COLOUR = RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    image = read_image(content, "x")
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_cmyk_jpeg_has_its_colours() -> None:
    # Uniform colours survive JPEG; Pillow writes Adobe's inverted CMYK and must turn it back.
    for rgb in ((250, 20, 30), (0, 128, 255), (255, 255, 255), (0, 0, 0)):
        content = saved(Image.new("RGB", (16, 16), rgb).convert("CMYK"), "JPEG", quality=95)
        assert Image.open(BytesIO(content)).mode == "CMYK"
        np.testing.assert_allclose(pixels(content)[8, 8], rgb, atol=4)


def test_palettes_grey_and_bilevel() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putdata([0, 1])
    for kind in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(pixels(saved(palette, kind))[0], [[10, 20, 30], [200, 100, 0]])
    np.testing.assert_array_equal(pixels(saved(palette, "PNG", transparency=1))[0], [[10, 20, 30], [200, 100, 0]])
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(COLOUR[..., 0]), "PNG"))[..., 2], COLOUR[..., 0])
    np.testing.assert_array_equal(pixels(saved(Image.new("1", (2, 2), 1), "PNG")), np.full((2, 2, 3), 255))


@pytest.mark.parametrize("opaque", [0, 128, 255])
def test_transparency_is_dropped_as_torchvisions_loader_does(tmp_path: Path, opaque: int) -> None:
    from torchvision.datasets.folder import default_loader

    alpha = np.full((*COLOUR.shape[:2], 1), opaque, np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(path)
    np.testing.assert_array_equal(np.asarray(read_image(path)), COLOUR)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(default_loader(str(path))))
    grey = Image.fromarray(np.concatenate([COLOUR[..., :1], alpha], axis=2))
    np.testing.assert_array_equal(pixels(saved(grey, "PNG"))[..., 0], COLOUR[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled(kind: str) -> None:
    deep = RNG.integers(0, 65536, (4, 5)).astype(np.uint16)
    deep[0, :3] = 0, 65535, 257
    expected = np.floor(deep / 257 + 0.5)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(deep), kind))[..., 0], expected)


def test_what_has_no_known_range_is_unreadable() -> None:
    for image in (Image.fromarray(np.ones((2, 2), np.float32)), Image.fromarray(np.array([[-1, 70000]], np.int32))):
        with pytest.raises(UnreadableImageError, match="range is not known"):
            read_image(saved(image, "TIFF"), "odd.tif")


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_tiny_images_reach_the_model(size: tuple[int, int]) -> None:
    from auditor.models.preprocessing import Preprocessing

    image = read_image(saved(Image.new("RGB", size, (255, 0, 0)), "PNG"), "dot.png")
    tensor = Preprocessing(input_size=(3, 32, 32), resize=(36,)).build()(image)
    assert tuple(tensor.shape) == (3, 32, 32)
    assert tensor.isfinite().all()


def test_broken_files_are_named(tmp_path: Path) -> None:
    jpeg = saved(Image.fromarray(COLOUR), "JPEG")
    for name, content in {
        "empty.jpg": b"",
        "text.jpg": b"This is no picture.\n",
        "cut.jpg": jpeg[: len(jpeg) * 2 // 3],
        "head.png": b"\x89PNG\r\n\x1a\n",
        "evil\x1b[2J.png": b"x",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError, match=name.partition("\x1b")[0]) as caught:
            read_image(tmp_path / name)
        assert "\x1b" not in str(caught.value)
    with pytest.raises(UnreadableImageError, match="the file is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_tensors_and_arrays_give_back_the_picture() -> None:
    import torch
    from torchvision.transforms.functional import pil_to_tensor, to_tensor

    picture = Image.fromarray(COLOUR)
    for value in (picture, COLOUR, pil_to_tensor(picture), to_tensor(picture), to_tensor(picture).double()):
        np.testing.assert_array_equal(np.asarray(as_picture(value, "x")), COLOUR)
    grey = COLOUR[..., 0]
    for value in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(np.asarray(as_picture(value, "x"))[..., 2], grey)
    deep = (grey.astype(np.uint16)) * 257
    np.testing.assert_array_equal(np.asarray(as_picture(deep, "x"))[..., 0], grey)


@pytest.mark.parametrize(
    "value,message",
    [
        ("a.png", "not an image"),
        (np.zeros((3, 5, 6), np.uint8), "shape"),
        (np.zeros((2, 2, 2, 3), np.uint8), "shape"),
        (np.zeros((5, 6, 3), np.int64), "unexpected type"),
        (np.full((5, 6, 3), 200.0), "outside 0 to 1"),
        (np.full((5, 6, 3), -0.1), "outside 0 to 1"),
        (np.full((5, 6, 3), np.nan), "photo 7 holds NaN"),
        (np.full((5, 6), np.inf), "photo 7 holds NaN or infinite"),
    ],
)
def test_other_values_are_explained(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        as_picture(value, "photo 7")
    assert not isinstance(caught.value, UnreadableImageError)
