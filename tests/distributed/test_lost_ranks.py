"""A rank that is killed, stopped or interrupted ends the others in time, and it is said which one it was."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import SUPPORT, Process, Server
from ranks import assert_equal_runs, call_ranks, free_port, rows, running, start_ranks, wait_ranks

from auditor.distributed.watch import BEAT, GONE, PARTING

TIMEOUT = 3.0
IN_TIME = TIMEOUT + 3 * BEAT + GONE + PARTING + 5.0
"""Seconds in which all must have ended, with some to spare for a busy machine."""


def streaming(server: Server, n: int, command: list[str], cwd: Path, name: str = "it") -> list[Process]:
    """Start ranks, and wait until they stream."""
    ranks = start_ranks(
        server, n, *command, "--name", name, cwd=cwd, slow=0.3, AUDITOR_RANK_TIMEOUT=str(TIMEOUT)
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while rows(cwd / "runs" / name) < 12:
        assert time.monotonic() < deadline, [rank.err.read_text("utf-8") for rank in ranks]
        assert all(map(running, ranks)), [rank.wait() for rank in ranks if not running(rank)]
        time.sleep(0.01)
    time.sleep(1.5 * BEAT)  # until the step is known to the others
    return ranks


@pytest.mark.parametrize("lost", [0, 2])
def test_a_killed_rank(server: Server, profiling: list[str], profiled: Path, tmp_path: Path, lost: int) -> None:
    ranks = streaming(server, 3, profiling, tmp_path)
    ranks[lost].send(signal.SIGKILL)
    began = time.monotonic()
    done = wait_ranks(ranks)
    assert time.monotonic() - began < IN_TIME
    assert [one.code for one in done] == [-signal.SIGKILL if rank == lost else 1 for rank in range(3)]
    said = "".join(one.err for one in done)
    if lost == 0:  # it keeps the store: each of the others notices, and none can ask the rest who speaks
        assert "Rank 0, which keeps the ranks together, is gone" in said
        assert "Profiling" in said
    else:
        assert said.count("Error: ") == 1
        assert "Error: " in done[0].err
        found = re.search(
            rf"Rank {lost} of 3 \(process (\d+) on .*\) has given no sign of life .*: Profiling, \d+ of", said
        )
        assert found is not None, said
        assert int(found[1]) == ranks[lost].pid
    assert "Repeat the command to go on." in said
    for one in done:
        one.is_tidy()
    call_ranks(server, 2, *profiling, "--name", "it", cwd=tmp_path)
    assert_equal_runs(tmp_path / "runs" / "it", profiled / "runs" / "alone")


@pytest.mark.parametrize("hangs", [0, 1])
def test_a_rank_that_hangs(server: Server, profiling: list[str], tmp_path: Path, hangs: int) -> None:
    ranks = streaming(server, 2, profiling, tmp_path)
    ranks[hangs].send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        while running(ranks[1 - hangs]):
            assert time.monotonic() - began < IN_TIME
            time.sleep(0.05)
    finally:
        ranks[hangs].send(signal.SIGKILL)
    done = wait_ranks(ranks)[1 - hangs]
    assert done.code == 1
    if hangs == 0:  # the store that it keeps answers no call
        assert f"Rank 0, which keeps the ranks together, is gone (no answer for {TIMEOUT:g} s)" in done.err
    else:
        assert "Rank 1 of 2" in done.err
        assert f"no sign of life for {TIMEOUT:g} s" in done.err


@pytest.mark.parametrize("rank", [0, 1])
def test_ctrl_c_while_the_others_do_not_come(server: Server, profiling: list[str], tmp_path: Path, rank: int) -> None:
    process = server.start(*profiling, cwd=tmp_path, RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                           MASTER_PORT=str(free_port()))  # fmt: skip
    time.sleep(2)
    process.ctrl_c()
    (done,) = wait_ranks([process], 5)
    assert done.code == 1
    assert done.err.count("Interrupted") == (rank == 0)


def test_ctrl_c_of_all(server: Server, profiling: list[str], profiled: Path, tmp_path: Path) -> None:
    ranks = streaming(server, 2, profiling, tmp_path)
    for rank in ranks:
        rank.ctrl_c()
    done = wait_ranks(ranks, IN_TIME + 10)
    assert [one.code for one in done] == [1, 1]
    assert "Interrupted. What was finished is kept" in done[0].err
    assert done[1].err == ""
    call_ranks(server, 2, *profiling, "--name", "it", cwd=tmp_path)
    assert_equal_runs(tmp_path / "runs" / "it", profiled / "runs" / "alone")


@pytest.mark.parametrize("asked", [0, 1])
def test_one_is_asked_to_end(server: Server, profiling: list[str], tmp_path: Path, asked: int) -> None:
    ranks = streaming(server, 2, profiling, tmp_path)
    ranks[asked].send(signal.SIGTERM)
    done = wait_ranks(ranks, IN_TIME + 10)
    assert [one.code for one in done] == [1, 1]
    assert f"Rank {asked} of 2" in done[0].err
    assert "was asked to end" in done[0].err
    assert done[1].err == ""


def test_a_killed_rank_whose_launcher_stops_the_others(server: Server, profiling: list[str], tmp_path: Path) -> None:
    """As torchrun does: SIGTERM at once, long before the time-out; the message still names the rank that died."""
    ranks = streaming(server, 3, profiling, tmp_path)
    ranks[1].send(signal.SIGKILL)
    for rank in (ranks[0], ranks[2]):
        rank.send(signal.SIGTERM)
    done = wait_ranks(ranks, IN_TIME + 10)
    assert [done[0].code, done[2].code] == [1, 1]
    assert re.search(r"Rank 1 of 3 .* is gone; its last step: Profiling", done[0].err), done[0].err
    assert done[2].err == ""


def test_two_launches_on_one_folder(server: Server, profiling: list[str], profiled: Path, tmp_path: Path) -> None:
    ranks = streaming(server, 2, profiling, tmp_path)
    other = wait_ranks(start_ranks(server, 2, *profiling, "--name", "it", cwd=tmp_path))
    alone = server.call(*profiling, "--name", "it", cwd=tmp_path)
    assert [one.code for one in (*other, alone)] == [1, 1, 1]
    for one in (other[0], alone):
        one.is_clear_error("Another process is working on")
    assert other[1].err == ""
    assert [one.code for one in wait_ranks(ranks)] == [0, 0]
    assert_equal_runs(tmp_path / "runs" / "it", profiled / "runs" / "alone")


def test_two_launches_at_one_port(server: Server, profiling: list[str], profiled: Path, tmp_path: Path) -> None:
    """The second must not take seats of the first."""
    port = str(free_port())

    def launch() -> list[Process]:
        return [
            server.start(*profiling, "--name", "it", cwd=tmp_path, slow=0.2, RANK=str(rank), WORLD_SIZE="2",
                         MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            for rank in range(2)
        ]  # fmt: skip

    first = launch()
    deadline = time.monotonic() + 60
    while rows(tmp_path / "runs" / "it") < 12:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = launch()
    refused = wait_ranks(second)
    assert [one.code for one in refused] == [1, 1]
    assert "no other launch has this MASTER_PORT" in refused[0].err
    assert [one.code for one in wait_ranks(first)] == [0, 0]
    assert_equal_runs(tmp_path / "runs" / "it", profiled / "runs" / "alone")


def test_an_error_of_one_rank(server: Server, profiling: list[str], tmp_path: Path) -> None:
    """A full disk, say, is met by one rank only."""
    ranks = streaming(server, 2, profiling, tmp_path, name="first")
    for rank in ranks:
        rank.send(signal.SIGKILL)
    wait_ranks(ranks)
    plan = json.loads((tmp_path / "runs/first/shards/plan.json").read_text("utf-8"))
    last = len(plan["bounds"]) - 1
    folder = tmp_path / f"runs/first/shards/{last}-of-{last}"
    folder.mkdir(exist_ok=True)
    (folder / "activations.h5").write_bytes(b"nothing that HDF5 knows")
    done = wait_ranks(start_ranks(server, 2, *profiling, "--name", "first", cwd=tmp_path))
    assert [one.code for one in done] == [1, 1]
    said = done[0].err + done[1].err
    assert said.count("Error: ") == 1, said
    assert "activations.h5" in said


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_with_torchrun(profiling: list[str], profiled: Path, server: Server, tmp_path: Path, lost: int) -> None:
    """The launcher itself: one command, a rank is killed, the message comes before the launcher's own."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SUPPORT), "SLOW_SECONDS": "0.3",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "auditor"]
    run = tmp_path / "runs" / "it"
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen([*launch, *profiling, "--name", "it"], cwd=tmp_path, env=environment, stderr=err,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            deadline = time.monotonic() + 90
            while rows(run) < 12:
                assert time.monotonic() < deadline
                assert process.poll() is None, (tmp_path / "err").read_text("utf-8")
                time.sleep(0.02)
            time.sleep(1.5 * BEAT)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
            victims = [pid for pid in children if f"RANK={lost}\0" in Path(f"/proc/{pid}/environ").read_text("utf-8")]
            os.kill(int(victims[0]), signal.SIGKILL)
            assert process.wait(IN_TIME + 30) == 1
        finally:
            process.kill()
    said = (tmp_path / "err").read_text("utf-8")
    assert re.search(rf"Error: Rank {lost} of 2 .* is gone; its last step: Profiling", said), said
    assert said.index("Error: Rank") < said.index("ChildFailedError")
    call_ranks(server, 3, *profiling, "--name", "it", cwd=tmp_path)
    assert_equal_runs(run, profiled / "runs" / "alone")
