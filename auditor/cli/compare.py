"""``auditor compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, number, print_json, print_lines, print_table
from auditor.cli.options import output_options, runs_option
from auditor.cli.selectivity import FORMS, SHORT

if TYPE_CHECKING:
    from auditor.api.compare import Comparison


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@runs_option
@click.option("--out", metavar="DIR", help="Write tables and the figure into this folder.")
@output_options
def command(*, names: tuple[str, ...], runs: str, out: str | None, as_json: bool, quiet: bool) -> None:
    """Put runs on the same data side by side; changes are from the first."""
    from auditor.api.compare import compare
    from auditor.api.run import Run

    found = compare(*(Run.open(name, runs=runs) for name in names))
    if out is not None:
        found.save(Path(out))
    if as_json:
        print_json(found.to_dict())
        return
    show(found)
    if out is not None and not quiet:
        print_lines([f"Tables and figure are in {out}."])


def show(comparison: Comparison) -> None:
    """Print a comparison."""
    overall = comparison.overall.to_dict("records")
    signed = [name for name in ("dprime", "auc") if f"mean_{name}" in comparison.overall]
    print_table(
        "Accuracy on the score split, mean class selectivity on the select split",
        [("run", "left"), *((h, "right") for h in
         ("accuracy, %", "change, points", "mean SI", "change", "null", *(f"mean {SHORT[name]}" for name in signed),
          "dead units"))],
        [
            (
                row["run"],
                _scaled(row, "accuracy", ".1f", 100),
                _scaled(row, "accuracy_change", "+.1f", 100),
                _scaled(row, "mean_index", ".3f"),
                _scaled(row, "index_change", "+.3f"),
                number(row["null_mean"]),
                *(_signed(row, name) for name in signed),
                f"{row['dead']} of {row['units']}",
            )
            for row in overall
        ],
    )  # fmt: skip
    runs = list(dict.fromkeys(comparison.layers["run"]))
    rows = {(row["run"], row["site"]): row for row in comparison.layers.to_dict("records")}
    print_table(
        "Mean SI by layer (dead units)" + (", or d' where responses are signed" if signed else ""),
        [("layer", "left"), *((run, "right") for run in runs)],
        [(site, *(_layer(rows.get((run, site))) for run in runs)) for site in dict.fromkeys(comparison.layers["site"])],
    )


def _layer(row: dict[Any, Any] | None) -> str:
    if row is None:
        return "-"
    shown = interval(row["mean_index"], row["low"], row["high"])
    if shown == "-" and "mean_dprime" in row and (signed := _signed(row, "dprime")) != "-":
        shown = f"{SHORT['dprime']} {signed}"
    return f"{shown} ({int(row['dead'])})"


def _signed(row: dict[Any, Any], name: str) -> str:
    return interval(row[f"mean_{name}"], row[f"{name}_low"], row[f"{name}_high"], FORMS.get(name, ".3f"))


def _scaled(row: dict[Any, Any], name: str, form: str, scale: float = 1) -> str:
    return interval(scale * row[name], scale * row[f"{name}_low"], scale * row[f"{name}_high"], form)
