"""Writer and reader: what goes in comes out, and files that must be refused are."""

import os
import threading

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.errors import OptionError, StoreError, UnknownNameError
from auditor.store.reader import StoreReader
from auditor.store.space import check_space, estimate_bytes, format_bytes, free_bytes
from auditor.store.writer import StoreWriter

SITES = {"layer1.0.relu@2": 5, "odd/name%": 3, "": 2}


def batch(start, n, sites=SITES):
    rows = np.arange(start, start + n)
    return {
        "ids": [f"class/ü{i}.png" for i in rows],
        "labels": rows % 7,
        "splits": rows % 3,
        "logits": np.tile(rows[:, None], (1, 4)) + 0.25,
        "responses": {site: rows[:, None] + np.arange(units) / 8 for site, units in sites.items()},
    }


def make(path, n=20, *, room=None, finish=True, **options):
    with StoreWriter(path, **({"sites": SITES, "n_rows": room or n, "n_outputs": 4} | options)) as writer:
        if n:
            writer.append(**batch(0, n))
        if finish:
            writer.finish()
    return path


def check(reader, n):
    want = batch(0, n)
    assert reader.n_rows == n
    assert reader.ids == tuple(want["ids"])
    np.testing.assert_array_equal(reader.labels, want["labels"])
    np.testing.assert_array_equal(reader.splits, want["splits"])
    np.testing.assert_array_equal(reader.logits, want["logits"])
    for site in SITES:
        np.testing.assert_array_equal(reader.responses(site), want["responses"][site])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_goes_in_comes_out(tmp_path, dtype):
    path = make(tmp_path / "new" / "a.h5", dtype=dtype, attrs={"digest": "abc"})
    with StoreReader(path) as reader:
        check(reader, 20)
        assert reader.complete
        assert list(reader.sites.items()) == list(SITES.items())
        assert (reader.n_outputs, reader.attrs) == (4, {"digest": "abc"})
        assert reader.responses("").dtype == np.float32


def test_the_file_is_plain_hdf5(tmp_path):
    with h5py.File(make(tmp_path / "a.h5"), "r") as file:
        assert file["responses/layer1.0.relu@2"].shape == (20, 5)
        assert file["ids"].asstr()[3] == "class/ü3.png"
        assert int(file["committed"][()]) == 20


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), stops=st.sets(st.integers(0, 5)))
def test_batches_and_restarts_do_not_matter(tmp_path_factory, sizes, stops):
    path, done = tmp_path_factory.mktemp("s") / "a.h5", 0
    options = {"sites": SITES, "n_rows": sum(sizes) + 1, "n_outputs": 4}
    writer = StoreWriter(path, **options)
    for number, size in enumerate(sizes):
        writer.append(**batch(done, size))
        done += size
        if number in stops:
            writer.close()
            writer = StoreWriter(path, **options)
            assert writer.committed == done
    writer.finish()
    with StoreReader(path) as reader:
        check(reader, done)


@given(rows=st.lists(st.integers(0, 19)))
def test_any_rows_in_any_order(store20, rows):
    with StoreReader(store20) as reader:
        got = reader.responses("odd/name%", np.array(rows, dtype=np.int64))
        np.testing.assert_array_equal(got, reader.responses("odd/name%")[rows])


@pytest.fixture(scope="module")
def store20(tmp_path_factory):
    return make(tmp_path_factory.mktemp("store") / "a.h5")


def test_rows_are_gathered_block_by_block(store20, monkeypatch):
    monkeypatch.setattr("auditor.store.reader._BLOCK_BYTES", 64)
    rows = np.array([19, 0, 7, 7, 12])
    with StoreReader(store20) as reader:
        np.testing.assert_array_equal(reader.responses("", rows), reader.responses("")[rows])


@pytest.mark.parametrize("rows", [slice(3, 9), slice(None, None, -2), slice(15, 99), slice(9, 3)])
def test_slices(store20, rows):
    with StoreReader(store20) as reader:
        np.testing.assert_array_equal(reader.responses("", rows), reader.responses("")[rows])


@pytest.mark.parametrize("rows", [[20], [-1], [[1]], [0.5]])
def test_rows_that_are_not_there(store20, rows):
    with StoreReader(store20) as reader, pytest.raises(OptionError):
        reader.responses("", np.array(rows))


