from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.errors import DataError, OptionError, UnknownNameError
from auditor.perturbations.stored import open_stored

CLASSES = ("cat", "dog", "owl")
N = 4


def rows(seed: int = 0, n: int = 5 * N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.save(tmp_path / "fog.npy", rows(0))
    np.save(tmp_path / "snow.npy", rows(1))
    np.save(tmp_path / "labels.npy", np.tile(np.array([0, 2, 1, 2], dtype=np.uint8), 5))
    return tmp_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    number = 0
    for name, severities in (("fog", (1, 3)), ("snow", (1,))):
        for severity in severities:
            for image in ("owl/b.png", "cat/a.png", "owl/a.png"):
                path = tmp_path / name / str(severity) / image
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((5, 7, 3), number, dtype=np.uint8)).save(path)
                number += 1
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes").mkdir()
    return tmp_path


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 5])
def test_blocks_of_rows_are_severities(arrays: Path, repeats: int) -> None:
    np.save(arrays / "labels.npy", np.tile([0, 2, 1, 2], repeats))
    stored = open_stored(arrays, CLASSES)
    assert stored.types == {"fog": [1, 2, 3, 4, 5], "snow": [1, 2, 3, 4, 5]}
    assert stored.n == N
    for seed, name in enumerate(stored.types):
        for severity in (1, 3, 5):
            part = stored.read(name, severity)
            assert part.labels.tolist() == [0, 2, 1, 2]
            assert part.ids == ("0", "1", "2", "3")
            assert len(part) == N
            pictures = np.stack([np.asarray(part.read(i)) for i in range(N)])
            np.testing.assert_array_equal(pictures, rows(seed)[(severity - 1) * N : severity * N])


def test_a_reader_is_small_enough_to_send_to_another_process(arrays: Path) -> None:
    part = open_stored(arrays, CLASSES).read("snow", 2)
    sent = pickle.dumps(part.read)
    assert len(sent) < 1000
    assert part.read(1).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(pickle.loads(sent)(1)), rows(1)[N + 1])


def test_pickled_objects_are_refused(arrays: Path) -> None:
    np.save(arrays / "fog.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"fog\.npy cannot be read"):
        open_stored(arrays, CLASSES)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_what_is_no_array_is_refused(arrays: Path, content: bytes) -> None:
    (arrays / "fog.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"fog\.npy"):
        open_stored(arrays, CLASSES)


def test_a_cut_off_array_is_refused(arrays: Path) -> None:
    whole = (arrays / "fog.npy").read_bytes()
    (arrays / "fog.npy").write_bytes(whole[:-10])
    with pytest.raises(DataError, match="cannot be read"):
        open_stored(arrays, CLASSES)


@pytest.mark.parametrize(
    "array,match",
    [
        (rows().astype(np.float32), "no RGB images"),
        (rows()[..., 0], "no RGB images"),
        (rows().transpose(0, 3, 1, 2), "no RGB images"),
        (rows()[:0], "no RGB images"),
        (rows(n=5 * N + 1), "five severities"),
        (rows(n=5 * N + 5), "differ in length"),
    ],
)
def test_other_arrays_are_refused(arrays: Path, array: np.ndarray, match: str) -> None:
    np.save(arrays / "snow.npy", array)
    with pytest.raises(DataError, match=match):
        open_stored(arrays, CLASSES)


@pytest.mark.parametrize(
    "labels,match",
    [
        (np.zeros(N + 1, dtype=int), "does not fit the images"),
        (np.zeros((N, 1), dtype=int), "does not fit the images"),
        (np.zeros(N), "does not fit the images"),
        (np.array([0, 1, 2, 3]), "does not know"),
        (np.array([0, 1, 2, -1]), "does not know"),
        (np.arange(5 * N) % 3, "other labels at other severities"),
    ],
)
def test_other_labels_are_refused(arrays: Path, labels: np.ndarray, match: str) -> None:
    np.save(arrays / "labels.npy", labels)
    with pytest.raises(DataError, match=match):
        open_stored(arrays, CLASSES)


def test_arrays_need_labels_and_labels_arrays(arrays: Path) -> None:
    (arrays / "labels.npy").rename(arrays / ".labels.npy")
    with pytest.raises(DataError, match=r"no labels\.npy"):
        open_stored(arrays, CLASSES)
    (arrays / ".labels.npy").rename(arrays / "labels.npy")
    for name in ("fog", "snow"):
        (arrays / f"{name}.npy").unlink()
    with pytest.raises(DataError, match="labels and no images"):
        open_stored(arrays, CLASSES)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_tree_is_read_by_the_names_of_its_classes(tree: Path) -> None:
    stored = open_stored(str(tree), CLASSES)
    assert stored.types == {"fog": [1, 3], "snow": [1]}
    assert stored.n == 3
    part = stored.read("fog", 3)
    assert part.ids == ("cat/a.png", "owl/a.png", "owl/b.png")
    assert part.labels.tolist() == [0, 2, 2]
    assert [np.asarray(part.read(i))[0, 0, 0] for i in range(3)] == [4, 5, 3]
    assert part.read(0).size == (7, 5)


def test_labels_follow_the_order_of_the_run(tree: Path) -> None:
    assert open_stored(tree, ("owl", "dog", "cat")).read("snow", 1).labels.tolist() == [2, 0, 0]


def test_unknown_classes_are_listed(tree: Path) -> None:
    with pytest.raises(DataError, match="does not know") as caught:
        open_stored(tree, ("cat", "dog"))
    assert "owl" in str(caught.value)


def test_every_part_must_hold_the_same_images(tree: Path) -> None:
    (tree / "snow/1/owl/b.png").unlink()
    stored = open_stored(tree, CLASSES)
    assert len(stored.read("fog", 1)) == 3
    with pytest.raises(DataError, match="other images") as caught:
        stored.read("snow", 1)
    assert "owl/b.png" in str(caught.value)


def test_what_is_not_there_is_named(tree: Path) -> None:
    stored = open_stored(tree, CLASSES)
    with pytest.raises(UnknownNameError, match="frog"):
        stored.read("frog", 1)
    with pytest.raises(OptionError, match="severity"):
        stored.read("snow", 2)


def test_a_broken_picture_names_its_file(tree: Path) -> None:
    (tree / "fog/1/cat/a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"fog/1/cat/a\.png"):
        open_stored(tree, CLASSES).read("fog", 1).read(0)


@pytest.mark.parametrize("made", [(), ("fog",), ("fog/7/cat",), ("fog/1",), ("fog/1/cat",)])
def test_other_folders_are_refused(tmp_path: Path, made: tuple[str, ...]) -> None:
    for folder in made:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=r"TYPE/SEVERITY/CLASS/IMAGE"):
        open_stored(tmp_path, CLASSES)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        open_stored(tmp_path / "missing", CLASSES)
