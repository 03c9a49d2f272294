from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.data import load_data
from auditor.data.decode import read_image
from auditor.data.digits import DigitsSource
from auditor.data.folder import FolderSource
from auditor.errors import DataError

FRACTIONS = (0.5, 0.25, 0.25)


def paint(path: Path, *, colour: tuple[int, int, int] = (10, 20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), colour).save(path)


def fill(root: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 8) -> Path:
    for name in classes:
        for row in range(n):
            paint(root / name / f"{row}.png")
    return root


def test_digits() -> None:
    data = DigitsSource().load("digits", seed=0, fractions=FRACTIONS)
    assert (len(data), len(data.classes)) == (1797, 10)
    assert (data.ids[0], data.ids[-1]) == ("digits/0000", "digits/1796")
    image = data.read(0)
    assert (image.size, image.mode) == ((8, 8), "L")
    assert np.asarray(image).max() in range(200, 256)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 901, "select": 449, "score": 447}
    pickle.dumps(data)


def test_folder_of_classes(tmp_path: Path) -> None:
    fill(tmp_path)
    paint(tmp_path / "cat" / "deeper" / "X.JPEG")
    paint(tmp_path / "cat" / ".hidden.png")
    paint(tmp_path / ".cache" / "0.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    data = FolderSource().load(str(tmp_path), seed=0, fractions=FRACTIONS)
    assert data.classes == ("cat", "dog")
    assert len(data) == 17
    assert "cat/deeper/X.JPEG" in data.ids
    image = data.read(data.ids.index("dog/3.png"))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (10, 20, 30))
    pickle.dumps(data)


def test_the_same_folder_elsewhere_has_the_same_fingerprints(tmp_path: Path) -> None:
    one = FolderSource().load(str(fill(tmp_path / "a")), seed=5, fractions=FRACTIONS)
    two = FolderSource().load(f"folder:{fill(tmp_path / 'b')}", seed=5, fractions=FRACTIONS)
    assert one.fingerprint() == two.fingerprint()
    assert one.split_fingerprint() == two.split_fingerprint()


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "test"])
def test_a_division_that_is_there_is_kept(tmp_path: Path, held_out: str) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / held_out, n=4)
    data = FolderSource().load(str(tmp_path), seed=0, fractions=FRACTIONS)
    assert all(data.ids[row].startswith("train/") for row in data.splits["train"])
    rest = [data.ids[row] for split in ("select", "score") for row in data.splits[split]]
    assert len(rest) == 8
    assert all(name.startswith(f"{held_out}/") for name in rest)
    assert (len(data.splits["train"]), len(data.splits["select"]), len(data.splits["score"])) == (16, 4, 4)


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    data = FolderSource().load(str(fill(tmp_path, ("test", "train"))), seed=0, fractions=FRACTIONS)
    assert data.classes == ("test", "train")


def test_classes_must_agree(tmp_path: Path) -> None:
    fill(tmp_path / "train", ("cat", "dog"))
    fill(tmp_path / "val", ("cat", "owl"))
    with pytest.raises(DataError, match="different class folders") as caught:
        FolderSource().load(str(tmp_path), seed=0, fractions=FRACTIONS)
    assert "dog, owl" in str(caught.value)


def test_unusable_folders_are_explained(tmp_path: Path) -> None:
    source = FolderSource()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no class folders") as caught:
        source.load(str(tmp_path / "empty"), seed=0, fractions=FRACTIONS)
    assert caught.value.got == "a folder without images"
    paint(tmp_path / "flat" / "0.png")
    with pytest.raises(DataError, match="no class folders") as caught:
        source.load(str(tmp_path / "flat"), seed=0, fractions=FRACTIONS)
    assert caught.value.got == "images outside class folders"
    with pytest.raises(DataError, match="one class only"):
        source.load(str(fill(tmp_path / "one", ("cat",))), seed=0, fractions=FRACTIONS)
    fill(tmp_path / "gap")
    (tmp_path / "gap" / "owl").mkdir()
    with pytest.raises(DataError, match="owl has no images"):
        source.load(str(tmp_path / "gap"), seed=0, fractions=FRACTIONS)
    with pytest.raises(DataError, match="no folder"):
        source.load("folder:nowhere", seed=0, fractions=FRACTIONS)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    fill(tmp_path)
    try:
        (tmp_path / "cat" / "up").symlink_to(tmp_path / "cat", target_is_directory=True)
    except OSError:
        pytest.skip("no links on this system")
    assert len(FolderSource().load(str(tmp_path), seed=0, fractions=FRACTIONS)) == 16


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    paint(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        read_image(path)


def test_deep_grey_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535, 32768]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 255, 128]
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "float.tif")


def test_load_data_asks_the_sources(tmp_path: Path) -> None:
    assert load_data("digits").name == "digits"
    assert load_data(str(fill(tmp_path / "pets"))).name == "pets"


def test_what_nobody_claims_is_explained(tmp_path: Path) -> None:
    fill(tmp_path / "pets")
    with pytest.raises(DataError, match="no folder") as caught:
        load_data(str(tmp_path / "petz"))
    assert caught.value.closest == (str(tmp_path / "pets"),)
    with pytest.raises(DataError) as caught:
        load_data("digit")
    assert "digits" in caught.value.closest
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match="is a file"):
        load_data(str(tmp_path / "file.txt"))


def test_the_package_needs_no_torch() -> None:
    import subprocess

    code = "import sys, auditor.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
