from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.data import load_data
from auditor.errors import DataError, OptionError

N = 24


def arrays(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    fields = {"images": rng.integers(0, 256, (N, 5, 6, 3)).astype(np.uint8), "labels": np.arange(N) % 3}
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def write(path: Path, **changes: Any) -> str:
    np.savez(path, **arrays(**changes))
    return str(path)


def test_images_labels_classes_and_names(tmp_path: Path) -> None:
    names = np.array([f"pic/{row:02d}.png" for row in range(N)])
    text = write(tmp_path / "pets.npz", classes=np.array(["owl", "cat", "dog"]), filenames=names)
    data = load_data(text)
    assert (data.name, data.classes, data.ids[3]) == ("pets", ("owl", "cat", "dog"), "pic/03.png")
    np.testing.assert_array_equal(np.asarray(data.read(7)), arrays()["images"][7])
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(data)).read(7)), arrays()["images"][7])
    assert data.fingerprint() == load_data("npz:" + text).fingerprint()


def test_what_is_optional(tmp_path: Path) -> None:
    data = load_data(write(tmp_path / "a.npz"))
    assert data.classes == ("0", "1", "2")
    assert data.ids[11] == "npz/00000011"
    # The same file under another name is the same data.
    assert data.split_fingerprint() == load_data(write(tmp_path / "b.npz")).split_fingerprint()


@pytest.mark.parametrize("shape", [(N, 5, 6), (N, 5, 6, 1)])
def test_grey_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.arange(N * 30, dtype=np.uint32).astype(np.uint8).reshape(shape)
    image = load_data(write(tmp_path / "grey.npz", images=images)).read(2)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image)[..., 1], images.reshape(N, 5, 6)[2])


def test_labels_of_one_column_are_flattened(tmp_path: Path) -> None:
    data = load_data(write(tmp_path / "column.npz", labels=(np.arange(N) % 3)[:, None]))
    assert data.labels.tolist() == [row % 3 for row in range(N)]


def test_classes_without_images_stay(tmp_path: Path) -> None:
    data = load_data(write(tmp_path / "gap.npz", labels=np.arange(N) % 2 * 4, classes=np.array(list("abcdef"))))
    assert len(data.classes) == 6
    assert set(data.labels[data.splits["score"]]) == {0, 4}


def test_a_set_called_digits_is_not_the_embedded_one(tmp_path: Path) -> None:
    assert load_data(write(tmp_path / "digits.npz")).name != "digits"


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"images": None}, "no array 'images'"),
        ({"labels": None}, "no array 'labels'"),
        ({"images": np.zeros((N, 5, 6, 3), np.float32)}, "unexpected type"),
        ({"images": np.zeros((N, 3, 5, 6), np.uint8)}, "unexpected shape"),
        ({"images": np.zeros((N, 30), np.uint8)}, "unexpected shape"),
        ({"images": np.zeros((N, 0, 6, 3), np.uint8)}, "no pixels"),
        ({"images": np.zeros((N + 1, 5, 6, 3), np.uint8)}, "one entry of 'labels'"),
        ({"labels": np.eye(3)[np.arange(N) % 3]}, "not class numbers"),
        ({"labels": np.linspace(0, 1, N)}, "not class numbers"),
        ({"labels": np.arange(N) % 3 - 1}, "name no class"),
        ({"labels": np.zeros(N, np.int64)}, "one class only"),
        ({"labels": np.array([0] * (N - 1) + [1])}, "too few images"),
        ({"classes": np.array(["a", "b"])}, "name no class"),
        ({"classes": np.array(3)}, "single value"),
        ({"classes": np.zeros((3, 2), "U1")}, "not a list of names"),
        ({"ids": np.array(["x"] * N)}, "same id"),
        ({"ids": np.array([f"{row}" for row in range(5)])}, "one entry of 'ids'"),
    ],
)
def test_unusable_arrays_are_explained(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(write(tmp_path / "odd.npz", **changes))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    objects = np.array([f"class {i}" for i in range(3)], dtype=object)
    with pytest.raises(DataError, match=r"'classes'.*pickled") as caught:
        load_data(write(tmp_path / "objects.npz", classes=objects))
    assert "dtype=str" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz"):
        load_data(str(tmp_path / "bad.npz"))


def test_a_file_cut_short_or_of_one_array_is_named(tmp_path: Path) -> None:
    whole = Path(write(tmp_path / "whole.npz")).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.npz"):
        load_data(str(tmp_path / "cut.npz"))
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        load_data(str(tmp_path / "one.npz"))


def test_a_missing_file_and_a_root(tmp_path: Path) -> None:
    text = write(tmp_path / "pets.npz")
    with pytest.raises(DataError, match="no file") as caught:
        load_data(str(tmp_path / "petz.npz"))
    assert caught.value.closest == ("pets.npz",)
    with pytest.raises(OptionError, match="takes no --root"):
        load_data(text, root=tmp_path)
