"""``auditor audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import print_json, print_lines, print_table, reporter
from auditor.cli.options import (
    Numbers,
    execution_options,
    head_options,
    max_bad_option,
    model_options,
    output_options,
    preprocessing_options,
    runs_option,
    seed_option,
)

if TYPE_CHECKING:
    from auditor.api.audit_result import Audit

DECLARED = ("shares", "draws", "match", "measure", "edit", "engine", "dtype", "memory", "check")


@click.command("audit")
@click.option("--run", "run_name", metavar="NAME", help="Audit a run that is there.  [default: profile --model first]")
@model_options
@head_options
@preprocessing_options
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME",
    help="Selectivity metrics of the new profile; may be repeated.  [default: all]",
)  # fmt: skip
@click.option("--declaration", metavar="FILE", help="TOML file with the hypotheses, margins and settings.")
@click.option("--shares", type=Numbers(1, 2, 3, 4, 5, 6), metavar="S,S",
              help="Shares of the units that are silenced together.  [default: 0.01,0.025,0.05]")  # fmt: skip
@click.option("--draws", type=int, help="Matched random sets, at least 200.  [default: 200]")
@click.option("--match", multiple=True, metavar="WHAT",
              help="mean, firing_rate or output_norm; may be repeated.  [default: mean]")  # fmt: skip
@click.option("--measure", metavar="WHAT", help="Of set effects: accuracy or loss.  [default: accuracy]")
@click.option("--edit", metavar="EDIT", help="What replaces a response: zero, mean, resample, ...  [default: zero]")
@click.option("--intervene", is_flag=True, help="Also fine-tune with the regularizer, and test what that does.")
@click.option("--alphas", type=Numbers(1, 2, 3, 4, 5, 6), default="-1,1", show_default=True, metavar="A,A",
              help="Of --intervene; 0 is always among them.")  # fmt: skip
@click.option("--seeds", default=1, show_default=True, help="Networks of each alpha.")
@click.option("--epochs", default=10, show_default=True, help="Of each fine-tune.")
@click.option(
    "--fractions", type=Numbers(3), default="0.5,0.25,0.25", show_default=True, metavar="T,S,S",
    help="Shares of the train, select and score splits of the new profile.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the new run.  [default: from model, data and settings]")
@click.option("--score-limit", type=int, metavar="N", help="Ablate on at most N images, stratified.")
@click.option("--limit", type=int, metavar="N", help="Profile at most N images per split, stratified.")
@click.option("--engine", metavar="NAME", help="exact, captum or hooks.  [default: exact]")
@click.option("--dtype", metavar="TYPE", help="float32, bfloat16 or float16.  [default: float32]")
@click.option("--memory", type=float, metavar="GIB", help="For a batch.  [default: 2, or 60 % of a GPU's]")
@click.option("--check", type=int, metavar="N", help="Compare N random units with Captum; 0 for none.  [default: 4]")
@max_bad_option
@runs_option
@seed_option
@execution_options(512)
@output_options
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    run_name: str | None,
    runs: str,
    declaration: str | None,
    as_json: bool,
    quiet: bool,
    intervene: bool,
    alphas: tuple[float, ...],
    seeds: int,
    epochs: int,
    score_limit: int | None,
    device: str,
    batch_size: int,
    workers: int | None,
    seed: int,
    **options: Any,
) -> None:
    """Test whether the neurons that are easy to interpret are causally important, and write the report.

    Profiles the model unless a run is named, writes down every hypothesis with its margin, silences every unit alone
    and the most selective ones together, and ends in a verdict on each hypothesis: supported, refuted or inconclusive.
    """
    from auditor.api.audit import audit
    from auditor.api.audit_settings import AuditSettings
    from auditor.api.run import Run

    changes = {name: options.pop(name) for name in DECLARED}
    changes = {name: value for name, value in changes.items() if value not in (None, ())}
    given = context.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT
    if given or declaration is None:
        changes["seed"] = seed
    if score_limit is not None:
        changes["limit"] = score_limit
    settings = (
        AuditSettings(**changes) if declaration is None else AuditSettings.from_toml(Path(declaration), **changes)
    )
    arms: dict[str, Any] = {"intervene": intervene, "alphas": alphas, "seeds": seeds, "epochs": epochs}
    where: dict[str, Any] = {"device": device, "batch_size": batch_size, "workers": workers}
    common = {"settings": settings, **where, **arms}
    if run_name is not None:
        _refuse_profile_options(context)
        result = audit(Run.open(run_name, runs=runs), reporter=reporter(quiet=quiet), **common)
    else:
        options["layers"] = list(options["layers"]) or "activations"
        options["metrics"] = options["metrics"] or ("all",)
        result = audit(options.pop("model"), runs=runs, seed=seed, reporter=reporter(quiet=quiet), **common, **options)
    if as_json:
        print_json(result.to_dict())
    else:
        show(result)


def show(result: Audit) -> None:
    """Print an audit."""
    from auditor.api.audit_result import REPORT
    from auditor.api.findings import effect_text

    confidence = f"{100 * result.confidence:g}%"
    print_table(
        f"Verdicts on {result.run.name}",
        [("hypothesis", "left"), ("verdict", "left"), (f"effect [{confidence}]", "left"), ("margin", "right"),
         ("p", "right")],
        [
            (
                verdict.title,
                str(verdict.outcome),
                effect_text(verdict),
                f"{verdict.margin:g}",
                "-" if verdict.p is None or verdict.p != verdict.p else f"{verdict.p:.2g}",
            )
            for verdict in result.verdicts
        ],
    )  # fmt: skip
    lines = [f"{verdict.title}: {verdict.sentence}" for verdict in result.verdicts]
    print_lines(
        [*lines, "", result.answer, "", f"Report: {result.run.path / REPORT}", f"Tables and figures: {result.path}"]
    )


def _refuse_profile_options(context: click.Context) -> None:
    """Say that options of a new profile have no place beside a run."""
    mine = {"model", "weights", "checkpoint", "data", "root", "layers", "metrics", "limit", "class_map", "head",
            "output_names", "restrict_outputs", "input_size", "crop_pct", "interpolation", "mean", "std",
            "max_bad", "fractions", "name"}  # fmt: skip
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE
        if given and option.name in mine:
            raise click.UsageError(
                f"{option.opts[0]} belongs to a new profile, and --run names one that is there.", context
            )
