"""Disks that are full: before the first byte, in the middle of the responses, and when the tables are written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from processes import N_IMAGES, NAME, Server, assert_same_run, committed_rows_are_right, reached, state_of

from auditor.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and mounts")

MB = 2**20


def test_no_room_for_the_store(server: Server, command: list[str], undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / NAME
    done = server.call(*command, cwd=tmp_path, file_limit=20_000)
    done.is_clear_error("activations.h5", "ile too large")
    assert not list(run.rglob("*.h5"))
    assert server.call(*command, cwd=tmp_path).code == 0
    assert_same_run(run, undisturbed)


def test_the_estimate_is_compared_with_the_free_space(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10 * MB))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1, done.output
    assert "There is not enough free space for" in done.stderr
    assert "10.5 MB free" in done.stderr
    assert not list(tmp_path.rglob("*.h5"))


def test_writes_that_fail_while_streaming(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    import resource

    run = tmp_path / "runs" / NAME
    process = server.start(*command, cwd=tmp_path, slow=0.05)
    reached(run, lambda state: state.committed >= 12)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    done = process.wait()
    done.is_clear_error("could not be written: File too large", "rows are safe", "then resume")
    assert 12 <= committed_rows_are_right(run, undisturbed) < N_IMAGES
    done = server.call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "going on where it was stopped" in done.err
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("small_disk", [8], indirect=True)
def test_too_small_a_disk_is_told_before_anything_is_written(
    server: Server, command: list[str], small_disk: Path
) -> None:
    done = server.call(*command, cwd=small_disk)
    done.is_clear_error("There is not enough free space for", "wanted:", "8.4 MB free", "Free some space")
    assert [path.name for path in small_disk.rglob("*.h5")] == []


@pytest.mark.parametrize("small_disk", [24], indirect=True)
def test_a_disk_that_fills_up_while_streaming(
    server: Server, command: list[str], undisturbed: Path, small_disk: Path, fill: Callable[..., Path]
) -> None:
    run = small_disk / "runs" / NAME
    process = server.start(*command, cwd=small_disk, slow=0.03, figures=True)
    reached(run, lambda state: state.committed >= 6)
    ballast = fill(small_disk)
    done = process.wait()
    # The store has its blocks since it was made, so that every response is safe; the tables find no room.
    done.is_clear_error("could not be written: No space left on device", "Free some space")
    assert committed_rows_are_right(run, undisturbed) == N_IMAGES
    assert not state_of(run).complete
    ballast.unlink()
    done = server.call(*command, cwd=small_disk, figures=True)
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed, figures=True)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [24], indirect=True)
def test_space_that_suffices_for_some_files_only(
    server: Server, command: list[str], undisturbed: Path, small_disk: Path, fill: Callable[..., Path]
) -> None:
    run = small_disk / "runs" / NAME
    process = server.start(*command, cwd=small_disk, slow=0.03, figures=True)
    reached(run, lambda state: state.committed >= 6)
    ballast = fill(small_disk)
    process.wait().is_clear_error("No space left on device")
    for leave in (16_000, 60_000, 120_000):
        ballast.unlink()
        fill(small_disk, leave=leave)
        done = server.call(*command, cwd=small_disk, figures=True)
        done.is_clear_error("No space left on device", "Free some space")
        assert committed_rows_are_right(run, undisturbed) == N_IMAGES
        assert not state_of(run).complete
    ballast.unlink()
    done = server.call(*command, cwd=small_disk, figures=True)
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed, figures=True)
