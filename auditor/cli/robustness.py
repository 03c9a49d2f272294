"""``auditor robustness``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, print_json, print_lines, print_table, reporter
from auditor.cli.options import Numbers, execution_options, output_options, run_option, runs_option, seed_option

if TYPE_CHECKING:
    import pandas as pd

    from auditor.api.robustness import Robustness

MANY = tuple(range(1, 100))


class _Names(click.ParamType[str | list[str]]):
    """Names, separated by commas; ``all`` and ``none`` stay as they are."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | list[str]:
        """Split."""
        if not isinstance(value, str) or value in ("all", "none"):
            return value  # type: ignore[no-any-return]
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names:
            self.fail(f"{value!r} holds no name; none asks for none.", param, ctx)
        return names


@click.command("robustness")
@run_option
@runs_option
@click.option("--sweep", "sweep_name", metavar="DIR", help="All networks of a sweep, by its name or path.")
@click.option("--corruptions", default="all", show_default=True, metavar="A,B", type=_Names(),
              help="Names, all that are installed, or none.")  # fmt: skip
@click.option("--severities", type=Numbers(1, 2, 3, 4, 5), default="1,2,3,4,5", show_default=True, metavar="S,S",
              help="Of the corruptions, 1 to 5.")  # fmt: skip
@click.option("--attacks", default="fgsm,pgd", show_default=True, metavar="A,B", type=_Names(),
              help="fgsm, pgd, all or none.")  # fmt: skip
@click.option("--epsilons", type=Numbers(*MANY), default="0.25,0.5,1,2,4,8,16", show_default=True, metavar="E,E",
              help="Radii in the maximum norm, in 255ths of the range of pixels.")  # fmt: skip
@click.option("--steps", type=Numbers(*MANY), default="1,5,10,20,40", show_default=True, metavar="N,N",
              help="Steps of PGD, at --step-epsilon.")  # fmt: skip
@click.option("--pgd-steps", default=10, show_default=True, metavar="N", help="Steps of PGD at every other radius.")
@click.option("--step-epsilon", default=2.0, show_default=True, metavar="E", help="Radius of the grid of steps.")
@click.option("--jacobian/--no-jacobian", default=True, show_default=True, help="Norm of the input-output Jacobian.")
@click.option("--images", "n_images", default=1000, show_default=True, metavar="N",
              help="At most N images of the score split, stratified.")  # fmt: skip
@click.option("--corrupted", "stored", metavar="DIR",
              help="Read corrupted images (as CIFAR-10-C or ImageNet-C) in place of making them.")  # fmt: skip
