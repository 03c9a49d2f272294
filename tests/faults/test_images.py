"""``auditor profile --data FOLDER`` on folders as people have them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import NAME, Done, Server, assert_same_run
from safetensors.torch import save_file
from slow import small_cnn

import auditor
from auditor.errors import DataError
from auditor.store.reader import StoreReader

RNG = np.random.default_rng(11)
OPTIONS = ["--weights", "none", "--input-size", "16", "--batch-size", "6", "--shuffles", "199", "--bootstraps", "100"]


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def odd_images() -> dict[str, bytes]:
    """Every kind of picture that has colours to be shown."""
    rgb = Image.fromarray(noise(20, 24, 3))
    deep = Image.fromarray(RNG.integers(0, 65536, (20, 24)).astype(np.uint16))
    return {
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "palette.png": encoded(rgb.quantize(16)),
        "palette.gif": encoded(rgb.quantize(16), "GIF"),
        "rgba.png": encoded(Image.fromarray(noise(20, 24, 4))),
        "grey and alpha.png": encoded(Image.fromarray(noise(20, 24, 2))),
        "deep.png": encoded(deep),
        "deep.tif": encoded(deep, "TIFF"),
        "dot.png": encoded(Image.fromarray(noise(1, 1, 3))),
        "line.png": encoded(Image.fromarray(noise(1, 90, 3))),
        "bilevel.png": encoded(Image.fromarray(noise(20, 24) > 99)),
        "really a png.jpg": encoded(rgb),
        "SHOUTED.PNG": encoded(rgb),
    }


def bad_images() -> dict[str, bytes]:
    whole = encoded(Image.fromarray(noise(20, 24, 3)), "JPEG")
    return {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "text.jpg": b"Dear Sir or Madam,\n"}


def fill(folder: Path, content: dict[str, bytes], *, more: int = 6) -> Path:
    """Make a class folder of `content` and so many plain images."""
    folder.mkdir(parents=True)
    plain = {f"{number:02d}.png": encoded(Image.fromarray(noise(16, 16, 3))) for number in range(more)}
    for name, pixels in {**plain, **content}.items():
        (folder / name).write_bytes(pixels)
    return folder


def profile(server: Server, data: Path, cwd: Path, *options: str) -> Done:
    arguments = ["profile", "--model", "slow:small_cnn", "--data", data, *OPTIONS, "--name", NAME, *options]
    return server.call(*arguments, cwd=cwd)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two classes: one with every odd picture, one with every bad file, none of them to train on."""
    fill(tmp_path / "mixed" / "odd", odd_images())
    fill(tmp_path / "mixed" / "bad", bad_images(), more=9)
    return tmp_path / "mixed"


ALL_SCORED = ["--fractions", "0,0.5,0.5"]


