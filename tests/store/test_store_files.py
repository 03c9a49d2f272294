"""Small files and work units: whole or not at all."""

import csv
import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import OptionError, StoreError
from auditor.store.blocks import BlockCache
from auditor.store.files import read_json, replacing, write_csv, write_json, write_text


def test_json_goes_round(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": np.float64(0.1), "b": np.arange(3), 3: (1, Path("x")), "ü": None, "t": np.bool_(True)})
    assert read_json(path) == {"a": 0.1, "b": [0, 1, 2], "3": [1, "x"], "ü": None, "t": True}


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": np.nan, "b": np.array([1.0, np.inf])})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.0, None]}


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    with pytest.raises(KeyError):
        _fail_midway(path)
    assert read_json(path) == 1
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208 - hidden ones too


def _fail_midway(path):
    with replacing(path) as file:
        file.write(b"half")
        raise KeyError


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_unwritable_and_unreadable_files(tmp_path):
    (tmp_path / "file").write_text("{")
    with pytest.raises(StoreError, match="could not be written"):
        write_text(tmp_path / "file" / "below", "x")
    with pytest.raises(StoreError, match="is not a JSON file"):
        read_json(tmp_path / "file")
    with pytest.raises(StoreError, match="could not be read"):
        read_json(tmp_path / "missing")


@given(values=st.lists(st.floats(allow_nan=False), min_size=1))
def test_csv_keeps_every_digit(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write_csv(path, pd.DataFrame({"name": [f'a,"{i}' for i in range(len(values))], "value": values}))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == values
    assert rows[0]["name"] == 'a,"0'


def test_blocks_go_round(tmp_path):
    cache = BlockCache(tmp_path / "blocks")
    assert cache.keys() == []
    assert cache.get("a") is None
    arrays = {"file": np.arange(6).reshape(2, 3), "name": np.array("ü"), "empty": np.zeros((0, 2), np.float16)}
    for key in ("layer1.0.relu@2:317", "../up", ".hidden", "ü/ö"):
        cache.put(key, arrays)
        back = cache.get(key)
        assert back is not None
        assert back.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array)
            assert back[name].dtype == array.dtype
    assert cache.keys() == sorted(["layer1.0.relu@2:317", "../up", ".hidden", "ü/ö"])
    assert {path.parent for path in tmp_path.rglob("*.npz")} == {tmp_path / "blocks"}
    cache.clear()
    assert cache.keys() == []


def test_equal_blocks_are_equal_files(tmp_path):
    for name in ("a", "b"):
        BlockCache(tmp_path / name).put("k", {"x": np.arange(3)})
    assert (tmp_path / "a" / "k.npz").read_bytes() == (tmp_path / "b" / "k.npz").read_bytes()


@pytest.mark.parametrize("where", range(0, 100, 7))
def test_a_damaged_block_counts_as_missing(tmp_path, where):
    cache = BlockCache(tmp_path)
    cache.put("k", {"x": np.arange(50), "y": np.ones(3)})
    path = tmp_path / "k.npz"
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) * where // 100])
    assert cache.get("k") is None


def test_a_flipped_bit_counts_as_missing(tmp_path):
    cache = BlockCache(tmp_path)
    cache.put("k", {"x": np.zeros(500)})
    data = bytearray((tmp_path / "k.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "k.npz").write_bytes(data)
    assert cache.get("k") is None


def test_blocks_hold_no_objects_and_have_names(tmp_path):
    cache = BlockCache(tmp_path)
    with pytest.raises(OptionError, match="Python objects"):
        cache.put("k", {"x": np.array([{}])})
    for key in ("", "x" * 300):
        with pytest.raises(OptionError, match="cannot name a block"):
            cache.put(key, {})


def test_a_block_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path)
    later = threading.Timer(0.3, lambda: cache.put("it", {"values": np.arange(3)}))
    later.start()
    np.testing.assert_array_equal(cache.require("it", patience=30)["values"], [0, 1, 2])
    later.join()
    with pytest.raises(StoreError, match="is missing or damaged"):
        cache.require("other", patience=0)