def test_a_misspelt_site(store20):
    with StoreReader(store20) as reader, pytest.raises(UnknownNameError, match=r"layer1\.0\.relu@2"):
        reader.responses("layer1.0.relu@1")


def test_an_unfinished_file_gives_its_committed_rows(tmp_path):
    path = make(tmp_path / "a.h5", 6, room=20, finish=False)
    with StoreReader(path) as reader:
        check(reader, 6)
        assert not reader.complete


def test_a_file_is_read_while_it_is_written(tmp_path):
    path = tmp_path / "a.h5"
    with StoreWriter(path, sites=SITES, n_rows=20, n_outputs=4) as writer:
        writer.append(**batch(0, 8))
        while writer.committed < 8:
            threading.Event().wait(0.001)
        with StoreReader(path) as reader:
            writer.append(**batch(8, 8))
            while writer.committed < 16:
                threading.Event().wait(0.001)
            check(reader, 8)


def test_arrays_are_copied(tmp_path):
    given_ = batch(0, 20)
    with StoreWriter(tmp_path / "a.h5", sites=SITES, n_rows=20, n_outputs=4) as writer:
        writer.append(**given_)
        for values in given_["responses"].values():
            values[:] = -1
        writer.finish()
    with StoreReader(tmp_path / "a.h5") as reader:
        check(reader, 20)


def test_a_complete_file_stays_as_it_is(tmp_path):
    path = make(tmp_path / "a.h5")
    before = path.read_bytes()
    with StoreWriter(path, sites=SITES, n_rows=20, n_outputs=4) as writer:
        assert writer.complete
        assert writer.committed == 20
        with pytest.raises(StoreError, match="complete"):
            writer.append(**batch(20, 1))
        writer.finish()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"attrs": {"digest": "other"}}, "digest"),
        ({"attrs": {}}, "digest"),
        ({"sites": {"": 2, "layer1.0.relu@2": 5, "odd/name%": 3}}, "list of sites"),
        ({"sites": SITES | {"": 9}}, "units"),
        ({"n_outputs": 5}, "outputs"),
        ({"n_rows": 21}, "rows"),
        ({"dtype": "float16"}, "type"),
    ],
)
def test_another_layout_is_refused_and_untouched(tmp_path, change, named):
    path = make(tmp_path / "a.h5", 6, room=20, finish=False, attrs={"digest": "abc"})
    before = path.read_bytes()
    options = {"sites": SITES, "n_rows": 20, "n_outputs": 4, "attrs": {"digest": "abc"}} | change
    with pytest.raises(StoreError, match=named):
        StoreWriter(path, **options)
    assert path.read_bytes() == before


def _foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def _edit(**values):
    def damage(path):
        make(path)
        with h5py.File(path, "r+") as file:
            for name, value in values.items():
                if name in file:
                    file[name][()] = value
                else:
                    file.attrs[name] = value

    return damage


def _without(name):
    def damage(path):
        make(path)
        with h5py.File(path, "r+") as file:
            del file[name]

    return damage


