"""A profile by several processes is that of one."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import N_IMAGES, Server
from ranks import TABLES, assert_equal_runs, call_ranks, rows, running, start_each, start_ranks, wait_ranks

from auditor.api.shard_plan import ShardPlan
from auditor.api.skips import SKIPPED, read_skipped
from auditor.api.stream import order_of
from auditor.data import load_data
from auditor.errors import RunError
from auditor.store.files import write_json


@pytest.mark.parametrize("n", [2, 3])
def test_equals_that_of_one_process(
    server: Server, profiling: list[str], profiled: Path, tmp_path: Path, n: int
) -> None:
    done = call_ranks(server, n, *profiling, "--name", "it", cwd=tmp_path)
    assert_equal_runs(tmp_path / "runs" / "it", profiled / "runs" / "alone")
    assert "Network mean SI" in done[0].out
    manifest = json.loads((tmp_path / "runs" / "it" / "manifest.json").read_text("utf-8"))
    assert manifest["provenance"]["execution"]["processes"] == n
    again = call_ranks(server, n, *profiling, "--name", "it", cwd=tmp_path)
    assert "was finished before" in again[0].err


def test_a_rank_without_images(server: Server, profiling: list[str], tmp_path: Path) -> None:
    few = [*profiling, "--limit", "3", "--batch-size", "100"]
    assert server.call(*few, "--name", "alone", cwd=tmp_path).code == 0
    call_ranks(server, 3, *few, "--name", "it", cwd=tmp_path)
    assert_equal_runs(tmp_path / "runs" / "it", tmp_path / "runs" / "alone")
    plan = ShardPlan.of(tmp_path / "runs" / "it")
    assert plan is not None
    assert plan.count == 6  # three images in each split, one in each shard


@pytest.mark.parametrize("numbers", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_begun_by_some_and_ended_by_others(
    server: Server, profiling: list[str], profiled: Path, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    command = [*profiling, "--name", "it"]
    run = tmp_path / "runs" / "it"
    for n in numbers[:-1]:
        before = rows(run)
        ranks = start_ranks(server, n, *command, cwd=tmp_path, slow=0.08)
        deadline = time.monotonic() + 60
        while rows(run) < before + 12 and any(map(running, ranks)) and time.monotonic() < deadline:
            time.sleep(0.01)
        for rank in ranks:
            if running(rank):
                rank.send(signal.SIGKILL)
        done = wait_ranks(ranks)
        assert rows(run) >= before + 12, done
    assert rows(run) < N_IMAGES * 0.7
    for shard in run.glob("shards/*-of-*"):  # as of a rank that was killed while it wrote
        shard.joinpath(".moments.npz.1-00.tmp").touch()
    call_ranks(server, numbers[-1], *command, cwd=tmp_path)
    assert_equal_runs(run, profiled / "runs" / "alone")


@pytest.mark.slow
def test_bad_images_may_all_lie_in_one_shard(server: Server, profiling: list[str], tmp_path: Path) -> None:
    """Twelve of 1,200 are what one process passes over, though they are more than 1 % of any shard."""
    pixels = np.random.default_rng(0).integers(0, 255, (1200, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "images" / f"{number % 3}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    data = load_data(str(tmp_path / "images"), fractions=(0.0, 0.5, 0.5))
    bad = [data.ids[row] for row in order_of(data)[20:32]]
    for name in bad:
        (tmp_path / "images" / name).write_bytes(b"no picture")
    folder = [*profiling, "--data", str(tmp_path / "images"), "--fractions", "0,0.5,0.5", "--name", "it"]
    done = call_ranks(server, 2, *folder, cwd=tmp_path)
    assert "12 images of 1200 could not be read" in done[0].err
    assert {one.id for one in read_skipped(tmp_path / "runs" / "it" / SKIPPED)} == set(bad)


def test_a_plan_of_other_images_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "shards" / "plan.json", {"bounds": [0, 4, 9]})
    plan = ShardPlan.of(tmp_path)
    assert plan is not None
    data: Any = None
    plan.adopt(np.arange(9), data)
    with pytest.raises(RunError, match="another number of images"):
        plan.adopt(np.arange(10), data)
    for bounds in ([0, 4, "9"], [0, 9, 4], [1, 9], [0], [0, True], 9):
        write_json(tmp_path / "shards" / "plan.json", {"bounds": bounds})
        with pytest.raises(RunError, match="damaged"):
            ShardPlan.of(tmp_path)


def test_finished_in_one_piece_but_not_scored(
    server: Server, profiling: list[str], profiled: Path, tmp_path: Path
) -> None:
    """What one process has streamed is not streamed again."""
    run = tmp_path / "runs" / "it"
    shutil.copytree(profiled / "runs" / "alone", run)
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    manifest["complete"] = False
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for name in (*TABLES, "summary.json"):
        (run / name).unlink()
    before = (run / "activations.h5").stat()
    call_ranks(server, 2, *profiling, "--name", "it", cwd=tmp_path)
    assert_equal_runs(run, profiled / "runs" / "alone")
    after = (run / "shards" / "1-of-1" / "activations.h5").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_ranks_cannot_do_is_said_once(server: Server, profiling: list[str], tmp_path: Path) -> None:
    for argv, words in (
        ([*profiling, "--store", "none"], "meets on disk"),
        ([*profiling, "--shard", "1/2"], "divide the images themselves"),
        (["runs"], "runs in one process"),
        ([*profiling, "--data", "nowhere.npz"], "nowhere.npz"),
        ([*profiling, "--metric", "nothing"], "nothing"),
    ):
        done = wait_ranks(start_ranks(server, 2, *argv, cwd=tmp_path))
        assert [one.code for one in done] == [1, 1]
        assert words in done[0].err + done[1].err
        assert (done[0].err + done[1].err).count("Error: ") == 1, done
        for one in done:
            one.is_tidy()


def test_ranks_that_see_other_data_are_told_apart(server: Server, profiling: list[str], tmp_path: Path) -> None:
    other = [*profiling, "--name", "it", "--seed", "7"]
    done = wait_ranks(start_each(server, [[*profiling, "--name", "it"], other], cwd=tmp_path))
    assert [one.code for one in done] == [1, 1]
    assert "Rank 1" in done[0].err
    assert "seed: 0 -> 7" in done[0].err
