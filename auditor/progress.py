"""How long work tells where it is, without the library knowing about terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """One bar."""

    def advance(self, amount: float = 1) -> None:
        """Move on by `amount` of the total's unit."""

    def note(self, text: str) -> None:
        """Show one line about what was reached (a loss, an accuracy)."""


class Reporter(Protocol):
    """Receives messages and progress; the command line and notebooks each have their own."""

    def say(self, text: str) -> None:
        """Show one line for a person."""

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Task]:
        """Open a progress bar for the length of the block; `unit` is a plural (``images``)."""
        yield NullTask()


class NullTask:
    """A bar that nobody sees."""

    def advance(self, amount: float = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class NullReporter:
    """A reporter that says nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Task]:
        """Yield a bar that nobody sees."""
        yield NullTask()


QUIET: Reporter = NullReporter()
