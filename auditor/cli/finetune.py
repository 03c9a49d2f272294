"""``auditor finetune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.compare import show as show_comparison
from auditor.cli.console import print_json, print_lines, reporter
from auditor.cli.options import (
    GroupedCommand,
    Numbers,
    head_options,
    in_group,
    model_options,
    output_options,
    preprocessing_options,
    runs_option,
    training_options,
)

if TYPE_CHECKING:
    from auditor.api.run import Run
    from auditor.progress import Reporter


_NEW = ("model", "weights", "checkpoint", "data", "root", "layers", "class_map", "head", "output_names",
        "restrict_outputs", "input_size", "crop_pct", "interpolation", "mean", "std", "fractions")  # fmt: skip


@click.command("finetune", cls=GroupedCommand)
@in_group(
    "Experiment",
    click.option("--alpha", type=float, required=True,
                 help="Weight in CE - alpha * SI; negative discourages selectivity."),
    click.option("--seed", default=0, show_default=True, help="Of the training; a profile made first has seed 0."),
    click.option("--name", metavar="NAME", help="Name of the new run.  [default: from parent, alpha and settings]"),
)  # fmt: skip
@in_group(
    "Start",
    click.option("--run", "run_name", metavar="NAME", help="Run to start from.  [default: latest not fine-tuned one]"),
    runs_option,
)
@in_group(
    "Start from a network that has no run yet: it is profiled first",
    model_options,
    head_options,
    preprocessing_options,
    click.option(
        "--fractions", type=Numbers(3), default="0.5,0.25,0.25", show_default=True, metavar="T,S,S",
        help="Shares of the train, select and score splits.",
    ),
)  # fmt: skip
@training_options
@output_options
@click.pass_context
def command(
    context: click.Context, /, *, run_name: str | None, runs: str, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Train a run's network on with the selectivity regularizer, profile the result and compare.

    Before against after also holds the effect of training on: `--alpha 0` is the control, and
    `auditor compare` puts several runs side by side.
    """
    from auditor.api.finetune import finetune
    from auditor.api.run import Run

    network = {name: given.pop(name) for name in _NEW}
    named = [name for name in _NEW if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    shown = reporter(quiet=quiet)
    if run_name is not None and named:
        option = next(p.opts[0] for p in context.command.params if p.name == named[0])
        message = f"{option} begins with a new profile, and --run names one that is there."
        raise click.UsageError(message, context)
    if named:
        start = _profile(network, given, runs, shown)
        given["limit"] = None  # the profile's data are limited already
    else:
        start = Run.open(run_name, runs=runs, original=True)
    tuned = finetune(start, reporter=shown, **given)
    if as_json:
        print_json(tuned.to_dict())
        return
    show_comparison(tuned.comparison)
    lines = [
        f"The tuned network's own run is {tuned.path}; weights in weights.safetensors.",
        "Intervals are over images. They say nothing of other trainings: repeat with other --seed values for that.",
    ]
    if given["alpha"] != 0:
        lines.append("Part of any change is due to training on: run `auditor finetune --alpha 0` for the control.")
    if given["signed"] == "rectify":
        lines.append("Signed layers were rectified for the regularizer only: their profile is by d' and AUC.")
    print_lines(lines)


def _profile(network: dict[str, Any], given: dict[str, Any], runs: str, shown: Reporter) -> Run:
    """Profile a network as `auditor profile` does by default, or find the run that it made."""
    from auditor.api.profile import profile

    settings = network | {"layers": list(network["layers"]) or "activations"}
    machine = {name: given[name] for name in ("device", "workers", "max_bad", "limit")}
    return profile(runs=runs, reporter=shown, **settings, **machine)
