"""``auditor runs``."""

from __future__ import annotations

import click

from auditor.cli.console import interval, number, print_json, print_lines, print_table
from auditor.cli.options import runs_option


@click.command("runs")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(*, runs: str, as_json: bool) -> None:
    """List the runs, newest first."""
    from auditor.api.overview import list_runs

    found = list_runs(runs)
    if as_json:
        print_json(found)
    elif not found:
        print_lines([f"There are no runs in {runs}. Make one with `auditor profile --model resnet18`."])
    else:
        print_table(
            f"Runs in {runs}",
            [("run", "left"), ("model", "left"), ("weights", "left"), ("data", "left"), ("mean SI", "right"),
             ("accuracy, %", "right"), ("state", "left")],
            [
                (
                    row["name"],
                    row["model"],
                    row["weights"],
                    row["data"],
                    number(row["mean_index"]),
                    _percent(*row["accuracy"]),
                    row["state"],
                )
                for row in found
            ],
        )  # fmt: skip


def _percent(accuracy: float | None, low: float | None, high: float | None) -> str:
    if accuracy is None or low is None or high is None:
        return "-"
    return interval(100 * accuracy, 100 * low, 100 * high, ".1f")
