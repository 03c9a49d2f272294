"""``auditor finetune``."""

from __future__ import annotations

from typing import Any

import click

from auditor.cli.compare import show as show_comparison
from auditor.cli.console import print_json, print_lines, reporter
from auditor.cli.options import limit_option, max_bad_option, output_options, runs_option, seed_option


@click.command("finetune")
@click.option("--alpha", type=float, required=True, help="Weight in CE - alpha * SI; negative discourages selectivity.")
@click.option("--run", "run_name", metavar="NAME", help="Run to start from.  [default: the latest one not fine-tuned]")
@runs_option
@click.option("--epochs", default=10, show_default=True, help="Passes over the train split.")
@click.option("--learning-rate", default=0.02, show_default=True, help="Peak rate; cosine to zero.")
@click.option("--optimizer", default="sgd", show_default=True, help="sgd or adamw.")
@click.option("--weight-decay", default=1e-4, show_default=True, help="Of weights; not of biases and norms.")
@click.option("--batch-size", default=64, show_default=True, help="Images per batch.")
@click.option("--balanced/--unbalanced", default=True, show_default=True, help="Equal classes in every batch.")
@click.option("--name", metavar="NAME", help="Name of the new run.  [default: from parent, alpha and settings]")
@limit_option
@max_bad_option
@seed_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--workers", type=int, help="Loader processes.  [default: 0 for small data, else up to 4]")
@output_options
def command(*, run_name: str | None, runs: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a run's network on with the selectivity regularizer, profile the result and compare.

    Before against after also holds the effect of training on: `--alpha 0` is the control, and
    `auditor compare` puts several runs side by side.
    """
    from auditor.api.finetune import finetune
    from auditor.api.run import Run

    tuned = finetune(Run.open(run_name, runs=runs, original=True), reporter=reporter(quiet=quiet), **options)
    if as_json:
        print_json(tuned.to_dict())
        return
    show_comparison(tuned.comparison)
    lines = [
        f"The tuned network's own run is {tuned.path}; weights in weights.safetensors.",
        "Intervals are over images. They say nothing of other trainings: repeat with other --seed values for that.",
    ]
    if options["alpha"] != 0:
        lines.append("Part of any change is due to training on: run `auditor finetune --alpha 0` for the control.")
    print_lines(lines)
