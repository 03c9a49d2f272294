"""Watch over the other ranks: a lost one ends the job within a stated time, and it is said which one and where."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

BEAT = 1.0
"""Seconds between two signs of life."""
TIMEOUT = 30.0
"""Seconds without a sign of life after which a rank counts as lost."""
GONE = 4.0
"""The same for a process that was itself asked to end: whoever asked has usually noticed why."""
PARTING = 3.0
"""Seconds that the keeper of the store waits for the others to have read it, and these for who is to speak."""
TIMEOUT_VARIABLE = "AUDITOR_RANK_TIMEOUT"


class Watch(threading.Thread):
    """A thread that gives signs of life through the store and looks at those of the next rank.

    Each rank watches one other, so the work grows with the number of ranks alone. Whoever misses a sign writes down
    which rank is lost; everybody reads that, and ends.

    Parameters
    ----------
    store : torch.distributed.Store
        A connection of its own: calls on one connection wait for each other.
    rank, size : int
    timeout : float
        Seconds.
    agent : bool
        Whether the launcher keeps the store, and not the process of rank 0.

    Attributes
    ----------
    step : str
        What this rank is doing, in words.
    """

    def __init__(self, store: Any, rank: int, size: int, *, timeout: float = TIMEOUT, agent: bool = False) -> None:
        super().__init__(name="auditor-watch", daemon=True)
        self.rank, self.size, self.timeout = rank, size, timeout
        self.step = "starting"
        self._store = store
        self._agent = agent
        self._keeps = rank == 0 and not agent
        self._beats = 0
        self._heard = time.monotonic()
        self._over, self._parted = threading.Event(), threading.Event()
        self._speaking = threading.Lock()
        self._chores: list[Callable[[Any], None]] = []

    def every_beat(self, chore: Callable[[Any], None]) -> Callable[[], None]:
        """Call `chore` with the store at every beat; the answer ends that."""
        self._chores.append(chore)
        return lambda: self._chores.remove(chore)

    def beat(self) -> None:
        """Give a sign of life."""
        self._beats += 1
        content = {"beat": self._beats, "step": self.step, "host": socket.gethostname(), "pid": os.getpid()}
        self._store.set(f"beat/{self.rank}", json.dumps(content))

    def start(self) -> None:
        """Start to watch the others, and to watch that the store answers."""
        self._heard = time.monotonic()
        super().start()
        threading.Thread(target=self._guard, name="auditor-guard", daemon=True).start()

    def run(self) -> None:
        """Beat, look, and end the process if a rank is lost."""
        other = (self.rank + 1) % self.size
        last, seen, looked = 0, time.monotonic(), time.monotonic()
        try:
            while not self._over.wait(BEAT):
                now = time.monotonic()
                if now - looked > BEAT + self.timeout / 2:  # this process itself was stopped for a while
                    seen = now
                looked = now
                self.beat()
                self._heard = time.monotonic()
                for chore in tuple(self._chores):
                    chore(self._store)
                self._obey()
                content = self._look(other)
                if content["beat"] != last:
                    last, seen = content["beat"], now
                elif now - seen > self.timeout and not content.get("left"):
                    self._declare(other, f"has given no sign of life for {self.timeout:g} s", gone=True)
                    self._obey()
        except RuntimeError as error:  # the store's errors are of this kind
            if not self._over.is_set():
                self._end(self._cut_off(error))
        except Exception as error:  # of a chore: without signs of life this rank would count as lost
            message = f"{type(error).__name__}: {error}"
            if not self._over.is_set():
                self._speak(message if self.fail(message) else None)
                os._exit(1)

    def _guard(self) -> None:
        """End the process if the store has stopped to answer: who asks it then waits for ever."""
        before = time.monotonic()
        while not self._parted.wait(BEAT):
            now = time.monotonic()
            if now - before > BEAT + self.timeout / 2:  # this process itself was stopped for a while
                self._heard = now
            before = now
            if now - self._heard > self.timeout:
                self._speak(self._cut_off(TimeoutError(f"no answer for {self.timeout:g} s")))
                os._exit(1)

    def leave(self) -> None:
        """Say that this rank has done its work, and stop watching."""
        self._over.set()
        self.join()
        with suppress(RuntimeError):  # all have done their work: nobody needs to be told
            self._store.set(f"beat/{self.rank}", json.dumps({"beat": 0, "step": "done", "left": True}))
        self._part(self.timeout)

    def fail(self, message: str) -> bool:
        """Tell the others that this rank cannot go on, and why.

        Returns
        -------
        bool
            Whether the caller says it; otherwise the main rank does.
        """
        self._quiet()
        with suppress(RuntimeError):
            self._declare(self.rank, "ended with an error", step=self.step, detail=f"\n{message}")
            if self.rank == 0:
                self._store.add("said", 1)
        self._part()
        return self.rank == 0

    def give_up(self, error: BaseException) -> None:
        """Tell the others of an error that nobody has told them of yet."""
        if self._over.is_set() or isinstance(error, SystemExit | GeneratorExit):
            return
        if isinstance(error, KeyboardInterrupt):
            self.interrupted()
        else:
            self.fail(f"{type(error).__name__}: {error}")

    def interrupted(self) -> str | None:
        """Find out, after a request to end, whether another rank was lost before.

        Returns
        -------
        str or None
            What is to be said; None if nobody was lost, or another rank says it.
        """
        self._quiet()
        try:
            self._store.set(f"asked/{self.rank}", "1")
            lost = self._gone(lambda rank: self._store.check([f"asked/{rank}"]))
            everybody = all(self._store.check([f"asked/{rank}"]) for rank in range(self.size))
            if lost is not None:
                self._declare(lost, "is gone", gone=True)
            elif not everybody:
                self._declare(self.rank, "was asked to end", step=self.step)
            told = self._told()
        except RuntimeError as error:
            told = self._cut_off(error)
        self._part()
        return told

    def blame(self) -> None:
        """End the process if a rank is gone; returns if all are there. For errors of collective operations."""
        try:
            lost = self._gone(lambda _: False)
            if lost is not None:
                self._declare(lost, "is gone", gone=True)
            self._obey()
        except RuntimeError as error:
            self._end(self._cut_off(error))

    def _quiet(self) -> None:
        """Leave it to the caller to say what there is to say."""
        self._speaking.acquire(blocking=False)
        self._heard = time.monotonic()
        self._over.set()

    def _gone(self, excused: Callable[[int], bool]) -> int | None:
        """Number of a rank that gives no more signs of life; None without one, or if that is known already."""
        others = (rank for rank in range(self.size) if rank != self.rank)
        counts = {rank: found["beat"] for rank in others if not (found := self._look(rank)).get("left")}
        deadline = time.monotonic() + GONE
        while counts and time.monotonic() < deadline:
            time.sleep(BEAT / 4)
            self.beat()
            self._heard = time.monotonic()
            if self._store.check(["stop"]):
                return None
            counts = {rank: n for rank, n in counts.items() if not excused(rank) and self._look(rank)["beat"] == n}
        return min(counts, default=None)

    def _part(self, patience: float = PARTING) -> None:
        """Say goodbye; the rank that keeps the store waits for the others to have heard what there is to hear."""
        with suppress(RuntimeError):
            self._store.set(f"bye/{self.rank}", "1")
            deadline = time.monotonic() + patience
            while self._keeps and time.monotonic() < deadline:
                if self._store.check([f"bye/{rank}" for rank in range(self.size)]):
                    break
                self._heard = time.monotonic()
                time.sleep(BEAT / 20)
        self._parted.set()

    def _look(self, rank: int) -> dict[str, Any]:
        if not self._store.check([f"beat/{rank}"]):
            return {"beat": 0, "step": "starting"}
        content: dict[str, Any] = json.loads(self._store.get(f"beat/{rank}"))
        return content

    def _declare(self, rank: int, what: str, *, step: str | None = None, detail: str = "", gone: bool = False) -> None:
        """Write down, once for all, why the job ends; the main rank is to say it, or the next if that one is gone."""
        content = self._look(rank)
        where = f" (process {content['pid']} on {content['host']})" if "pid" in content else ""
        message = f"Rank {rank} of {self.size}{where} {what}; its last step: {step or content['step']}.{detail}"
        speaker = 1 if gone and rank == 0 else 0
        self._store.compare_set("stop", "", json.dumps({"rank": rank, "speaker": speaker, "message": message}))

    def _told(self) -> str | None:
        """What was declared, if this rank is the one to say it, or whoever is to does not."""
        if not self._store.check(["stop"]):
            return None
        content = json.loads(self._store.get("stop"))
        deadline = time.monotonic() + (0 if self.rank == content["speaker"] else PARTING)
        while time.monotonic() < deadline:
            if self._store.check(["said"]):
                return None
            self._heard = time.monotonic()
            time.sleep(BEAT / 20)
        return f"{content['message']}\nRepeat the command to go on." if self._store.add("said", 1) == 1 else None

    def _cut_off(self, error: Exception) -> str:
        who = "The launcher" if self._agent else "Rank 0"
        return (
            f"{who}, which keeps the ranks together, is gone ({_line(error)}); the last step of rank {self.rank}: "
            f"{self.step}. Repeat the command to go on."
        )

    def _obey(self) -> None:
        if self._store.check(["stop"]):
            self._end(self._told())

    def _end(self, message: str | None) -> None:
        """End this process at once: its main thread may wait for the lost rank for ever."""
        if not self._speaking.acquire(blocking=False):
            return  # the main thread is at it
        self._speak(message)
        self._part()
        os._exit(1)

    def _speak(self, message: str | None) -> None:
        with suppress(OSError, ValueError):  # nobody may be there to hear it
            if message is not None:
                cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
                sys.stderr.write(f"{cursor}\nError: {message}\n")
            for stream in (sys.stdout, sys.stderr):
                stream.flush()


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
