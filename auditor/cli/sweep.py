"""``auditor sweep``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, number, print_json, print_lines, print_table, reporter
from auditor.cli.options import GroupedCommand, in_group, output_options, runs_option, training_options

if TYPE_CHECKING:
    from auditor.api.sweep import Sweep


class Alphas(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Split and check."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers separated by commas.", param, ctx)


class Seeds(click.ParamType["int | tuple[int, ...]"]):
    """A count, or seeds separated by commas."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, ...]:
        """Tell a count from a list by its comma."""
        if isinstance(value, int | tuple):
            return value
        parts = str(value).split(",")
        try:
            return int(parts[0]) if len(parts) == 1 else tuple(int(part) for part in parts if part)
        except ValueError:
            self.fail(f"{value!r} is neither a count nor a list of integers.", param, ctx)


@click.command("sweep", cls=GroupedCommand)
@in_group(
    "Experiment",
    click.option("--alphas", type=Alphas(), required=True, metavar="NUMBERS",
                 help="Weights in CE - alpha * SI, such as -2,-1,0,1,2; 0, the control, is added."),
    click.option("--seeds", type=Seeds(), default=3, show_default=True, metavar="N",
                 help="How many trainings of each alpha (seeds 0, 1, ...), or the seeds: 3,4,5 (one: 7,)."),
    click.option("--margin", default=0.01, show_default=True,
                 help="Loss of accuracy (share of images) that still counts as no cost."),
    click.option("--name", metavar="NAME", help="Name of the sweep's folder.  [default: from parent and settings]"),
    click.option("--processes", default=1, show_default=True, help="Train so many networks at a time."),
)  # fmt: skip
@in_group(
    "Start",
    click.option("--run", "run_name", metavar="NAME", help="Run to start from.  [default: latest not fine-tuned one]"),
    runs_option,
)
@training_options
@output_options
def command(*, run_name: str | None, runs: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Fine-tune a run's network with many alphas and seeds: accuracy against selectivity, one dot per network.

    Repeat the command to go on after an interruption, to try failed networks again, and with more alphas or seeds to
    extend the sweep. The same command in another shell, or on another machine that shares the folder, takes part.
    """
    from auditor.api.run import Run
    from auditor.api.sweep import sweep
    from auditor.distributed import current

    found = sweep(Run.open(run_name, runs=runs, original=True), reporter=reporter(quiet=quiet), **options)
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)
    if found.failed:
        if current().main:
            click.echo(
                f"Error: {len(found.failed)} networks failed; the others are in the tables. The traceback of each is "
                f"in {found.path / 'work'}; repeat the command to try again.",
                err=True,
            )
        sys.exit(1)


def show(sweep: Sweep) -> None:
    """Print a sweep."""
    rows = sweep.alphas.to_dict("records")
    print_table(
        f"Means of each alpha, with {_intervals(sweep, rows, 'over')}",
        [("alpha", "left"), *((head, "right") for head in
         ("networks", "accuracy, %", "mean SI", "above shuffle floor", "dead units"))],
        [
            (
                f"{row['alpha']:g}",
                str(row["n_seeds"]),
                _scaled(row, "accuracy", ".1f", 100),
                _scaled(row, "mean_index", ".3f"),
                _scaled(row, "excess", ".3f"),
                f"{row['dead']:.3g} of {row['units']}",
            )
            for row in rows
        ],
    )  # fmt: skip
    changes = [row for row in rows if row["n_pairs"] > 0]
    print_table(
        f"Changes from alpha 0, paired by seed, with {_intervals(sweep, changes, 'change_over')}",
        [("alpha", "left"), *((head, "right") for head in ("pairs", "accuracy, points", "mean SI", "p", "q")),
         ("claim on accuracy", "left")],
        [
            (
                f"{row['alpha']:g}",
                str(row["n_pairs"]),
                _scaled(row, "accuracy_change", "+.1f", 100),
                _scaled(row, "mean_index_change", "+.3f"),
                number(row["p"], ".2g"),
                number(row["q"], ".2g"),
                f"{row['claim']}: {row['outcome']}" if isinstance(row["outcome"], str) else "-",
            )
            for row in changes
        ],
    )  # fmt: skip
    print_lines(
        [
            *sweep.summary().splitlines(),
            f"Networks, tables and figures are in {sweep.path}; the study's figure is "
            f"{sweep.path / 'figures' / 'accuracy_against_selectivity.png'}.",
        ]
    )


def _intervals(sweep: Sweep, rows: Sequence[Mapping[Any, Any]], column: str) -> str:
    """What the intervals of a table are over."""
    over = {str(row[column]) for row in rows}
    kinds = "images" if over == {"images"} else "seeds" if "images" not in over else "seeds (one network: over images)"
    return f"{100 * sweep.confidence:g}% intervals over {kinds}"


def _scaled(row: dict[Any, Any], name: str, form: str, scale: float = 1) -> str:
    return interval(scale * row[name], scale * row[f"{name}_low"], scale * row[f"{name}_high"], form)
