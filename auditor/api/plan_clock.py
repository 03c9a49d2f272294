"""Time what real code takes, and write down what a part of a job will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

METHOD = 0.15
"""Added to the spread of the repeats, down and up: what they cannot show (other batches, a warmer machine)."""
LEAST = 4e9
"""Operations that a timed batch has at least, also on a busy machine: fewer show what calls cost, not images."""
_INNER = (0.1, 0.9)


class Timed(NamedTuple):
    """Seconds with a range.

    Attributes
    ----------
    seconds : float
        Median of the repeats.
    low, high : float
        Their 10 % and 90 % quantiles.
    """

    seconds: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timed:
        """Median and range of repeats; nothing at all takes no time."""
        if not len(samples):
            return cls(0.0, 0.0, 0.0)
        low, high = np.quantile(samples, _INNER)
        return cls(float(np.median(samples)), float(low), float(high))

    def times(self, factor: float) -> Timed:
        """For `factor` times the work."""
        return Timed(self.seconds * factor, self.low * factor, self.high * factor)

    def plus(self, *others: Timed) -> Timed:
        """One after the other; the ranges add up, as if all were wrong in the same direction."""
        every = (self, *others)
        return Timed(sum(t.seconds for t in every), sum(t.low for t in every), sum(t.high for t in every))


NO_TIME = Timed(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Part:
    """A part of a job.

    Attributes
    ----------
    job : {"profile", "ablate", "finetune"}
    part : str
    scales : str
        What its time grows with.
    time : Timed
        Of one process on one device.
    operations : int or None
        Floating-point operations of the network, or of the class sums that are scored, two for each multiply-add; None
        where neither is what takes the time.
    disk : int
        Bytes that stay on disk.
    memory : int
        Bytes held at once, beside the network.
    parallel : bool
        Whether several devices divide it.
    """

    job: str
    part: str
    scales: str
    time: Timed
    operations: int | None = None
    disk: int = 0
    memory: int = 0
    parallel: bool = False

    @property
    def span(self) -> Timed:
        """Seconds with the whole range: that of the repeats, and what they cannot show."""
        return Timed(self.time.seconds, self.time.low * (1 - METHOD), self.time.high * (1 + METHOD))


@dataclass
class Span:
    """One task of a verb: seconds, and seconds and amount of each step."""

    description: str
    seconds: float = 0.0
    steps: list[tuple[float, float]] = field(default_factory=list)

    def rates(self) -> list[float]:
        """Seconds for one unit of work, of each step that did some."""
        return [seconds / amount for seconds, amount in self.steps if amount > 0]


class _Steps:
    def __init__(self, span: Span) -> None:
        self._span, self._last = span, time.perf_counter()

    def advance(self, amount: float = 1) -> None:
        now = time.perf_counter()
        self._span.steps.append((now - self._last, amount))
        self._last = now

    def note(self, text: str) -> None:
        pass


class Stopwatch:
    """A reporter that shows nothing and times every task and step."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[_Steps]:
        """Time the block."""
        span = Span(description)
        self.spans.append(span)
        began = time.perf_counter()
        try:
            yield _Steps(span)
        finally:
            span.seconds = time.perf_counter() - began

    def span(self, description: str) -> Span:
        """Find a task by how its description begins."""
        return next(span for span in self.spans if span.description.startswith(description))


def batch_of(budget: float, each: float, operations: float, *, least: int, most: int) -> int:
    """Images of a timed batch: as many as `budget` seconds allow at `each`, but enough for the machine to be busy.

    Parameters
    ----------
    budget, each : float
        Seconds, in all and of one image.
    operations : float
        Of one image.
    least, most : int
    """
    enough = LEAST / max(operations, 1.0)
    return int(np.clip(max(budget / max(each, 1e-9), enough), least, most))


def seconds(function: Callable[[], Any]) -> float:
    """Time one call, until the devices that it gave work to are done."""
    began = time.perf_counter()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - began
