from __future__ import annotations

import gzip
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from auditor.data import DataSource, LabelledData, load_data
from auditor.data.factory import FactorySource
from auditor.data.torchvision_sets import KNOWN
from auditor.errors import DataError, OptionError, UnknownNameError
from auditor.registry import registry

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as torchvision expects them of CIFAR10, 4 training and 4 test images a class."""
    import hashlib

    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()

    def put(name: str, content: dict[str, object]) -> str:
        raw = pickle.dumps(content)
        (base / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def part(name: str, seed: int) -> tuple[str, str]:
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 3072)).astype(np.uint8)
        return name, put(name, {"data": pixels, "labels": [row % 10 for row in range(40)]})

    monkeypatch.setattr(CIFAR10, "train_list", [part("data_batch_1", 1)])
    monkeypatch.setattr(CIFAR10, "test_list", [part("test_batch", 2)])
    monkeypatch.setattr(
        CIFAR10, "meta", {**CIFAR10.meta, "md5": put(CIFAR10.meta["filename"], {CIFAR10.meta["key"]: CLASSES})}
    )
    return tmp_path


def test_torchvision_data_keep_their_parts(cifar: Path) -> None:
    data = load_data("torchvision:CIFAR10", root=cifar)
    assert data.name == "CIFAR10"
    assert list(data.classes) == CLASSES
    assert {data.ids[row].split("/")[0] for row in data.splits["train"]} == {"train"}
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 40, "select": 20, "score": 20}
    raw = np.random.default_rng(2).integers(0, 256, (40, 3072)).astype(np.uint8)
    row = data.ids.index("test/item/00000007")
    np.testing.assert_array_equal(np.asarray(data.read(row)), raw[7].reshape(3, 32, 32).transpose(1, 2, 0))
    assert data.labels[row] == 7


def test_one_part_only(cifar: Path) -> None:
    data = load_data("torchvision:CIFAR10:test", root=cifar)
    assert (data.name, len(data)) == ("CIFAR10-test", 40)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 20, "select": 10, "score": 10}
    with pytest.raises(UnknownNameError, match="part of CIFAR10"):
        load_data("torchvision:CIFAR10:tset", root=cifar)


def test_idx_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 40), ("t10k", 40)):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28)).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, n, 28, 28) + images.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, n) + labels.tobytes())
        (raw / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b""))
    data = load_data("torchvision:FashionMNIST", root=tmp_path)
    assert data.classes[9] == "Ankle boot"
    assert data.read(3).mode == "RGB"


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="Where is CIFAR10") as caught:
        load_data("torchvision:CIFAR10")
    assert "--root" in str(caught.value)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="no folder") as caught:
        load_data("torchvision:CIFAR10", root=tmp_path / "dat")
    assert caught.value.closest == (str(tmp_path / "data"),)
    with pytest.raises(DataError, match="not complete") as caught:
        load_data("torchvision:CIFAR10", root=tmp_path)
    assert "cifar-10-batches-py/data_batch_1" in caught.value.wanted
    assert "data" in caught.value.got
    with pytest.raises(UnknownNameError) as unknown:
        load_data("torchvision:CIFAR11", root=tmp_path)
    assert "CIFAR10" in unknown.value.closest


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_known_set_is_torchvisions_and_fails_clearly(tmp_path: Path, name: str) -> None:
    if name in ("USPS", "SVHN", "StanfordCars"):
        pytest.importorskip("scipy")
    with pytest.raises(DataError, match=f"{name}.*(not complete|needs the package)"):
        load_data(f"torchvision:{name}", root=tmp_path)


FACTORY = """
from torch.utils.data import TensorDataset
import torch
def pets():
    return TensorDataset(torch.zeros(24, 3, 4, 4, dtype=torch.uint8), torch.arange(24) % 3)
def rooted(root="nowhere"):
    made = pets()
    made.classes = [root, "b", "c"]
    return made
def ready():
    from auditor.data import load_data
    return load_data(pets(), fractions=(0.0, 0.5, 0.5))
def nothing():
    return None
def broken():
    raise KeyError("oh")
constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_sets", raising=False)


@pytest.mark.usefixtures("here")
def test_a_factory_of_the_users(tmp_path: Path) -> None:
    data = load_data("my_sets:pets")
    assert (data.name, data.origin, len(data)) == ("pets", "my_sets:pets", 24)
    assert load_data("my_sets:rooted", root="there").classes[0] == "there"
    assert len(load_data("my_sets:ready").splits["train"]) == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "text,message",
    [
        ("my_sets:nothing", "did not make"),
        ("my_sets:broken", "KeyError"),
        ("my_sets:absent", "no function"),
        ("my_sets:constant", "no function"),
        ("your_sets:pets", "no module 'your_sets'"),
    ],
)
def test_factories_that_do_not_work(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(text)


@pytest.mark.usefixtures("here")
def test_a_root_that_nobody_takes(tiny_folder: Path) -> None:
    for text in ("my_sets:pets", "digits", str(tiny_folder)):
        with pytest.raises(OptionError, match="root"):
            load_data(text, root="there")


def test_windows_paths_are_no_factories() -> None:
    for text in (r"C:\pets", "C:/pets", "a b:c", "hf:name", "x:"):
        assert not FactorySource().claims(text)


def test_a_missing_plugin_is_named() -> None:
    if "hf" in registry().data_sources():
        pytest.skip("the plugin is installed")
    with pytest.raises(DataError, match="auditor-huggingface"):
        load_data("hf:cifar10")


def test_sources_from_before_root_keep_working(monkeypatch: pytest.MonkeyPatch, tiny_data: LabelledData) -> None:
    class Old(DataSource):
        name = "old"

        def claims(self, text: str) -> bool:
            return text == "old"

        def load(self, text: str, *, seed: int, fractions: tuple[float, float, float]) -> LabelledData:  # type: ignore[override]
            return tiny_data

    monkeypatch.setattr(registry(), "data_sources", lambda: {"old": Old()})
    assert load_data("old") is tiny_data
    with pytest.raises(OptionError, match="'old' takes no --root"):
        load_data("old", root="there")
