"""``auditor ablate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, print_json, print_lines, print_table, reporter
from auditor.cli.options import (
    execution_options,
    limit_option,
    output_options,
    run_option,
    runs_option,
    seed_option,
)

if TYPE_CHECKING:
    from auditor.api.ablation_result import Ablation

TOP = 10


@click.command("ablate")
@run_option
@runs_option
@click.option("--top-selective", default=100, show_default=True, metavar="K", help="How many units.")
@click.option(
    "--by", default="excess", show_default=True, metavar="RANKING",
    help="excess (index minus its null), index, or the NAME or NAME_excess of another metric of the run.",
)  # fmt: skip
@click.option("--all", "all_units", is_flag=True, help="Measure every unit of the network alone.")
@click.option(
    "--screen",
    type=int,
    metavar="N",
    help="Measure the N units alone whose first-order estimate (one backward pass) is largest.",
)
@click.option(
    "--top-important", type=int, metavar="K", help="Find the K most important units on as few images as possible."
)
@click.option("--delta", default=0.05, show_default=True, help="Error probability of --top-important.")
@click.option(
    "--edit",
    default="zero",
    show_default=True,
    metavar="EDIT",
    help="What replaces a response: zero, mean, resample, resample-class, noise=SCALE, clamp=VALUE.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Also compute Captum's attribution: gradient_x_activation, integrated_gradients, conductance, "
    "deeplift or internal_influence; may be repeated.",
)
@click.option("--random-sets", default=100, show_default=True, help="Matched random sets; at least 100.")
@click.option("--random-orders", default=5, show_default=True, help="Random orders of the curve.")
@click.option("--curve-points", default=8, show_default=True, help="Points of the curve.")
@click.option(
    "--curve-over", type=click.Choice(["layers", "network"]), default="layers", show_default=True,
    help="Silence the same share of every layer, ranked within it, or rank all units together.",
)  # fmt: skip
@click.option("--keep-only", is_flag=True, help="Draw the curves along which all other units are silenced, too.")
@click.option(
    "--engine",
    default="exact",
    show_default=True,
    metavar="NAME",
    help="exact (replays the network from each layer on), captum, or hooks (the whole network each time).",
)
@click.option(
    "--check", default=4, show_default=True, metavar="N", help="Compare N random units with Captum; 0 for none."
)
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    metavar="TYPE",
    help="float32, bfloat16 or float16; the deviation from float32 is measured with --check.",
)
@click.option("--memory", type=float, metavar="GIB", help="For a batch.  [default: 2, or 60 % of a GPU's]")
@click.option("--q", default=0.05, show_default=True, help="False-discovery rate that candidates must reach.")
@limit_option
@seed_option
@execution_options(64)
@output_options
def command(*, run_name: str | None, runs: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Silence the K most selective units of a run, one by one and together.

    Single units are ablated exactly, by running the network again from their layer on; a few are compared with
    Captum's LayerFeatureAblation. Together they are compared with random sets of the same size, matched by layer and
    mean activation. Units are chosen on the select split and scored on the score split.
    """
    from auditor.api.ablate import ablate
    from auditor.api.run import Run

    result = ablate(Run.open(run_name, runs=runs), reporter=reporter(quiet=quiet), **options)
    if as_json:
        print_json(result.to_dict())
    else:
        show(result)


def show(result: Ablation) -> None:
    """Print an ablation."""
    effects = result.effects.sort_values("loss_change", ascending=False, kind="stable").head(TOP)
    confidence = f"{100 * result.run.confidence:g}%"
    print_table(
        f"The {len(effects)} of {len(result.effects)} units whose loss matters most, each silenced alone",
        [("unit", "left"), ("prefers", "left"), ("rank", "right"), *((h, "right") for h in (
            f"loss change [{confidence}]", "target logit drop", "accuracy (points)", "on its class"))],
        [
            (
                row["unit_id"],
                row["preferred"],
                "-" if row["rank"] != row["rank"] or row["rank"] is None else str(int(row["rank"])),
                _effect(row, "loss_change", ".4f"),
                _effect(row, "target_logit_drop", ".3f"),
                _effect(row, "accuracy_change", ".1f", 100),
                _effect(row, "preferred_accuracy_change", ".1f", 100),
            )
            for row in effects.to_dict("records")
        ],
    )  # fmt: skip
    print_lines([*result.summary_lines(), f"Tables and figures are in {result.path}."])


def _effect(row: dict[Any, Any], name: str, form: str, scale: float = 1) -> str:
    return interval(scale * row[name], scale * row[f"{name}_low"], scale * row[f"{name}_high"], form)
