from __future__ import annotations

import pickle
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from auditor.errors import AuditorError, DataError, OptionError, UnknownNameError
from auditor.registry import Registry

datasets = pytest.importorskip("datasets", reason="the plugin's own dependency is not installed")
plugin = pytest.importorskip("auditor_huggingface", reason="auditor-huggingface is not installed")

FRACTIONS = (0.5, 0.25, 0.25)
NAMES = ["owl", "cat", "dog"]  # not in alphabetical order


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (5, 6, 3)).astype(np.uint8)


def table(n: int = 24, **columns: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    values: dict[str, Any] = {
        "image": [Image.fromarray(pixels(row)) for row in range(n)],
        "label": [row % 3 for row in range(n)],
    }
    for name, (feature, column) in columns.items():
        features[name], values[name] = feature, column
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def load(text: str, **options: Any) -> Any:
    return plugin.HuggingFaceSource().load(text, seed=0, fractions=FRACTIONS, **options)


def folder(root: Path, n: int = 8) -> Path:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for row in range(n):
                Image.fromarray(pixels(row)).save(root / part / name / f"{row}.png")
    return root


def test_a_parquet_file(tmp_path: Path) -> None:
    table().to_parquet(str(tmp_path / "pets.parquet"))
    data = load(f"hf:parquet:{tmp_path / 'pets.parquet'}")
    assert data.name == "pets"
    assert data.classes == tuple(NAMES)
    assert data.labels.tolist() == [row % 3 for row in range(24)]
    assert data.ids[:2] == ("train/00000000", "train/00000001")
    np.testing.assert_array_equal(np.asarray(data.read(7)), pixels(7))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 12, "select": 6, "score": 6}
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(data)).read(3)), pixels(3))


def test_loaded_twice_the_fingerprints_are_the_same(tmp_path: Path) -> None:
    table().to_parquet(str(tmp_path / "pets.parquet"))
    one, two = (load(f"hf:parquet:{tmp_path / 'pets.parquet'}", root=str(tmp_path / cache)) for cache in "ab")
    assert one.fingerprint() == two.fingerprint()
    assert one.split_fingerprint() == two.split_fingerprint()
    assert (tmp_path / "a").is_dir()


def test_a_folder_of_parquet_files_keeps_its_division(tmp_path: Path) -> None:
    table().to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    table(12).to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    data = load(f"hf:parquet:{tmp_path}")
    assert {data.ids[row].split("/")[0] for row in data.splits["train"]} == {"train"}
    assert (len(data.splits["train"]), len(data.splits["select"]), len(data.splits["score"])) == (24, 6, 6)
    np.testing.assert_array_equal(np.asarray(data.read(24 + 5)), pixels(5))
    assert len(load(f"hf:parquet:{tmp_path}?split=test")) == 12


def test_secret_labels_are_passed_over(tmp_path: Path) -> None:
    table().to_parquet(str(tmp_path / "train-0.parquet"))
    table(6).map(lambda _: {"label": -1}).to_parquet(str(tmp_path / "test-0.parquet"))
    data = load(f"hf:parquet:{tmp_path}")
    assert len(data) == 24
    assert len(data.splits["train"]) == 12


def test_an_image_folder(tmp_path: Path) -> None:
    data = load(f"hf:imagefolder:{folder(tmp_path / 'pets')}")
    assert data.classes == ("cat", "dog")
    assert sorted(data.ids)[:2] == ["test/cat/0.png", "test/cat/1.png"]
    row = data.ids.index("test/dog/3.png")
    assert data.classes[data.labels[row]] == "dog"
    np.testing.assert_array_equal(np.asarray(data.read(row)), pixels(3))
    assert all(data.ids[row].startswith("train/") for row in data.splits["train"])


def test_a_broken_image_is_that_images_matter(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    broken = root / "test" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:50])
    data = load(f"hf:imagefolder:{root}")
    with pytest.raises(DataError, match=r"test/cat/0\.png cannot be read") as caught:
        data.read(data.ids.index("test/cat/0.png"))
    assert type(caught.value).__name__ == "UnreadableImageError"
    data.read(data.ids.index("test/cat/1.png"))


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "both.parquet"
    coarse = (datasets.ClassLabel(names=["animal", "thing"]), [row % 2 for row in range(24)])
    table(coarse=coarse).rename_column("label", "fine").to_parquet(str(path))
    with pytest.raises(DataError, match="Which column holds the labels") as caught:
        load(f"hf:parquet:{path}")
    assert "fine" in str(caught.value)
    assert load(f"hf:parquet:{path}?label=coarse").classes == ("animal", "thing")
    assert load(f"hf:parquet:{path}?label=fine&image=image").classes == tuple(NAMES)
    with pytest.raises(UnknownNameError, match="corse"):
        load(f"hf:parquet:{path}?label=corse")


def test_text_labels_are_sorted(tmp_path: Path) -> None:
    texts = (datasets.Value("string"), [NAMES[row % 3] for row in range(24)])
    table(species=texts).remove_columns("label").to_parquet(str(tmp_path / "text.parquet"))
    data = load(f"hf:parquet:{tmp_path / 'text.parquet'}?label=species")
    assert data.classes == ("cat", "dog", "owl")
    assert [data.classes[label] for label in data.labels[:3]] == NAMES


@pytest.mark.parametrize(
    "text,kind,message",
    [
        ("hf:", OptionError, "names no"),
        ("hf:csv:x", OptionError, "names no"),
        ("hf:parquet:nowhere.parquet", DataError, "no file or folder"),
        ("hf:someone/nothing", DataError, "could not load"),
        ("hf:x?colour=red", UnknownNameError, "colour"),
    ],
)
def test_what_cannot_be_loaded_is_explained(text: str, kind: type[AuditorError], message: str) -> None:
    with pytest.raises(kind, match=message):
        load(text)


def test_a_table_without_images_is_refused(tmp_path: Path) -> None:
    table().remove_columns("image").to_parquet(str(tmp_path / "none.parquet"))
    with pytest.raises(DataError, match="No column holds images"):
        load(f"hf:parquet:{tmp_path / 'none.parquet'}")


def test_the_registry_finds_it_once_installed() -> None:
    if not any(e.name == "huggingface" for e in entry_points(group="auditor")):
        pytest.skip("auditor-huggingface is not installed")
    registry = Registry()
    registry.load_installed()
    assert "huggingface" not in registry.broken
    names = list(registry.data_sources())
    assert names.index("hf") < names.index("digits")  # a plugin may claim before what is built in
