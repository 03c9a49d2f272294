"""What is kept of the responses changes nothing that is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import auditor
from auditor.api.forward import Execution
from auditor.errors import DataError, OptionError, RunError, StoreError, UnknownNameError

TABLES = ("units.csv", "layers.csv", "summary.json", "class_means.csv")

Profile = Callable[..., auditor.Run]


@pytest.fixture
def profile(factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _run: [])

    def call(name: str, **options: object) -> auditor.Run:
        given = {"shuffles": 99, "bootstraps": 50, "limit": 60, "weights": "none", "runs": tmp_path} | options
        return auditor.profile(factories, name=name, **given)  # type: ignore[arg-type]

    return call


def same(run: auditor.Run, other: auditor.Run) -> None:
    for name in TABLES:
        assert run.path.joinpath(name).read_bytes() == other.path.joinpath(name).read_bytes(), name


def test_full_keeps_the_outputs_themselves(profile: Profile) -> None:
    run = profile("full", store="full")
    same(run, profile("pooled"))
    data, prepared = run.data(), run.model(Execution(device="cpu"))
    row = {name: number for number, name in enumerate(data.ids)}
    with run.store() as store:
        assert list(store.map_shapes) == ["1", "3", "5"]
        images = torch.stack([prepared.preprocessing.build()(data.read(row[name])) for name in store.ids[40:44]])
        with torch.no_grad():
            for name, layer in prepared.module.named_children():
                images = layer(images)
                if name in store.map_shapes:
                    found = store.maps(name, slice(40, 44))
                    np.testing.assert_allclose(found, images.numpy(), rtol=1e-5, atol=1e-6)
                    np.testing.assert_allclose(
                        found.mean((2, 3)), store.responses(name, slice(40, 44)), rtol=1e-4, atol=1e-6
                    )


def test_without_a_store_the_tables_are_the_same(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    run, base = profile("none", store="none", metrics=["auc"]), profile("pooled", metrics=["auc"])
    same(run, base)
    with run.store() as store, pytest.raises(UnknownNameError):
        store.responses("1")
    assert auditor.compare(run, base).overall["accuracy"].nunique() == 1
    monkeypatch.setattr("auditor.store.space.free_memory", lambda: 1000)
    with pytest.raises(StoreError, match="free memory"):
        profile("large", store="none")


def test_without_a_store_an_interrupted_run_begins_again(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("auditor.api.profiling.score_sites", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            profile("none", store="none")
    same(profile("none", store="none"), profile("pooled"))


def test_without_a_store_in_half_precision(profile: Profile) -> None:
    run = profile("none", store="none", store_dtype="float16")
    same(run, profile("pooled", store_dtype="float16"))


def test_what_is_scored_is_what_is_stored(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    half, wide = profile("half", store_dtype="float16"), profile("wide")
    assert half.manifest.identity["dtype"] == "float16"
    with half.store() as store:
        rows = np.flatnonzero(store.splits == 1)
        responses, labels = store.responses("3", rows).astype(np.float64), store.labels[rows]
    moments = half.moments("select")["3"]
    for label in range(10):
        np.testing.assert_allclose(moments.mean[label], responses[labels == label].mean(0), atol=1e-9)
    np.testing.assert_allclose(half.selectivity["index"], wide.selectivity["index"], atol=0.01)
    assert not half.selectivity["index"].equals(wide.selectivity["index"])
    # An interrupted one reads back what it stored.
    with monkeypatch.context() as patch:
        patch.setattr("auditor.api.profiling.score_sites", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            profile("again", store_dtype="float16")
    same(profile("again", store_dtype="float16"), half)


def test_responses_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    class Large(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = torch.nn.ReLU()
            self.fc = torch.nn.Linear(3, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.relu(x.abs().mean((2, 3)) * 1e6))

    options = {"limit": 30, "runs": tmp_path, "shuffles": 19, "bootstraps": 39}
    shape = auditor.Preprocessing(input_size=(3, 16, 16), resize=(16,))
    with pytest.raises(OptionError, match="does not fit float16"):
        auditor.profile(Large(), preprocessing=shape, store_dtype="float16", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="layer 'relu' hold NaN or infinite"):
        auditor.profile(Large(), preprocessing=shape, store="none", store_dtype="float16", **options)  # type: ignore[arg-type]


def test_compression_at_once_or_later(profile: Profile) -> None:
    pytest.importorskip("hdf5plugin")
    run, base = profile("small", compress="lz4"), profile("base")
    same(run, base)
    profile("base", compress="lz4")
    with run.store() as store, base.store() as later:
        assert store.compression == later.compression == "lz4"
        np.testing.assert_array_equal(store.responses("5"), later.responses("5"))


def test_shards_end_in_the_tables_of_one_process(profile: Profile) -> None:
    whole = profile("whole")
    first, third = (profile("parts", shard=shard) for shard in ("1/3", "3/3"))
    assert not first.complete
    assert not third.complete
    with pytest.raises(RunError, match="unfinished"):
        auditor.Run.open("parts", runs=whole.path.parent)
    with pytest.raises(RunError, match="are missing: 2"):
        profile("parts")
    with pytest.raises(RunError, match="different numbers of shards"):
        profile("parts", shard="2/4")
    run = profile("parts", shard="2/3")
    assert run.complete
    with run.store() as store, whole.store() as other:
        assert store.ids == other.ids
        np.testing.assert_allclose(store.responses("5"), other.responses("5"), rtol=1e-5, atol=1e-6)
    # Images meet in other batches, which changes the last digits.
    pd.testing.assert_frame_equal(run.selectivity, whole.selectivity, rtol=1e-4)
    assert profile("parts", shard="1/3").complete
    assert auditor.compare(whole, auditor.Run.open("parts", runs=whole.path.parent)).overall["accuracy"].nunique() == 1


def test_what_was_begun_in_one_piece_is_not_divided(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("auditor.api.profiling.score_sites", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            profile("x")
    with pytest.raises(RunError, match="in one piece"):
        profile("x", shard="1/2")
    assert profile("x").complete


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "1/1025", "-1/2", "1/2/3"])
def test_what_is_no_shard(profile: Profile, shard: str) -> None:
    with pytest.raises(OptionError, match="one part of several"):
        profile("x", shard=shard)


def test_bad_choices_are_named(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="pool"):
        profile("x", store="pool")
    with pytest.raises(UnknownNameError, match="float8"):
        profile("x", store_dtype="float8")
    with pytest.raises(UnknownNameError, match="gzip"):
        profile("x", compress="gzip")
    with pytest.raises(OptionError, match="memory only"):
        profile("x", store="none", shard="1/2")
    monkeypatch.setattr("auditor.api.settings.find_spec", lambda _name: None)
    with pytest.raises(OptionError, match="hdf5plugin"):
        profile("x", compress="lz4")
    assert not list(tmp_path.iterdir())
    profile("x")
    with pytest.raises(RunError, match="other settings") as caught:
        profile("x", store="full")
    assert "store:" in str(caught.value)
