"""The whole ``auditor profile`` killed at random moments, and taken up again."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest
from processes import N_IMAGES, NAME, Server, State, assert_same_run, committed_rows_are_right, reached, state_of

KILLS, WITH_FIGURES = 50, 6
# What a kill waits for, and for how many seconds at most it then lets the run go on.
Aim = tuple[Callable[[State], bool], float]
ANYWHERE: Aim = (lambda _: True, 0.6)
STREAMING: Aim = (lambda state: state.committed > 0, 0.25)
SCORING: Aim = (lambda state: state.streamed, 0.15)
DRAWING: Aim = (lambda state: state.tables, 1.5)


def kill_once(
    server: Server, command: list[str], folder: Path, aim: Aim, chance: random.Random, **options: bool
) -> State | None:
    """Kill a profile; returns how far it was, or None if it had ended."""
    run, (enough, seconds) = folder / "runs" / NAME, aim
    process = server.start(*command, "--quiet", cwd=folder, slow=0.006, **options)
    reached(run, enough)
    time.sleep(chance.random() * seconds)
    process.send(signal.SIGKILL)
    done = process.wait()
    assert done.code in (0, -signal.SIGKILL), done
    return state_of(run) if done.code else None


def kill_and_compare(
    server: Server, command: list[str], undisturbed: Path, folder: Path, aims: Sequence[Aim], seed: int, **options: bool
) -> list[State]:
    """Kill one run again and again, let it end and compare it; returns how far each kill let it come."""
    states: list[State] = []
    chance, run = random.Random(seed), folder / "runs" / NAME
    folder.mkdir()
    for aim in aims:
        state = kill_once(server, command, folder, aim, chance, **options)
        if state is None:
            break
        assert not states or state.committed >= states[-1].committed
        if (run / "activations.h5").exists():
            assert committed_rows_are_right(run, undisturbed) == state.committed
        states.append(state)
    done = server.call(*command, cwd=folder, **options)
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed, **options)
    return states


def test_killed_while_streaming_and_while_scoring(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    kill_and_compare(server, command, undisturbed, tmp_path / "it", [STREAMING, SCORING], seed=0)


def test_what_a_killed_process_left_half_written_is_removed(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / NAME
    process = server.start(*command, cwd=tmp_path, slow=0.05)
    reached(run, lambda state: state.committed > 0)
    process.send(signal.SIGKILL)
    process.wait()
    (run / "moments").mkdir()
    for name in (".units.csv.4711-0a1b2c3d.tmp", ".activations.h5.tmp", "moments/.select.npz.4711-0a1b2c3d.tmp"):
        (run / name).write_bytes(b"half of it")
    done = server.call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed)


@pytest.mark.slow
def test_a_manifest_that_was_never_finished_is_removed(
    server: Server, command: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / NAME
    run.mkdir(parents=True)
    (run / ".manifest.json.4711-0a1b2c3d.tmp").write_bytes(b"half of it")
    done = server.call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert_same_run(run, undisturbed)


@pytest.mark.slow
def test_killed_fifty_times(server: Server, command: list[str], undisturbed: Path, tmp_path: Path) -> None:
    choose, states = random.Random(0), list[State]()
    for seed in count():
        drawing = len(states) < WITH_FIGURES
        aims = [ANYWHERE, *choose.choices([ANYWHERE, STREAMING], k=2 if drawing else 7)]
        aims += [DRAWING] * 3 if drawing else [SCORING]
        folder = tmp_path / str(seed)
        found = kill_and_compare(server, command, undisturbed, folder, aims, seed, figures=drawing)
        states += [state for state in found if not state.complete]
        if len(states) >= KILLS:
            break
    phases = Counter(state.phase for state in states)
    assert phases["streaming"] >= 5, phases
    assert phases["scoring"] + phases["writing"] >= 5, phases
    assert len({state.committed for state in states} - {0, N_IMAGES}) >= 5, states