@click.option("--reference", metavar="RUN", help="Run in units of whose errors the mean corruption error is given.")
@click.option("--transfer-from", metavar="RUN", help="Run on which examples are made for the transfer check.")
@seed_option
@execution_options(128)
@output_options
def command(
    *, run_name: str | None, runs: str, sweep_name: str | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Accuracy under natural corruptions and white-box attacks, of a run or of all networks of a sweep.

    On pixels at the network's input size, on the score split. Attacks are checked for masked gradients; a network that
    fails a check is marked, because its robustness is not established.
    """
    from auditor.api.robustness import robustness
    from auditor.api.run import Run

    for name in ("severities", "steps"):
        options[name] = _whole(options[name], name)
    what: Any
    if sweep_name is not None:
        if run_name is not None:
            raise click.UsageError("--run and --sweep exclude each other.")
        from auditor.api.sweep import Sweep

        what = Sweep.open(sweep_name, runs=runs)
    else:
        what = Run.open(run_name, runs=runs)
    for name in ("reference", "transfer_from"):
        if options[name] is not None:
            options[name] = Run.open(options[name], runs=runs)
    result = robustness(what, reporter=reporter(quiet=quiet), **options)
    if as_json:
        print_json(result.to_dict())
    else:
        show(result)


def show(result: Robustness) -> None:
    """Print what was found."""
    if result.is_sweep:
        _show_sweep(result)
    else:
        _show_run(result)
    print_lines([result.summary(), f"Tables and figures are in {result.path}."])


def _show_run(result: Robustness) -> None:
    level = f"{100 * result.notes['settings']['confidence']:g}%"
    if not result.by_type.empty:
        error = "corruption_error" in result.by_type
        print_table(
            "Accuracy under corruptions, mean over severities",
            [("corruption", "left"), ("group", "left"), (f"accuracy, % [{level}]", "right"),
             (f"relative to clean [{level}]", "right"), *([("corruption error", "right")] if error else [])],
            [
                (
                    row["corruption"], row["group"],
                    interval(100 * row["accuracy"], 100 * row["low"], 100 * row["high"], ".1f"),
                    interval(row["relative"], row["relative_low"], row["relative_high"]),
                    *([_of(row, "corruption_error", ".2f")] if error else []),
                )
                for row in result.by_type.to_dict("records")
            ],
        )  # fmt: skip
    if not result.attacks.empty:
        failed = "masking" in result.overall and result.overall["masking"].iloc[0] == "failed"
        print_table(
            "Accuracy under attack" + (" (MASKING CHECK FAILED: robustness is not established)" if failed else ""),
            [("attack", "left"), ("epsilon, /255", "right"), ("steps", "right"), (f"accuracy, % [{level}]", "right"),
             (f"relative to clean [{level}]", "right")],
            [
                (
                    row["attack"].upper(), f"{row['epsilon']:g}", str(int(row["steps"])),
                    interval(100 * row["accuracy"], 100 * row["low"], 100 * row["high"], ".1f"),
                    interval(row["relative"], row["relative_low"], row["relative_high"]),
                )
                for row in result.attacks.to_dict("records")
            ],
        )  # fmt: skip
        _show_checks(result)


def _show_checks(result: Robustness) -> None:
    print_table(
        "Checks for masked gradients",
        [("check", "left"), ("outcome", "left"), ("change, points", "right"), ("what decided", "left")],
        [
            (
                row["check"], row["outcome"],
                interval(100 * row["change"], 100 * row["low"], 100 * row["high"], "+.1f"), row["detail"],
            )
            for row in result.masking.to_dict("records")
        ],
    )  # fmt: skip


def _show_sweep(result: Robustness) -> None:
    from auditor.api.robustness_words import measure_name

    level = f"{100 * result.notes['settings']['confidence']:g}%"
    table, overall = result.alphas, result.overall
    failed: dict[Any, int] = {}
    for row in overall.to_dict("records") if "masking" in overall else ():
        failed[row["alpha"]] = failed.get(row["alpha"], 0) + (row["masking"] == "failed")
    for measure, mine in table[table["measure"] != "jacobian"].groupby("measure", sort=False):
        attack = "@" in str(measure)
        if attack and float(str(measure).partition("@")[2]) != result.notes["settings"]["step_epsilon"]:
            continue  # all radii are in alphas.csv and in the figure
        print_table(
            f"{measure_name(str(measure)).capitalize()}".replace("fgsm", "FGSM").replace("pgd", "PGD") + " by alpha",
            [("alpha", "right"), ("networks", "right"), (f"mean, % [{level}]", "right"),
             (f"change from alpha 0, points [{level}]", "right"), ("over", "left"), ("q", "right"),
             *([("masking", "left")] if attack else [])],
            [
                (
                    f"{row['alpha']:g}", str(int(row["n_seeds"])), _of(row, "mean", ".1f", 100),
                    _of(row, "difference", "+.1f", 100), row["over"] or "-",
                    "-" if row["q"] != row["q"] else f"{row['q']:.2g}",
                    *([_verdict(failed[row["alpha"]], int(row["n_seeds"]))] if attack else []),
                )
                for row in mine.to_dict("records")
            ],
        )  # fmt: skip


def _verdict(failed: int, n: int) -> str:
    return f"{failed} of {n} failed" if failed else "ok"


def _of(row: dict[Any, Any] | pd.Series, name: str, form: str, scale: float = 1) -> str:
    return interval(scale * row[name], scale * row[f"{name}_low"], scale * row[f"{name}_high"], form)


def _whole(numbers: tuple[float, ...], name: str) -> tuple[int, ...]:
    if any(number != int(number) for number in numbers):
        raise click.UsageError(f"--{name} takes whole numbers.")
    return tuple(int(number) for number in numbers)