def _vast(path):
    make(path)
    with h5py.File(path, "r+") as file:
        for name in ("logits", "labels", "splits", "ids", "responses/layer1.0.relu@2"):
            row, dtype = file[name].shape[1:], file[name].dtype
            del file[name]
            file.create_dataset(name, shape=(10**12, *row), maxshape=(None, *row), dtype=dtype)
        file["committed"][()] = 10**12


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(missing_ok=True), "no activation file"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_bytes(b"not HDF5" * 999), "not a readable HDF5"),
        (lambda path: make(path).write_bytes(path.read_bytes()[:4000]), "cut short"),
        (_foreign, "not an activation file"),
        (_edit(version=99), "format version"),
        (_edit(committed=21), "damaged"),
        (_edit(committed=-1), "damaged"),
        (_edit(complete=7), "damaged"),
        (_edit(site_order="not json"), "damaged"),
        (_without("logits"), "damaged"),
        (_without("responses/layer1.0.relu@2"), "damaged"),
        (_vast, "damaged"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, spoil, message):
    path = tmp_path / "a.h5"
    spoil(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(StoreError, match=message):
        StoreReader(path)
    if before is not None:
        with pytest.raises(StoreError, match=message):
            StoreWriter(path, sites=SITES, n_rows=20, n_outputs=4)
        assert path.read_bytes() == before


def test_two_writers(tmp_path):
    path = tmp_path / "a.h5"
    options = {"sites": SITES, "n_rows": 20, "n_outputs": 4}
    with StoreWriter(path, **options), pytest.raises(StoreError, match="another run"):
        StoreWriter(path, **options, lock_timeout=0)
    StoreWriter(path, **options, lock_timeout=0).close()


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float64"},
        {"n_rows": 0},
        {"n_outputs": 0},
        {"queue_size": 0},
        {"sites": {"a": 0}},
        {"attrs": {"format": "mine"}},
    ],
)
def test_impossible_options(tmp_path, change):
    with pytest.raises(OptionError):
        StoreWriter(tmp_path / "a.h5", **({"sites": SITES, "n_rows": 20, "n_outputs": 4} | change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": np.zeros(3)}, "labels has the wrong shape"),
        ({"logits": np.zeros((4, 5))}, "logits has the wrong shape"),
        ({"responses": {"": np.zeros((4, 2))}}, "sites"),
        ({"ids": ["x" * 300] * 4}, "too long"),
        ({"responses": {site: np.full((4, n), 1e5) for site, n in SITES.items()}}, "float16"),
    ],
)
def test_a_bad_batch_is_refused_and_nothing_is_lost(tmp_path, change, message):
    path = tmp_path / "a.h5"
    with StoreWriter(path, sites=SITES, n_rows=20, n_outputs=4, dtype="float16") as writer:
        writer.append(**batch(0, 4))
        with pytest.raises(OptionError, match=message):
            writer.append(**(batch(4, 4) | change))
        writer.append(**batch(4, 4))
    with StoreReader(path) as reader:
        check(reader, 8)


def test_more_rows_than_announced(tmp_path):
    with StoreWriter(tmp_path / "a.h5", sites=SITES, n_rows=5, n_outputs=4) as writer:
        writer.append(**batch(0, 4))
        with pytest.raises(OptionError, match="more rows"):
            writer.append(**batch(4, 2))


def _append_all(writer, n):
    for start in range(0, n, 4):
        writer.append(**batch(start, 4))


def test_a_failing_write_is_raised_by_the_next_call_and_can_be_resumed(tmp_path, monkeypatch):
    path, real = tmp_path / "a.h5", StoreWriter._write
    options = {"sites": SITES, "n_rows": 80, "n_outputs": 4}

    def fail_later(self, rows):
        if self.committed >= 8:
            raise OSError(5, "Input/output error")
        real(self, rows)

    monkeypatch.setattr(StoreWriter, "_write", fail_later)
    writer = StoreWriter(path, **options)
    with pytest.raises(StoreError, match="Input/output error"):
        _append_all(writer, 80)  # far more than the queue holds: nobody may wait for ever
    with pytest.raises(StoreError, match="8 rows are safe"):
        writer.finish()
    monkeypatch.undo()
    with StoreWriter(path, **options) as writer:
        assert writer.committed == 8
        writer.append(**batch(8, 72))
        writer.finish()
    with StoreReader(path) as reader:
        check(reader, 80)


def _append_and_fail(path):
    with StoreWriter(path, sites=SITES, n_rows=5, n_outputs=4) as writer:
        writer.append(**batch(0, 2))
        raise KeyError("mine")


def test_the_first_error_is_the_one_shown(tmp_path, monkeypatch):
    def fail(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreWriter, "_write", fail)
    with pytest.raises(KeyError, match="mine"):
        _append_and_fail(tmp_path / "a.h5")


def test_too_little_space_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(StoreError, match="free space"):
        StoreWriter(tmp_path / "a.h5", sites=SITES, n_rows=10**14, n_outputs=4)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_the_estimate_is_close(tmp_path):
    path = make(tmp_path / "a.h5", 900)
    estimate = estimate_bytes(n_rows=900, sites=SITES, n_outputs=4)
    assert path.stat().st_size <= estimate <= path.stat().st_size + 20_000


def test_free_space(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") > 0
    check_space(tmp_path, 1)
    with pytest.raises(StoreError, match="TB"):
        check_space(tmp_path, 10**18)
    assert [format_bytes(n) for n in (12, 1500, 2.5e9, 3e13)] == ["12 B", "1.5 kB", "2.5 GB", "30.0 TB"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="could not be written"):
        StoreWriter(tmp_path / "a.h5", sites=SITES, n_rows=5, n_outputs=4)
    tmp_path.chmod(0o700)
