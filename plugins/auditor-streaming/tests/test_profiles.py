"""A run over streamed data is the run over the same images in memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

import auditor
from auditor.data import LabelledData, load_data
from auditor.models.preprocessing import Preprocessing

TABLES = ("units.csv", "layers.csv", "summary.json", "class_means.csv")

Profile = Callable[..., auditor.Run]
Tars = Callable[..., list[Path]]
Digits = tuple[np.ndarray, np.ndarray]


@dataclass
class Interrupted:
    """Reads until it has read so many images, then behaves like Ctrl-C."""

    read: Callable[[int], Image]
    left: int

    def __call__(self, index: int) -> Image:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.read(index)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    import torch
    from torch import nn

    monkeypatch.setattr(auditor.Run, "save_figures", lambda _run: [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)
        )
    settings = {
        "preprocessing": Preprocessing(input_size=(3, 8, 8), resize=(8,)),
        "shuffles": 49,
        "bootstraps": 40,
        "batch_size": 7,
        "workers": 0,
        "device": "cpu",
        "runs": tmp_path / "runs",
    }

    def call(name: str, data: str | LabelledData, **options: Any) -> auditor.Run:
        return auditor.profile(model.eval(), data=data, name=name, **settings | options)

    return call


@pytest.fixture
def in_memory(tmp_path: Path, digits: Digits) -> str:
    """The digits as one file of arrays, with the ids that they have in tars."""
    path = tmp_path / "memory.npz"
    ids = [f"digits-{row // 50:03d}/{row:06d}" for row in range(150)]
    np.savez(path, images=digits[0], labels=digits[1], ids=ids)
    return str(path)


def same(run: auditor.Run, other: auditor.Run) -> None:
    for name in TABLES:
        assert run.path.joinpath(name).read_bytes() == other.path.joinpath(name).read_bytes(), name
    with run.store() as one, other.store() as two:
        assert one.ids == two.ids
        np.testing.assert_array_equal(one.logits, two.logits)
        np.testing.assert_array_equal(one.responses("1"), two.responses("1"))


def sources(folder: Path, digit_tars: Tars) -> list[str]:
    """The digits in tars that are read at any place, and in tars that are read forward only."""
    digit_tars(folder / "plain")
    digit_tars(folder / "packed", suffix=".tar.gz", mode="w:gz")
    return [f"wds:{folder / 'plain'}", f"wds:pipe:cat {folder}/packed/digits-{{000..002}}.tar.gz"]


def test_the_tables_are_those_of_the_images_in_memory(
    tmp_path: Path, profile: Profile, digit_tars: Tars, in_memory: str
) -> None:
    base = profile("base", in_memory)
    for number, source in enumerate(sources(tmp_path, digit_tars)):
        same(profile(f"streamed-{number}", source), base)


def test_worker_processes_read_the_same(tmp_path: Path, profile: Profile, digit_tars: Tars, in_memory: str) -> None:
    base = profile("base", in_memory)
    for number, source in enumerate(sources(tmp_path, digit_tars)):
        same(profile(f"streamed-{number}", source, workers=2), base)


@pytest.mark.parametrize("kind", [0, 1])
def test_interrupted_anywhere_it_goes_on_to_the_same_rows(
    tmp_path: Path, profile: Profile, digit_tars: Tars, in_memory: str, kind: int
) -> None:
    base = profile("base", in_memory)
    data = load_data(sources(tmp_path, digit_tars)[kind])
    n = len(data.splits["select"]) + len(data.splits["score"])
    for at in (3, n // 2, n - 1):
        name, rest = f"at-{at}", Interrupted(data.read, n + 2)
        with pytest.raises(KeyboardInterrupt):
            profile(name, replace(data, read=Interrupted(data.read, at)))
        same(profile(name, replace(data, read=rest)), base)
    assert rest.left > n // 2  # stopped near the end, it read no more than that


def test_shards_make_the_whole(tmp_path: Path, profile: Profile, digit_tars: Tars, in_memory: str) -> None:
    base = profile("base", in_memory)
    for number, source in enumerate(sources(tmp_path, digit_tars)):
        for shard in ("1/2", "2/2"):
            run = profile(f"streamed-{number}", source, shard=shard)
        same(run, base)


def test_a_shard_opens_the_tars_that_its_samples_are_in(tmp_path: Path, digit_tars: Tars, opened: list[str]) -> None:
    from auditor.api.settings import StoreSettings
    from auditor.api.storing import shard_rows

    data = load_data(sources(tmp_path, digit_tars)[1])
    order = np.concatenate([data.splits["select"], data.splits["score"]])
    counts = []
    for number in range(1, 7):
        opened.clear()
        rows = shard_rows(order, StoreSettings(shard=f"{number}/6"))
        read = pickle.loads(pickle.dumps(data.read))  # as another process has it
        for row in rows:
            read(int(row))
        assert len(opened) == len({data.ids[row].split("/")[0] for row in rows})
        counts.append(len(opened))
    assert max(counts) <= 2


def test_a_broken_image_is_skipped_and_counted(
    tmp_path: Path, profile: Profile, digit_tars: Tars, digits: Digits, write_tar: Callable[..., Path], png: Any
) -> None:
    def members(broken: set[int]) -> list[tuple[str, bytes]]:
        return [
            one
            for row in range(150)
            for one in (
                (f"{row}.png", b"broken" if row in broken else png(digits[0][row])),
                (f"{row}.cls", str(digits[1][row]).encode()),
            )
        ]

    data = load_data(f"wds:{write_tar(tmp_path / 'whole' / 'd.tar', members(set()))}")
    bad = {int(data.splits["select"][3]), int(data.splits["score"][0])}
    for path in (
        write_tar(tmp_path / "plain" / "d.tar", members(bad)),
        write_tar(tmp_path / "packed" / "d.tar.gz", members(bad), "w:gz"),
    ):
        run = profile(path.parent.name, f"wds:{path}")
        with run.store() as store:
            assert set(data.ids) - set(store.ids) >= {f"d/{row}" for row in bad}
        listed = (run.path / "skipped.csv").read_text()
        assert all(f"d/{row}," in listed for row in bad)
        assert listed.count("\n") == 3
