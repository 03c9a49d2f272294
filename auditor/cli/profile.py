"""``auditor profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, number, print_json, print_lines, print_table, reporter
from auditor.cli.options import (
    Numbers,
    execution_options,
    limit_option,
    model_options,
    output_options,
    runs_option,
    seed_option,
)

if TYPE_CHECKING:
    from auditor.api.run import Run

TOP = 10


@click.command("profile")
@model_options
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME",
    help="A selectivity metric beside the class selectivity index; may be repeated (`auditor plugins` lists them).",
)  # fmt: skip
@click.option("--shuffles", default=1000, show_default=True, help="Label shuffles of the null.")
@click.option("--bootstraps", default=1000, show_default=True, help="Resamples of the intervals.")
@click.option("--confidence", default=0.95, show_default=True, help="Of every interval.")
@click.option(
    "--fractions", type=Numbers(3), default="0.5,0.25,0.25", show_default=True, metavar="T,S,S",
    help="Shares of the train, select and score splits.",
)  # fmt: skip
@limit_option
@click.option("--name", metavar="NAME", help="Name of the run.  [default: from model, data and settings]")
@runs_option
@seed_option
@execution_options(128)
@output_options
def command(*, layers: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """Stream labelled data through a model, store every unit's response and score its class selectivity.

    Units are scored on the select split; the score split is kept for `auditor ablate`.
    """
    from auditor.api.profile import profile

    run = profile(layers=list(layers) or "activations", reporter=reporter(quiet=quiet), **options)
    if as_json:
        print_json(run.to_dict())
    else:
        show(run)


def show(run: Run) -> None:
    """Print a profile."""
    layers, units, summary = run.layers, run.selectivity, run.summary
    print_table(
        f"Class selectivity by layer ({int(units['n_images'].iloc[0])} images of the select split)",
        [("layer", "left"), *((h, "right") for h in
         ("units", "dead", "signed", f"mean SI [{run.confidence:.0%}]", "null", "excess", "significant"))],
        [
            (
                row["site"],
                str(row["n_units"]),
                str(row["dead"]),
                str(row["signed"]),
                interval(row["mean_index"], row["index_low"], row["index_high"]),
                number(row["index_null_mean"]),
                number(row["index_excess"]),
                str(row["significant"]),
            )
            for row in layers.to_dict("records")
        ],
    )  # fmt: skip
    top = units.sort_values("index_excess", ascending=False, kind="stable").head(TOP)
    print_table(
        f"The {min(TOP, len(top))} most selective units (by excess over the label-shuffle null)",
        [("unit", "left"), ("prefers", "left"), *((h, "right") for h in
         (f"SI [{run.confidence:.0%}]", "null", "excess", "q", "held-out SI", "fires on"))],
        [
            (
                row["unit_id"],
                row["preferred"],
                interval(row["index"], row["index_low"], row["index_high"]),
                number(row["index_null"]),
                number(row["index_excess"]),
                number(row["index_q"], ".2g"),
                number(row["index_heldout"]),
                f"{row['firing_rate']:.0%}",
            )
            for row in top.to_dict("records")
            if row["index_excess"] == row["index_excess"]
        ],
    )  # fmt: skip
    network, accuracy = summary["network"], summary["accuracy"]
    lines = [
        f"Network mean SI {interval(network['mean_index'], network['low'], network['high'])}, "
        f"label-shuffle null {number(network['null_mean'])}, excess {number(network['excess'])}; "
        f"{summary['significant']} of {summary['units']} units significant (q <= 0.05), {summary['dead']} dead."
    ]
    if summary["signed"]:
        lines.append(
            f"{summary['signed']} units have negative responses: the index is not defined for them; --metric dprime is."
        )
    if accuracy is None:
        lines.append("Accuracy: not defined, the model's outputs are not the classes of the data.")
    else:
        shown = interval(100 * accuracy["accuracy"], 100 * accuracy["low"], 100 * accuracy["high"], ".1f")
        lines.append(f"Accuracy on the score split: {shown} % ({accuracy['n_images']} images).")
    print_lines([*lines, f"Tables, figures and activations are in {run.path}."])
