"""Data as people have them: broken files, odd names, numbers that are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import auditor
from auditor.api.forward import Execution, Images, choose_workers, load_split
from auditor.api.skips import Skips, read_skipped
from auditor.data import LabelledData, load_data
from auditor.data.torch_data import ImageDataset
from auditor.errors import DataError, OptionError, RunError
from auditor.models.preprocessing import Preprocessing
from auditor.progress import NullTask

SMALL = Preprocessing(input_size=(3, 16, 16), resize=(16,))
QUICK: dict[str, Any] = {"shuffles": 19, "bootstraps": 39, "preprocessing": SMALL, "batch_size": 4}


class Told:
    """A reporter that remembers, and may pull the plug after some images."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.left = stop_after

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Any]:
        told = self

        class Bar(NullTask):
            def advance(self, amount: float = 1) -> None:
                if told.left is not None and unit == "images":
                    told.left -= int(amount)
                    if told.left < 0:
                        raise KeyboardInterrupt

        yield Bar()


def rows_of(folder: Path, *splits: str) -> list[str]:
    data = load_data(str(folder))
    return [data.ids[row] for split in splits for row in data.splits[split]]


def spoil(folder: Path, names: list[str]) -> list[str]:
    kinds = [b"", b"This is no picture.", None]
    for i, name in enumerate(names):
        path = folder / name
        content = kinds[i % 3]
        path.write_bytes(path.read_bytes()[:60] if content is None else content)
    return names


def stored(run: auditor.Run) -> dict[str, Any]:
    with run.store() as store:
        return {
            "ids": store.ids,
            "splits": store.splits,
            "logits": store.logits,
            **{site: store.responses(site) for site in store.sites},
        }


def assert_same(one: auditor.Run, two: auditor.Run) -> None:
    first, second = stored(one), stored(two)
    assert first.pop("ids") == second.pop("ids")
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    pd.testing.assert_frame_equal(one.selectivity, two.selectivity)


