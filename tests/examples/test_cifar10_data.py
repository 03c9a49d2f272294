"""The example that brings data of one's own: training and test images in two files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auditor.data import load_data
from auditor.errors import DataError

EXAMPLES = Path(__file__).parents[2] / "examples"


def write(path: Path, n: int, *, value: int) -> None:
    np.savez(
        path,
        images=np.full((n, 32, 32, 3), value, dtype=np.uint8),
        labels=np.arange(n) % 2,
        classes=np.array(["cat", "dog"]),
    )


def test_test_images_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    write(tmp_path / "cifar10_train10k.npz", 6, value=10)
    write(tmp_path / "cifar10_test.npz", 10, value=200)
    data = load_data("cifar10_data:cifar10", root=str(tmp_path))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 6, "select": 2, "score": 8}
    assert data.classes == ("cat", "dog")
    for split, value in (("train", 10), ("select", 200), ("score", 200)):
        assert {np.asarray(data.read(int(row))).max() for row in data.splits[split]} == {value}


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(DataError, match=r"cifar10_test\.npz"):
        load_data("cifar10_data:cifar10", root=str(tmp_path))