def test_bad_files_are_skipped_counted_and_listed(server: Server, mixed: Path, tmp_path: Path) -> None:
    done = profile(server, mixed, tmp_path, *ALL_SCORED, "--json")
    assert done.code == 0, done.err
    done.is_tidy("3 images of 30 could not be read and are left out", "skipped.csv")
    document = json.loads(done.out)
    run = tmp_path / "runs" / NAME
    with (run / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {f"bad/{name}" for name in bad_images()}
    assert all(row["reason"] for row in rows)
    assert [one["id"] for one in document["manifest"]["provenance"]["skipped"]] == [row["id"] for row in rows]
    with StoreReader(run / "activations.h5") as store:
        assert {f"odd/{name}" for name in odd_images()} <= set(store.ids)
        assert store.n_rows == 27
        assert np.isfinite(store.logits).all()


def test_more_bad_files_than_allowed(server: Server, mixed: Path, tmp_path: Path) -> None:
    done = profile(server, mixed, tmp_path, *ALL_SCORED, "--max-bad", "2")
    done.is_clear_error("3 images of 30 could not be read", "wanted:  at most 2", "--max-bad N")
    assert done.out == ""


def test_repaired_files_stay_left_out(server: Server, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert profile(server, mixed, tmp_path / "there", *ALL_SCORED).code == 0
    profile(server, mixed, tmp_path, *ALL_SCORED, "--max-bad", "2").is_clear_error("could not be read")
    for name in bad_images():
        (mixed / "bad" / name).write_bytes(encoded(Image.fromarray(noise(16, 16, 3))))
    done = profile(server, mixed, tmp_path, *ALL_SCORED, "--max-bad", "3")
    assert done.code == 0, done.err
    first, second = (folder / "runs" / NAME / "skipped.csv" for folder in (tmp_path / "there", tmp_path))
    assert set(first.read_text().splitlines()) == set(second.read_text().splitlines())


def _empty_class(data: Path) -> None:
    (data / "nothing").mkdir()


def _no_images(data: Path) -> None:
    fill(data / "letters", {"letter.txt": b"Dear Sir or Madam,\n"}, more=0)


def _lonely(data: Path) -> None:
    fill(data / "lonely", {}, more=1)


def _unreadable(data: Path) -> None:
    fill(data / "ruined", bad_images(), more=0)


def _single(data: Path) -> None:
    for path in (data / "b").iterdir():
        path.unlink()
    (data / "b").rmdir()


@pytest.mark.parametrize(
    "spoil, messages",
    [
        (_empty_class, ["nothing has no images", "Add images or remove the folder"]),
        (_no_images, ["letters has no images"]),
        (_lonely, ["The class 'lonely' has too few images to be divided", "at least 2 images"]),
        (_unreadable, ["images of the class 'ruined' in the", "split can be read"]),
        (_single, ["has one class only", "at least 2 classes"]),
    ],
)
def test_classes_that_cannot_be_scored(
    server: Server, tmp_path: Path, spoil: Callable[[Path], None], messages: list[str]
) -> None:
    for name in "ab":
        fill(tmp_path / "data" / name, {}, more=8)
    spoil(tmp_path / "data")
    done = profile(server, tmp_path / "data", tmp_path)
    done.is_clear_error(*messages)
    assert done.out == ""


def test_one_image_of_a_class_can_be_described(server: Server, tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / "data" / name, {}, more=8)
    _lonely(tmp_path / "data")
    done = profile(server, tmp_path / "data", tmp_path, "--fractions", "0,1,0", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out, parse_constant=pytest.fail)  # NaN is not JSON
    assert document["summary"]["accuracy"]["split"] == "select"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path, value: float
) -> None:
    weights = small_cnn(3).state_dict()
    weights["conv2.bias"][3] = value
    save_file(weights, tmp_path / "bad.safetensors")
    at = command.index("--weights")
    spoilt = [*command[:at], "--checkpoint", str(tmp_path / "bad.safetensors"), *command[at + 2 :]]
    done = server.call(*spoilt, cwd=tmp_path)
    done.is_clear_error("The responses of layer 'act2' hold NaN or infinite values")
    assert re.search(r"6 of the 6 images of a batch: npz/\d{8}", done.err)
    with StoreReader(tmp_path / "runs" / NAME / "activations.h5") as store:
        assert store.n_rows == 0
    assert server.call(*command[:-1], "sound", cwd=tmp_path).code == 0
    assert_same_run(tmp_path / "runs" / "sound", undisturbed)


def test_a_logit_that_is_no_number(server: Server, command: list[str], tmp_path: Path) -> None:
    weights = small_cnn(3).state_dict()
    weights["fc.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    save_file(weights, tmp_path / "bad.safetensors")
    at = command.index("--weights")
    spoilt = [*command[:at], "--checkpoint", str(tmp_path / "bad.safetensors"), *command[at + 2 :]]
    done = server.call(*spoilt, cwd=tmp_path)
    done.is_clear_error("The logits hold NaN or infinite values", "npz/")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_no_number(tmp_path: Path, value: float) -> None:
    pictures = [(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)), i % 2) for i in range(24)]
    pictures[7][0][1, 2, 3] = value
    with pytest.raises(DataError, match=r"0*7 holds NaN or infinite"):
        auditor.profile(
            small_cnn(2), data=pictures, preprocessing=auditor.Preprocessing(input_size=(3, 16, 16), resize=(16,)),
            fractions=(0, 0.5, 0.5), shuffles=19, bootstraps=39, runs=tmp_path,
        )  # fmt: skip


@pytest.mark.parametrize("std", ["0", "1e-45", "nan"])
def test_a_preprocessing_that_makes_no_numbers(server: Server, command: list[str], tmp_path: Path, std: str) -> None:
    server.call(*command, "--std", std, cwd=tmp_path).is_clear_error("std")
