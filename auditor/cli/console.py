"""Progress and messages on a terminal or in a notebook, through rich."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.table import Column, Table
from rich.text import Text

from auditor.progress import QUIET, Reporter, Task

WIDTH = 120


class _Rate(ProgressColumn):
    """Steps per second in the task's own unit."""

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        shown = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
        return Text(f"{shown} {task.fields['unit']}/s", style="dim")


class _Bar:
    """One task of a progress display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1) -> None:
        """Move on."""
        self._progress.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Print `text` above the bar."""
        self._progress.console.print(escape(text), style="dim")


class TerminalReporter:
    """Reports to a person: messages and progress bars with rate and time left.

    Parameters
    ----------
    stderr : bool
        Write to stderr, so that stdout holds results only.
    """

    def __init__(self, *, stderr: bool = True) -> None:
        self._console = Console(stderr=stderr, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(escape(text))

    @contextmanager
    def task(self, description: str, total: float, unit: str) -> Iterator[Task]:
        """Show a progress bar for the length of the block."""
        fixed = Column(no_wrap=True)
        progress = Progress(
            TextColumn("{task.description}", table_column=fixed),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=fixed),
            _Rate(table_column=fixed),
            TimeElapsedColumn(table_column=fixed),
            TimeRemainingColumn(table_column=fixed, elapsed_when_finished=False),
            console=self._console,
        )
        with progress:
            yield _Bar(progress, progress.add_task(escape(description), total=total, unit=unit))


def reporter(*, quiet: bool) -> Reporter:
    """Build the reporter of a command."""
    return QUIET if quiet else TerminalReporter()


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout.

    Parameters
    ----------
    title : str
    columns : sequence of (header, justify)
    rows : sequence of sequence of str
        Plain text; markup in names is shown as it is.
    """
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for i, (header, justify) in enumerate(columns):
        # Names must stay whole to be copied, unless they leave no room; what follows may fold on a narrow terminal.
        whole = i == 0 and all(len(row[0]) <= WIDTH // 2 for row in rows)
        table.add_column(escape(header), justify=justify, overflow="fold", no_wrap=whole)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Print sentences on stdout."""
    for line in lines:
        click.echo(line)


def interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    """``0.412 [0.380, 0.441]``, or a dash where undefined."""
    if value is None or value != value:
        return "-"
    if low is None or high is None or low != low or high != high:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def number(value: float | None, form: str = ".3f") -> str:
    """Show a number, or a dash where undefined."""
    return "-" if value is None or value != value else f"{value:{form}}"
