"""A profile that is interrupted, terminated or started twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from processes import N_IMAGES, NAME, Server, assert_same_run, committed_rows_are_right, reached, state_of

GO_ON = "What was finished is kept: repeat the command to go on."


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("how", ["ctrl_c", "terminate"])
def test_a_stopped_profile_goes_on(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path, how: str, workers: str
) -> None:
    run = tmp_path / "runs" / NAME
    process = server.start(*command, "--workers", workers, cwd=tmp_path, slow=0.05)
    reached(run, lambda state: state.committed >= 12)
    if how == "ctrl_c":
        process.ctrl_c()
    else:
        process.send(signal.SIGTERM)
    done = process.wait()
    assert done.code == 1, done
    assert done.out == ""
    done.is_tidy(GO_ON)
    assert 12 <= committed_rows_are_right(run, undisturbed) < N_IMAGES
    done = server.call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "going on where it was stopped" in done.err
    assert_same_run(run, undisturbed)


def test_ctrl_c_before_the_first_image(server: Server, command: list[str], undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / NAME
    process = server.start(*command, cwd=tmp_path, slow=0.2)
    reached(run, lambda state: state.begun)
    process.ctrl_c()
    done = process.wait()
    assert done.code == 1, done
    done.is_tidy(GO_ON)
    assert server.call(*command, cwd=tmp_path).code == 0
    assert_same_run(run, undisturbed)


def test_a_killed_profile_with_workers_can_be_repeated_at_once(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    # Workers inherit the locks, and take seconds to notice that they are orphans.
    run = tmp_path / "runs" / NAME
    process = server.start(*command, "--workers", "1", cwd=tmp_path, slow=0.05)
    reached(run, lambda state: state.committed >= 12)
    process.send(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL
    done = server.call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed)


def test_one_run_is_not_for_two_processes(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / NAME
    first = server.start(*command, cwd=tmp_path, slow=0.1)
    reached(run, lambda state: state.committed >= 6)
    second = server.call(*command, cwd=tmp_path)
    second.is_clear_error("Another process is working on", "choose another --name")
    assert second.out == ""
    assert not state_of(run).complete
    done = first.wait()
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed)


def test_two_runs_side_by_side(server: Server, command: list[str], undisturbed: Path, tmp_path: Path) -> None:
    other = [*command[:-1], "other"]
    both = [server.start(*arguments, cwd=tmp_path, slow=0.02) for arguments in (command, other)]
    assert [process.wait().code for process in both] == [0, 0]
    for name in (NAME, "other"):
        assert_same_run(tmp_path / "runs" / name, undisturbed)