def test_bad_images_are_left_out_and_listed(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    whole = auditor.profile(tiny_cnn, data=str(tiny_folder), runs=tmp_path / "whole", **QUICK)
    select, score = rows_of(tiny_folder, "select"), rows_of(tiny_folder, "score")
    bad = spoil(tiny_folder, [select[0], select[4], score[-1]])  # the very first image among them
    told = Told()
    run = auditor.profile(tiny_cnn, data=str(tiny_folder), runs=tmp_path / "bad", reporter=told, **QUICK)

    before, after = stored(whole), stored(run)
    kept = [i for i, name in enumerate(before["ids"]) if name not in bad]
    assert list(after["ids"]) == [before["ids"][i] for i in kept]
    for name in ("splits", "logits", "act1", "act2", "act3"):
        np.testing.assert_allclose(after[name], before[name][kept], rtol=1e-5, atol=1e-6, err_msg=name)
    mine = after["act1"][after["splits"] == 1].astype(np.float64).mean(0)
    np.testing.assert_allclose(run.selectivity.query("site == 'act1'")["mean"], mine, rtol=1e-6)
    assert set(run.selectivity["n_images"]) == {7}

    table = pd.read_csv(run.path / "skipped.csv")
    assert table["id"].tolist() == bad
    assert table["split"].tolist() == ["select", "select", "score"]
    assert "the file is empty" in table["reason"][0]
    assert [one["id"] for one in auditor.Run(run.path).manifest.provenance["skipped"]] == bad
    assert any(line.startswith("3 images of 18 could not be read") and bad[0] in line for line in told.lines)


def test_later_work_is_on_the_same_images(
    tiny_folder: Path, tmp_path: Path, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = spoil(tiny_folder, [rows_of(tiny_folder, "select")[2], rows_of(tiny_folder, "score")[1]])
    options = {**QUICK, "weights": "none", "runs": tmp_path / "runs"}
    path = auditor.profile(factories, data=str(tiny_folder), **options).path
    run = auditor.Run.open(str(path))
    data = run.data()
    assert {one.id for one in data.skipped} == set(bad)
    assert (len(data.splits["select"]), len(data.splits["score"])) == (8, 8)
    assert data.summary() == run.manifest.identity["data"]
    ablation = run.ablate(top_selective=2, q=1.0, random_orders=2, curve_points=2)
    assert "(8 images)" in ablation.summary()
    tuned = run.finetune(alpha=0, epochs=1)
    assert stored(tuned)["ids"] == stored(run)["ids"]
    assert {one.id for one in auditor.Run.open(str(tuned.path)).data().skipped} == set(bad)
    # What could be read when the run was made and cannot be now is an error, not another set of images.
    spoil(tiny_folder, [rows_of(tiny_folder, "score")[0]])
    with pytest.raises(DataError, match="cannot be read"):
        auditor.Run.open(str(path)).ablate(top_selective=1, q=1.0)


def test_too_many_bad_images_stop_the_profile(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    bad = spoil(tiny_folder, rows_of(tiny_folder, "select")[:2])
    options = {**QUICK, "runs": tmp_path / "runs", "name": "it", "data": str(tiny_folder)}
    with pytest.raises(DataError, match="2 images of 18 could not be read") as caught:
        auditor.profile(tiny_cnn, max_bad=1, **options)
    assert all(name in str(caught.value) for name in bad)
    assert "--max-bad" in str(caught.value)
    assert len(auditor.profile(tiny_cnn, max_bad=2, **options).data().skipped) == 2
    with pytest.raises(OptionError, match="max_bad"):
        auditor.profile(tiny_cnn, max_bad=-1, **options)


def test_the_default_limit_is_one_percent_or_ten(tiny_data: LabelledData) -> None:
    assert Skips(tiny_data, 18).limit == 10
    assert Skips(tiny_data, 5000).limit == 50
    assert Skips(tiny_data, 5000, max_bad=0).limit == 0


@pytest.mark.parametrize("stop_after", [4, 11])
def test_a_skipped_image_stays_skipped(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path, stop_after: int) -> None:
    names = rows_of(tiny_folder, "select", "score")
    good = {name: (tiny_folder / name).read_bytes() for name in names}
    # The end of a batch, the beginning of the next, and one later on.
    bad = spoil(tiny_folder, [names[3], names[4], names[13]])
    options: dict[str, Any] = {**QUICK, "data": str(tiny_folder), "name": "it"}
    straight = auditor.profile(tiny_cnn, runs=tmp_path / "straight", **options)
    with pytest.raises(KeyboardInterrupt):
        auditor.profile(tiny_cnn, runs=tmp_path / "stopped", reporter=Told(stop_after), **options)
    journal = {one.id for one in read_skipped(tmp_path / "stopped" / "it" / "skipped.csv")}
    assert journal <= set(bad)
    assert names[3] in journal
    for name in journal:
        (tiny_folder / name).write_bytes(good[name])
    assert_same(auditor.profile(tiny_cnn, runs=tmp_path / "stopped", **options), straight)


def test_a_lost_journal_is_noticed(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    spoil(tiny_folder, rows_of(tiny_folder, "select")[:1])
    options: dict[str, Any] = {**QUICK, "data": str(tiny_folder), "name": "it", "runs": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        auditor.profile(tiny_cnn, reporter=Told(8), **options)
    (tmp_path / "it" / "skipped.csv").unlink()
    with pytest.raises(RunError, match="do not fit together"):
        auditor.profile(tiny_cnn, **options)


def test_a_class_without_a_readable_image_is_named(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    spoil(tiny_folder, [name for name in rows_of(tiny_folder, "select") if name.startswith("green")])
    with pytest.raises(DataError, match="3 images of the class 'green' in the select split"):
        auditor.profile(tiny_cnn, data=str(tiny_folder), runs=tmp_path / "runs", **QUICK)


def test_nothing_readable_at_all(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    spoil(tiny_folder, rows_of(tiny_folder, "select"))
    with pytest.raises(DataError, match="None of the images"):
        auditor.profile(tiny_cnn, data=str(tiny_folder), runs=tmp_path / "runs", **QUICK)


def test_workers_change_nothing(tiny_folder: Path) -> None:
    bad = spoil(tiny_folder, rows_of(tiny_folder, "train")[3:5])
    data = load_data(str(tiny_folder))
    found = []
    for workers in (0, 2):
        skips = Skips(data, 18)
        found.append(load_split(data, "train", SMALL.build(), Execution(batch_size=4, workers=workers), skips=skips))
        assert [one.id for one in skips.all] == bad
        assert len(found[-1][0]) == 16
        with pytest.raises(DataError) as caught:
            load_split(data, "train", SMALL.build(), Execution(batch_size=4, workers=workers))
        assert "DataLoader" not in str(caught.value)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_workers_serve_every_walk(tiny_folder: Path) -> None:
    data = load_data(str(tiny_folder))
    images = Images(data, data.splits["train"], SMALL.build(), Execution(batch_size=4, workers=1))
    walks = [torch.cat([batch.images for batch in images]) for _ in range(2)]
    assert torch.equal(*walks)


def test_workers_are_used_where_reading_is_slow(tiny_data: LabelledData, monkeypatch: pytest.MonkeyPatch) -> None:
    import auditor.api.forward as forward

    monkeypatch.setattr(forward.os, "sched_getaffinity", lambda _: set(range(24)), raising=False)
    monkeypatch.setattr(forward.multiprocessing, "get_start_method", lambda: "fork")
    dataset = ImageDataset(tiny_data, np.tile(np.arange(36), 10), SMALL.build())
    assert choose_workers(dataset, 4, on_cpu=True) == 0  # 360 images of a millisecond each
    monkeypatch.setattr(forward, "WORTH_IT", 0.0)
    assert choose_workers(dataset, 4, on_cpu=True) == 4
    assert choose_workers(dataset, 4, on_cpu=False) == 16
    assert choose_workers(dataset, 180, on_cpu=False) == 2  # there are two batches
    monkeypatch.setattr(forward, "disk_usage", lambda _: SimpleNamespace(free=8 * 4 * 3 * 16 * 16 * 4))
    if Path("/dev/shm").is_dir():
        assert choose_workers(dataset, 4, on_cpu=False) == 2  # three batches each fit twice into 80 % of eight
    monkeypatch.setattr(forward.multiprocessing, "get_start_method", lambda: "spawn")
    unsendable = ImageDataset(tiny_data, np.arange(36), lambda image: SMALL.build()(image))
    assert choose_workers(unsendable, 4, on_cpu=False) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_name_layer_and_images(
    tiny_cnn: nn.Module, tiny_data: LabelledData, tmp_path: Path, value: float
) -> None:
    with torch.no_grad():
        tiny_cnn.conv2.bias[3] = value  # type: ignore[union-attr, operator, index]
    with pytest.raises(DataError, match="layer 'act2' hold NaN or infinite") as caught:
        auditor.profile(tiny_cnn, data=tiny_data, runs=tmp_path, **QUICK)
    assert tiny_data.ids[tiny_data.splits["select"][0]] in str(caught.value)


def test_logits_and_inputs_are_checked(tiny_cnn: nn.Module, tiny_data: LabelledData, tmp_path: Path) -> None:
    class Spoilt(nn.Module):
        def __init__(self, inside: nn.Module, first: bool) -> None:
            super().__init__()
            self.inside, self.first = inside, first

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.inside(x)
            return logits / 0 if self.first else logits

    with pytest.raises(DataError, match="The logits hold NaN"):
        auditor.profile(Spoilt(tiny_cnn, True), data=tiny_data, runs=tmp_path / "a", **QUICK)

    from auditor.api.stream import _check_finite

    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="preprocessed images") as caught:
        _check_finite(images, {"a": np.full((2, 3), np.nan, np.float32)}, np.zeros((2, 2), np.float32), ["x", "y"])
    assert caught.value.got == "1 of the 2 images of a batch: y"


NASTY = (
    "../../etc/passwd",
    "<script>alert('x')</script>",
    'say "cheese", please',
    "crème brûlée 🍮 👩‍👩‍👧",
    "x" * 300,
    "$\\frac{a$ ^_{",
    "[bold red]markup[/] \x1b[31m\n",
)


def test_class_names_are_only_names(tmp_path: Path, tiny_cnn: nn.Module) -> None:
    n = 8 * len(NASTY)
    rng = np.random.default_rng(0)
    ids = np.array([f"../{'<b>' if row % 2 else '日本'}/{row}" for row in range(n)])
    np.savez(
        tmp_path / "odd.npz",
        images=rng.integers(0, 256, (n, 16, 16, 3)).astype(np.uint8),
        labels=np.arange(n) % len(NASTY),
        classes=np.array(NASTY),
        ids=ids,
    )
    runs = tmp_path / "deep" / "runs"
    run = auditor.profile(tiny_cnn, data=str(tmp_path / "odd.npz"), runs=runs, **QUICK)
    assert run.classes == (*NASTY[:-1], "[bold red]markup[/] \\x1b[31m\\n")
    again = auditor.Run(run.path)
    assert set(again.selectivity["preferred"]) <= {*run.classes, ""}
    assert list(pd.read_csv(run.path / "class_means.csv").columns)[1:] == list(run.classes)
    assert set(stored(run)["ids"]) <= set(ids)
    assert "<script>" not in run.selectivity.to_html(escape=True)
    assert len(list((run.path / "figures").glob("*.png"))) >= 2
    for figure in (run.path / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text(encoding="utf-8")
    outside = {p for p in tmp_path.rglob("*") if runs not in p.parents}
    assert outside == {tmp_path / "odd.npz", tmp_path / "deep", runs}


def test_a_python_data_set_from_end_to_end(tiny_cnn: nn.Module, tiny_folder: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    given = auditor.profile(tiny_cnn, data=ImageFolder(str(tiny_folder)), runs=tmp_path / "a", **QUICK)
    named = auditor.profile(tiny_cnn, data=str(tiny_folder), runs=tmp_path / "b", **QUICK)
    assert_same(given, named)
    with pytest.raises(RunError, match="given from Python"):
        auditor.Run(given.path).data()


def test_classes_without_images_are_left_out_of_the_scores(tiny_cnn: nn.Module, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {"images": rng.integers(0, 256, (40, 16, 16, 3)).astype(np.uint8), "labels": np.arange(40) % 2 * 2}
    np.savez(tmp_path / "gap.npz", classes=np.array(["a", "nothing", "c"]), **arrays)
    np.savez(tmp_path / "full.npz", classes=np.array(["a", "c"]), **{**arrays, "labels": arrays["labels"] // 2})
    gap, full = (
        auditor.profile(tiny_cnn, data=str(tmp_path / f"{name}.npz"), runs=tmp_path / "runs", **QUICK)
        for name in ("gap", "full")
    )
    np.testing.assert_allclose(gap.selectivity["index"], full.selectivity["index"], rtol=1e-6)
    assert set(gap.selectivity["preferred"].dropna()) <= {"a", "c", ""}
    assert gap.summary["accuracy"] is not None


def test_a_root_is_remembered(tiny_cnn: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "rooted_sets.py").write_text(
        "from torchvision.datasets import ImageFolder\ndef pets(root):\n    return ImageFolder(root)\n"
    )
    from PIL import Image

    for name in ("cat", "dog", "owl"):
        (tmp_path / "here" / "pets" / name).mkdir(parents=True)
        for row in range(8):
            pixels = np.random.default_rng(row).integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "here" / "pets" / name / f"{row}.png")
    monkeypatch.chdir(tmp_path / "here")
    run = auditor.profile(tiny_cnn, data="rooted_sets:pets", root="pets", runs=tmp_path / "runs", **QUICK)
    assert run.manifest.provenance["data"]["root"] == str((tmp_path / "here" / "pets").resolve())
    monkeypatch.chdir(tmp_path)
    assert auditor.Run(run.path).data().fingerprint() == run.data().fingerprint()
