from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from auditor.data import load_data
from auditor.data.base import UnreadableImageError
from auditor.errors import AuditorError, DataError, OptionError, UnknownNameError
from auditor_streaming import huggingface
from auditor_streaming.stream_reader import Parts

datasets = pytest.importorskip("datasets", reason="the plugin's own dependency is not installed")

NAMES = ["owl", "cat", "dog"]  # not in alphabetical order
Digits = tuple[np.ndarray, np.ndarray]
Load = Callable[..., Any]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    datasets.disable_progress_bars()


def table(rows: range, **columns: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    values: dict[str, Any] = {
        "image": [Image.fromarray(np.full((3, 4), row, np.uint8)) for row in rows],
        "label": [row % 3 for row in rows],
    }
    for name, (feature, column) in columns.items():
        features[name], values[name] = feature, column
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def write(folder: Path, split: str = "train", n_files: int = 3, group: int = 4) -> Path:
    """Write files of 10 rows, in row groups of 4."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(n_files):
        rows = table(range(10 * part, 10 * part + 10))
        rows.to_parquet(str(folder / f"{split}-{part:05d}.parquet"), batch_size=group)
    return folder


def value(data: Any, row: int) -> int:
    return int(np.asarray(data.read(row)).flat[0])


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every part that is opened for its images, in order."""
    parts: list[int] = []
    original = Parts.__call__
    monkeypatch.setattr(Parts, "__call__", lambda self, number: parts.append(number) or original(self, number))
    return parts


def test_parquet_files(tmp_path: Path, load: Load, begun: list[int]) -> None:
    data = load(f"hfs:parquet:{write(tmp_path / 'pets')}")
    assert (data.name, data.classes) == ("pets", tuple(NAMES))
    assert data.labels.tolist() == [row % 3 for row in range(30)]
    assert data.ids[:2] == ("train/00000000", "train/00000001")
    rows = data.splits["select"].tolist()
    assert [value(data, row) for row in rows] == rows
    assert begun == sorted({row // 10 for row in rows})
    begun.clear()
    assert [value(data, row) for row in (25, 9, 3, 3)] == [25, 9, 3, 3]
    assert begun == [2, 0, 0, 0]
    again = pickle.loads(pickle.dumps(data))
    assert value(again, 17) == 17


def test_the_same_data_as_the_source_that_loads_them(tmp_path: Path, load: Load) -> None:
    pytest.importorskip("auditor_huggingface", reason="auditor-huggingface is not installed")
    folder = write(tmp_path / "pets")
    write(folder, "validation", 2)
    streamed, loaded = load(f"hfs:parquet:{folder}"), load(f"hf:parquet:{folder}")
    assert streamed.fingerprint() == loaded.fingerprint()
    assert streamed.split_fingerprint() == loaded.split_fingerprint()
    assert [value(streamed, row) for row in range(50)] == [value(loaded, row) for row in range(50)]


def test_given_splits_are_kept(tmp_path: Path, load: Load) -> None:
    folder = write(tmp_path / "pets")
    write(folder, "test", 2)
    data = load(f"hfs:parquet:{folder}")
    assert data.splits["train"].tolist() == list(range(30))
    assert value(data, 30 + 13) == 13
    assert len(load(f"hfs:parquet:{folder}?split=test")) == 20
    with pytest.raises(UnknownNameError, match="tset"):
        load(f"hfs:parquet:{folder}?split=tset")


def test_secret_labels_are_passed_over(tmp_path: Path, load: Load) -> None:
    folder = write(tmp_path / "pets")
    table(range(6)).map(lambda _: {"label": -1}).to_parquet(str(folder / "test-0.parquet"))
    data = load(f"hfs:parquet:{folder}")
    assert (len(data), len(data.splits["train"])) == (30, 15)


def test_a_folder_that_describes_itself(tmp_path: Path, load: Load) -> None:
    folder = write(tmp_path / "pets" / "data").parent
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n"
        "- config_name: first\n  data_files: data/train-00000.parquet\n---\n"
    )
    assert len(load(f"hfs:{folder}?config=default")) == 30
    data = load(f"hfs:{folder}?config=first")
    assert len(data) == 10
    assert value(data, 7) == 7


def test_an_image_folder(tmp_path: Path, load: Load) -> None:
    for row in range(12):
        path = tmp_path / "pets" / ("cat", "dog")[row % 2] / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 4), row, np.uint8)).save(path)
    data = load(f"hfs:imagefolder:{tmp_path / 'pets'}")
    assert data.classes == ("cat", "dog")
    found = [value(data, row) for row in range(12)]
    assert sorted(found) == list(range(12))
    assert [number % 2 for number in found] == data.labels.tolist()
    path.unlink()
    with pytest.raises(UnreadableImageError):
        data.read(found.index(11))


def test_an_archive_of_folders_is_pointed_to_the_other_source(tmp_path: Path, load: Load) -> None:
    (tmp_path / "pets.tar").touch()
    with pytest.raises(DataError, match=r"wds:FILE\.tar\?label=folder"):
        load(f"hfs:imagefolder:{tmp_path / 'pets.tar'}")


