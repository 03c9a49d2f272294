"""Compressed files and shards read as what they were made from."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from auditor.errors import OptionError, StoreError, UnknownNameError
from auditor.store.compress import compress
from auditor.store.reader import StoreReader
from auditor.store.shards import ShardedReader
from auditor.store.writer import StoreWriter

SITES = {"a": 40, "odd/name%": 3}
MAPS = {"a": (40, 5, 6)}


def make(path: Path, start: int, stop: int, *, room: int | None = None, finish: bool = True, **options: Any) -> Path:
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(100, *MAPS["a"])).astype(np.float32)
    rows = np.arange(start, stop)
    given = {"sites": SITES, "n_rows": room or len(rows), "n_outputs": 4, "maps": MAPS} | options
    with StoreWriter(path, **given) as writer:
        writer.append(
            ids=[f"ü{row}" for row in rows],
            labels=rows % 7,
            splits=rows % 3,
            logits=rows[:, None] + np.arange(4),
            responses={site: whole[rows].mean((2, 3))[:, :units] for site, units in SITES.items()},
            maps={"a": whole[rows]} if given["maps"] else {},
        )
        if finish:
            writer.finish()
    return path


def equal(found: StoreReader | ShardedReader, wanted: StoreReader) -> None:
    assert (found.n_rows, found.complete, found.sites) == (wanted.n_rows, wanted.complete, wanted.sites)
    assert found.ids == wanted.ids
    for field in ("labels", "splits", "logits"):
        np.testing.assert_array_equal(getattr(found, field), getattr(wanted, field))
    for rows in (None, slice(3, 11), slice(None, None, 7), np.array([9, 0, 9, 28, 11])):
        for site in SITES:
            np.testing.assert_array_equal(found.responses(site, rows), wanted.responses(site, rows))
        np.testing.assert_array_equal(found.maps("a", rows), wanted.maps("a", rows))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_compressed_file_reads_the_same(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("hdf5plugin")
    # Room for more rows than came, as when images were skipped.
    plain = make(tmp_path / "plain.h5", 0, 30, room=33, dtype=dtype, attrs={"digest": "abc"})
    small = make(tmp_path / "small.h5", 0, 30, room=33, dtype=dtype, attrs={"digest": "abc"})
    compress(small)
    content = small.read_bytes()
    compress(small)
    assert small.read_bytes() == content, "compressed twice"
    with StoreReader(small) as found, StoreReader(plain) as wanted:
        assert (found.compression, wanted.compression) == ("lz4", "")
        assert found.attrs == wanted.attrs == {"digest": "abc"}
        equal(found, wanted)
    with h5py.File(small) as file:
        stored = file["maps/a"].id.get_storage_size()
        assert file["maps/a"].chunks is not None
        assert 0 < stored < file["maps/a"].nbytes
    with StoreWriter(
        small, sites=SITES, maps=MAPS, n_rows=33, n_outputs=4, dtype=dtype, attrs={"digest": "abc"}
    ) as again:
        assert again.complete


def test_what_cannot_be_compressed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = make(tmp_path / "open.h5", 0, 10, room=20, finish=False)
    before = open_file.read_bytes()
    with pytest.raises(StoreError, match="unfinished"):
        compress(open_file)
    with pytest.raises(OptionError, match="compression"):
        compress(open_file, "zip")
    assert open_file.read_bytes() == before
    whole = make(tmp_path / "whole.h5", 0, 10)
    before = whole.read_bytes()
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(StoreError, match="hdf5plugin"):
        compress(whole)
    assert whole.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == ["open.h5", "whole.h5"]


def test_a_compressed_file_needs_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hdf5plugin")
    path = make(tmp_path / "a.h5", 0, 30)
    compress(path)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(StoreError, match="pip install hdf5plugin"):
        StoreReader(path)


@pytest.mark.parametrize("cuts", [[0, 30], [0, 1, 30], [0, 10, 11, 25, 30]])
def test_shards_read_as_one(tmp_path: Path, cuts: list[int]) -> None:
    plain = make(tmp_path / "plain.h5", 0, 30)
    pairs = itertools.pairwise(cuts)
    paths = [make(tmp_path / f"{start}.h5", start, stop) for start, stop in pairs]
    with ShardedReader(paths) as found, StoreReader(plain) as wanted:
        equal(found, wanted)
        with pytest.raises(OptionError, match="not in the store"):
            found.responses("a", np.array([30]))


def test_shards_of_different_runs_are_refused(tmp_path: Path) -> None:
    one = make(tmp_path / "one.h5", 0, 10, attrs={"digest": "x"})
    other = make(tmp_path / "other.h5", 10, 20, attrs={"digest": "y"})
    with pytest.raises(StoreError, match="parts of one run"):
        ShardedReader([one, other])


def test_maps_that_were_not_kept(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", 0, 10, maps={})
    with StoreReader(path) as store:
        assert store.map_shapes == {}
        with pytest.raises(UnknownNameError, match="--store full"):
            store.maps("a")
    with pytest.raises(StoreError, match="whole maps differs"):
        make(path, 0, 10)
