"""``auditor profile``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, print_json, print_lines, reporter
from auditor.cli.options import (
    Numbers,
    execution_options,
    head_options,
    limit_option,
    max_bad_option,
    model_options,
    output_options,
    preprocessing_options,
    runs_option,
    seed_option,
    store_options,
)
from auditor.cli.selectivity import network_lines, show_selectivity

if TYPE_CHECKING:
    from auditor.api.run import Run


@click.command("profile")
@model_options
@head_options
@preprocessing_options
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME",
    help="A selectivity metric beside the class selectivity index, or `all`; may be repeated (`auditor plugins` lists "
    "them).",
)  # fmt: skip
@click.option("--shuffles", default=1000, show_default=True, help="Label shuffles of the null.")
@click.option("--bootstraps", default=1000, show_default=True, help="Resamples of the intervals.")
@click.option("--confidence", default=0.95, show_default=True, help="Of every interval.")
@click.option(
    "--fractions", type=Numbers(3), default="0.5,0.25,0.25", show_default=True, metavar="T,S,S",
    help="Shares of the train, select and score splits.",
)  # fmt: skip
@limit_option
@max_bad_option
@store_options
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
    if not run.complete:
        if as_json:
            print_json({"run": str(run.path), "complete": False})
        else:
            print_lines([f"The shard is in {run.path}, which is scored when all shards are there."])
    elif as_json:
        print_json(run.to_dict())
    else:
        show(run)


def show(run: Run) -> None:
    """Print a profile."""
    summary = run.summary
    accuracy = summary["accuracy"]
    show_selectivity(run)
    lines = network_lines(run)
    if accuracy is None:
        lines.append(
            "Accuracy: not defined, the model's outputs are not the classes of the data. --class-map FILE maps them, "
            "--head probe fits a new logit layer."
        )
    else:
        if "head" in summary:
            lines.append(_head(summary["head"]))
        lines.append(f"Accuracy on the {accuracy['split']} split: {_percent(accuracy)}.")
        profiled = accuracy.get("profiled", accuracy)
        if profiled["n_images"] > accuracy["n_images"]:
            lines.append(f"Accuracy on all images profiled: {_percent(profiled)}.")
    print_lines([*lines, f"Tables, figures and activations are in {run.path}."])


def _percent(accuracy: dict[str, Any]) -> str:
    estimate, low, high = (100 * accuracy[key] for key in ("accuracy", "low", "high"))
    shown = interval(estimate, low, high, ".1f")
    return f"{shown} % ({accuracy['n_images']} images)"


def _head(head: dict[str, Any]) -> str:
    train, held_out = head["train"], head["held_out"]
    return (
        f"Head: logistic regression on the {head['features']} inputs of {head['layer']}; "
        f"{train['accuracy']:.1%} on the {train['n_images']} images it was fitted on, held out: {_percent(held_out)}."
    )