def test_text_labels_are_sorted(tmp_path: Path, load: Load) -> None:
    texts = (datasets.Value("string"), [NAMES[row % 3] for row in range(24)])
    table(range(24), species=texts).remove_columns("label").to_parquet(str(tmp_path / "text.parquet"))
    data = load(f"hfs:parquet:{tmp_path / 'text.parquet'}?label=species")
    assert data.classes == ("cat", "dog", "owl")
    assert [data.classes[label] for label in data.labels[:3]] == NAMES
    assert value(data, 5) == 5


def test_the_labels_are_read_once_and_anew_when_a_file_changes(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "pets")
    read: list[int] = []
    original = huggingface._read_labels
    monkeypatch.setattr(huggingface, "_read_labels", lambda *options: read.append(options[-1]) or original(*options))
    load(f"hfs:parquet:{folder}")
    load(f"hfs:parquet:{folder}")
    assert read == [0, 1, 2]
    time.sleep(0.02)
    table(range(20, 29)).to_parquet(str(folder / "train-00002.parquet"))
    assert len(load(f"hfs:parquet:{folder}")) == 29
    assert read == [0, 1, 2, 0, 1, 2]


def test_labels_that_change_after_they_were_read(tmp_path: Path, load: Load) -> None:
    folder = write(tmp_path / "pets", n_files=1)
    data = load(f"hfs:parquet:{folder}")
    table(range(1, 11)).to_parquet(str(folder / "train-00000.parquet"))
    with pytest.raises(DataError, match="train/00000003 has changed"):
        data.read(3)
    table(range(3)).to_parquet(str(folder / "train-00000.parquet"))
    with pytest.raises(DataError, match="have become shorter"):
        pickle.loads(pickle.dumps(data)).read(5)
    (folder / "train-00000.parquet").unlink()
    with pytest.raises(DataError, match="could not read"):
        pickle.loads(pickle.dumps(data)).read(5)


def test_a_broken_image_is_that_images_matter(tmp_path: Path, load: Load) -> None:
    rows = table(range(12)).cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][4], rows["image"][6] = {"bytes": b"broken", "path": None}, {"bytes": None, "path": None}
    path = tmp_path / "pets.parquet"
    pq.write_table(pa.table(rows), path)  # as other tools write it: nothing says that this is an image
    data = load(f"hfs:parquet:{path}")
    with pytest.raises(UnreadableImageError, match="train/00000004 cannot be read"):
        data.read(4)
    with pytest.raises(UnreadableImageError, match="train/00000006 is missing or empty"):
        data.read(6)
    assert value(data, 7) == 7


@pytest.mark.parametrize("n_files", [1, 3])
def test_worker_processes_read_every_image(tmp_path: Path, n_files: int) -> None:
    from torch.utils.data import DataLoader
    from torchvision.transforms.functional import pil_to_tensor

    from auditor.data.torch_data import ImageDataset, collate

    data = load_data(f"hfs:parquet:{write(tmp_path / 'pets', n_files=n_files)}")
    images = ImageDataset(data, range(10 * n_files), pil_to_tensor)
    found = []
    for batch, _, _, failures in DataLoader(images, batch_size=4, num_workers=2, collate_fn=collate):
        assert not failures
        found += batch[:, 0, 0, 0].tolist()
    assert found == list(range(10 * n_files))


@pytest.mark.parametrize(
    "text,kind,message",
    [
        ("hfs:", OptionError, "names no"),
        ("hfs:csv:x", OptionError, "names no"),
        ("hfs:parquet:nowhere.parquet", DataError, "no file or folder"),
        ("hfs:someone/nothing", DataError, "could not read 'someone/nothing'"),
        ("hfs:x?colour=red", UnknownNameError, "colour"),
    ],
)
def test_what_cannot_be_loaded_is_explained(load: Load, text: str, kind: type[AuditorError], message: str) -> None:
    with pytest.raises(kind, match=message):
        load(text)


def test_a_hub_that_cannot_be_reached_is_named_at_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(DataError, match=r"127\.0\.0\.1 cannot be reached"):
        load("hfs:someone/nothing")
    assert time.monotonic() - began < 10


def test_unusable_tables(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "pets.parquet"
    table(range(9)).remove_columns("image").to_parquet(str(path))
    with pytest.raises(DataError, match="No column holds images"):
        load(f"hfs:parquet:{path}")
    coarse = (datasets.ClassLabel(names=["animal", "thing"]), [row % 2 for row in range(9)])
    table(range(9), coarse=coarse).rename_column("label", "fine").to_parquet(str(path))
    with pytest.raises(DataError, match="not clear which column holds the labels"):
        load(f"hfs:parquet:{path}")
    assert load(f"hfs:parquet:{path}?label=coarse&image=image").classes == ("animal", "thing")
    with pytest.raises(UnknownNameError, match="corse"):
        load(f"hfs:parquet:{path}?label=corse")
    table(range(9)).map(lambda _: {"label": None}).to_parquet(str(path))
    with pytest.raises(DataError, match="rows without a label"):
        load(f"hfs:parquet:{path}")
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match="could not read"):
        load(f"hfs:parquet:{path}")
