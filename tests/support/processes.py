"""Real ``auditor`` processes for the tests in ``tests/faults``, and what their folders tell from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.store.reader import StoreReader

SUPPORT = Path(__file__).parent
PATIENCE = 120.0
N_IMAGES, BATCH = 180, 6
NAME = "it"


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    out: str
    err: str

    def is_clear_error(self, *parts: str) -> None:
        """Exit code 1, one message, nothing from Python's depths."""
        assert self.code == 1, self
        assert "Error: " in self.err, self
        self.is_tidy(*parts)

    def is_tidy(self, *parts: str) -> None:
        for inside in ("Traceback", "Exception ignored", "Fatal Python error"):
            assert inside not in self.err, self.err
        for part in parts:
            assert part in self.err, self.err


class Process:
    """A running command."""

    def __init__(self, server: Server, pid: int, out: Path, err: Path) -> None:
        self.server, self.pid, self.out, self.err = server, pid, out, err
        self._done: Done | None = None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)  # until it is waited for, the number belongs to no other process

    def ctrl_c(self) -> None:
        """Interrupt the command and its workers, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self) -> Done:
        if self._done is None:
            code = self.server.ask(wait=self.pid)["status"]
            self._done = Done(code, *(p.read_text("utf-8", errors="replace") for p in (self.out, self.err)))
        return self._done


class Server:
    """The process that all commands are forked from."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "CUDA_VISIBLE_DEVICES": "",
            "MPLBACKEND": "agg",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "forkserver.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._answer() == {"ready": True}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline() or '{"error": "the server is gone"}'))

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer
        return answer

    def start(
        self,
        *argv: str | Path,
        cwd: Path,
        slow: float = 0,
        figures: bool = False,
        file_limit: int | None = None,
        path: Sequence[Path] = (),
        **env: str,
    ) -> Process:
        """Start a command; figures take seconds and are left out unless asked for."""
        self._number += 1
        out, err = (self._folder / f"{self._number}.{kind}" for kind in ("out", "err"))
        for file in (out, err):
            file.touch()  # it may be killed before it opens them
        order = {
            "argv": [str(part) for part in argv],
            "cwd": str(cwd),
            "out": str(out),
            "err": str(err),
            "env": {"SLOW_SECONDS": str(slow), "AUDITOR_CACHE": os.environ["AUDITOR_CACHE"], **env},
            "figures": figures,
            "file_limit": file_limit,
            "path": [str(folder) for folder in path],
        }
        return Process(self, self.ask(**order)["pid"], out, err)

    def call(self, *argv: str | Path, cwd: Path, **options: Any) -> Done:
        return self.start(*argv, cwd=cwd, **options).wait()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)


@dataclass(frozen=True)
class State:
    """How far a run is, as its folder tells."""

    begun: bool
    committed: int
    streamed: bool
    tables: bool
    complete: bool

    @property
    def phase(self) -> str:
        if self.complete:
            return "done"
        if self.tables:
            return "writing"
        if self.streamed:
            return "scoring"
        return "streaming" if self.committed else "beginning"


def state_of(run: Path) -> State:
    committed, streamed = 0, False
    if (run / "activations.h5").exists():
        with StoreReader(run / "activations.h5") as store:
            committed, streamed = store.n_rows, store.complete
    manifest = run / "manifest.json"
    begun = manifest.exists()
    complete = begun and bool(json.loads(manifest.read_text("utf-8"))["complete"])
    return State(begun, committed, streamed, (run / "units.csv").exists(), complete)


def reached(run: Path, enough: Callable[[State], bool]) -> State:
    """Wait until a run is far enough."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = state_of(run)
        if enough(state):
            return state
        time.sleep(0.002)
    raise AssertionError(f"{run} did not get there: {state_of(run)}")


def committed_rows_are_right(run: Path, undisturbed: Path) -> int:
    """Compare the rows that are there with those of the undisturbed run; returns their number."""
    with StoreReader(run / "activations.h5") as mine, StoreReader(undisturbed / "activations.h5") as other:
        n = mine.n_rows
        assert mine.attrs == other.attrs
        assert mine.ids == other.ids[:n]
        for name in ("labels", "splits", "logits"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name)[:n])
        for site in other.sites:
            np.testing.assert_array_equal(mine.responses(site), other.responses(site, slice(0, n)))
    return n


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but the manifest, which tells the time, and locks."""
    files = [path for path in run.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "manifest.json"}


def assert_same_run(run: Path, undisturbed: Path, *, figures: bool = False) -> None:
    """Byte for byte, and nothing left over."""
    assert committed_rows_are_right(run, undisturbed) == N_IMAGES
    mine, wanted = contents(run), contents(undisturbed)
    if not figures:
        wanted = {name: content for name, content in wanted.items() if not name.startswith("figures")}
    assert sorted(mine) == sorted(wanted)
    assert [name for name in wanted if mine[name] != wanted[name]] == []
    here, there = (json.loads((path / "manifest.json").read_text("utf-8")) for path in (run, undisturbed))
    for key in ("complete", "digest", "identity", "kind"):
        assert here[key] == there[key]
