"""``auditor plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import print_json, print_lines, print_table, reporter
from auditor.cli.options import (
    GroupedCommand,
    Numbers,
    in_group,
    limit_option,
    output_options,
    preprocessing_options,
    runs_option,
    seed_option,
)

if TYPE_CHECKING:
    from auditor.api.plan_result import Plan

_PROFILED = ("model", "checkpoint", "data", "root", "layers", "metrics", "shuffles", "bootstraps", "fractions", "limit",
             "store", "store_dtype", "input_size", "crop_pct", "interpolation", "mean", "std")  # fmt: skip


@click.command("plan", cls=GroupedCommand)
@in_group(
    "What is planned",
    click.option("--job", "jobs", multiple=True, type=click.Choice(["profile", "ablate", "finetune"]),
                 help="May be repeated.  [default: all three; with --run, ablate and finetune]"),
    click.option("--devices", default=1, show_default=True, help="Processes or GPUs that divide the work."),
    click.option("--images", type=int, metavar="N", help="Plan for N images in all, divided as those at hand are."),
    click.option("--units", type=int, metavar="N", help="Plan for N units alone, over the same layers."),
    click.option("--seconds", default=5.0, show_default=True, help="About how long to calibrate, beside one start."),
)  # fmt: skip
@in_group(
    "Network and data",
    click.option("--run", "run_name", metavar="NAME", help="Plan for a finished run.  [default: a new profile]"),
    runs_option,
    click.option("--model", default="resnet18", show_default=True, metavar="NAME",
                 help="timm or torchvision name, or pkg.module:factory."),
    click.option("--checkpoint", metavar="FILE", help="Weights: safetensors or a PyTorch state dict.  [default: "
                 "random; those of the embedded digits if they are there]"),
    click.option("--data", default="digits", show_default=True, metavar="WHAT",
                 help="digits, a folder, FILE.npz, torchvision:NAME, or pkg.module:factory."),
    click.option("--root", metavar="DIR", help="Where a data set that is known by its name lies."),
    click.option("--layers", multiple=True, metavar="PATTERN", help="May be repeated.  [default: activations]"),
    click.option("--fractions", type=Numbers(3), default="0.5,0.25,0.25", show_default=True, metavar="T,S,S",
                 help="Shares of the train, select and score splits."),
    limit_option,
    preprocessing_options,
)  # fmt: skip
@in_group(
    "Profile",
    click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Beside the index, or `all`."),
    click.option("--shuffles", default=1000, show_default=True, help="Label shuffles of the null."),
    click.option("--bootstraps", default=1000, show_default=True, help="Resamples of the intervals."),
    click.option("--store", default="pooled", show_default=True, metavar="WHAT", help="pooled, full or none."),
    click.option("--store-dtype", default="float32", show_default=True, metavar="TYPE", help="float32 or float16."),
)  # fmt: skip
@in_group(
    "Ablation",
    click.option("--top-selective", default=100, show_default=True, metavar="K", help="How many units."),
    click.option("--all", "all_units", is_flag=True, help="Every unit of the network alone."),
    click.option("--random-sets", default=100, show_default=True, help="Matched random sets; at least 100."),
    click.option("--random-orders", default=5, show_default=True, help="Random orders of the curve."),
    click.option("--curve-points", default=8, show_default=True, help="Points of the curve."),
    click.option("--keep-only", is_flag=True, help="Curves along which all other units are silenced, too."),
    click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16 or float16."),
    click.option("--memory", type=float, metavar="GIB", help="For a batch.  [default: 2, or 60 % of a GPU's]"),
    click.option("--check", default=4, show_default=True, metavar="N", help="Units that are compared with Captum."),
)
@in_group("Fine-tune", click.option("--epochs", default=10, show_default=True, help="Passes over the train split."))
@in_group(
    "Machine",
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    click.option("--batch-size", type=int, help="Images per batch of every job.  [default: each command's own]"),
    click.option("--workers", type=int, help="Loader processes."),
    seed_option,
    output_options,
)
@click.pass_context
def command(
    context: click.Context, /, *, run_name: str | None, runs: str, as_json: bool, quiet: bool, **options: Any
) -> None:
    """What a profile, an ablation and a fine-tune will take, before anything is spent.

    Units, operations and bytes are counted; the time of each command is estimated from a few seconds of its own work
    on this machine, and divided among --devices where it divides. Nothing is downloaded, trained or kept.
    """
    from auditor.api.plan import JOBS, plan
    from auditor.api.run import Run

    options["layers"] = list(options["layers"]) or "activations"
    run = None
    if run_name is not None:
        named = [name for name in _PROFILED
                 if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]  # fmt: skip
        if named:
            option = next(p.opts[0] for p in context.command.params if p.name == named[0])
            raise click.UsageError(f"{option} belongs to a new profile, and --run names one that is there.", context)
        run = Run.open(run_name, runs=runs)
    options["jobs"] = options["jobs"] or (JOBS if run is None else JOBS[1:])
    found = plan(run=run, reporter=reporter(quiet=quiet), **options)
    if as_json:
        print_json(found.to_dict())
    else:
        show(found)


def show(found: Plan) -> None:
    """Print a plan."""
    from auditor.api.plan_result import duration, shown, time_text
    from auditor.store.space import format_bytes

    print_table(
        f"Layers of {found.about['model']}",
        [("site", "left"), ("units", "right"), ("output", "right"), ("operations after it, an image", "right"),
         ("share of a pass", "right")],
        [
            (row["site"], f"{row['n_units']:,}", row["shape"], shown(row["operations_after"]),
             f"{row['share_after']:.0%}")
            for row in found.layers.to_dict("records")
        ],
    )  # fmt: skip
    print_table(
        "What each command takes on one device; times are estimates with a range, all else is counted",
        [("command", "left"), ("part", "left"), ("grows with", "left"), ("operations", "right"), ("time", "right"),
         ("disk", "right"), ("memory", "right"), ("divides", "left")],
        [
            (
                part.job, part.part, part.scales, "-" if part.operations is None else shown(part.operations),
                time_text(part.span), format_bytes(part.disk) if part.disk else "-",
                format_bytes(part.memory) if part.memory else "-", "yes" if part.parallel else "no",
            )
            for part in found.parts
        ],
    )  # fmt: skip
    numbers = sorted({1, 2, found.devices} if found.devices > 1 else {1, 2, 8})
    print_table(
        "Wall time of each command by number of devices",
        [("command", "left"), ("does not divide", "right"), ("divides", "right"),
         *((f"{n} device{'' if n == 1 else 's'}", "right") for n in numbers), ("at most faster by", "right")],
        [
            (
                row["job"], duration(row["serial"]), duration(row["parallel"]),
                *(time_text(found.seconds(None if row["job"] == "all" else row["job"], devices=n)) for n in numbers),
                "-" if row["limit"] != row["limit"] else f"{row['limit']:.3g} x",
            )
            for row in found.totals().to_dict("records")
        ],
    )  # fmt: skip
    about = found.about
    print_lines(
        [
            f"{about['units']:,} units in {len(found.layers)} sites; an image takes {shown(about['operations'])} "
            f"operations, two for each multiply-add. Images: "
            + ", ".join(f"{n:,} {split}" for split, n in about["images"].items()) + ".",
            f"Calibrated in {about['calibrated_seconds']:.0f} s on {about['device']}, {about['threads']} threads. The "
            "range is that of the repeats and 15 % more, and assumes that devices are as fast as this one and that "
            "sending takes no time.",
            *found.notes,
        ]
    )  # fmt: skip
