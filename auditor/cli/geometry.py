"""``auditor geometry``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from auditor.cli.console import interval, print_json, print_lines, print_table, reporter
from auditor.cli.options import Numbers, execution_options, output_options, run_option, runs_option, seed_option

if TYPE_CHECKING:
    from auditor.api.geometry import Geometry


@click.command("geometry")
@run_option
@runs_option
@click.option("--sweep", "sweep_name", metavar="DIR", help="Measure all networks of a sweep instead of a run.")
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="RUN",
    help="Another run of the same data to compare with; may be repeated.",
)
@click.option(
    "--parts",
    metavar="A,B",
    help="Of dimensionality, gradients, rotation, probes, similarity.  [default: all; similarity needs "
    "--sweep or --with]",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="Names or globs of the run's layers, or re:REGEX; may be repeated.  [default: all]",
)
@click.option(
    "--images",
    "n_images",
    default=1000,
    show_default=True,
    metavar="N",
    help="Images of a split, stratified, for dimensionality and rotations.",
)
@click.option("--corruptions", metavar="A,B", help="Of the corrupted condition, or none.  [default: the built-in five]")
@click.option("--severity", default=3, show_default=True, help="Of the corruptions, 1 to 5.")
@click.option(
    "--epsilon",
    type=Numbers(1),
    default="2/255",
    show_default=True,
    help="Largest change of a pixel in [0, 1] by the attack (PGD).",
)
@click.option("--attack-steps", default=10, show_default=True, help="Steps of the attack, each of epsilon / 4.")
@click.option("--units", default=32, show_default=True, metavar="K", help="Units of a layer whose gradient is taken.")
@click.option("--gradient-images", default=128, show_default=True, metavar="N", help="Images for the gradients.")
@click.option("--starts", default=4, show_default=True, help="Starts of the search for a rotation.")
@click.option(
    "--shuffles", type=int, help="Searches with shuffled labels.  [default: 19 for one network, 4 for several]"
)
@click.option(
    "--probe-images",
    default=5000,
    show_default=True,
    metavar="N",
    help="Most images to fit a linear probe on, and to test it on.",
)
@click.option(
    "--similarity-images",
    default=10_000,
    show_default=True,
    metavar="N",
    help="Most images on which networks are compared.",
)
@seed_option
@execution_options(64)
@output_options
def command(
    *,
    run_name: str | None,
    runs: str,
    sweep_name: str | None,
    others: tuple[str, ...],
    parts: str | None,
    layers: tuple[str, ...],
    corruptions: str | None,
    epsilon: tuple[float],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure the geometry of a run's layers, or of all networks of a sweep.

    Dimensionality for clean, corrupted and attacked images; variability of the input-unit gradient; the selectivity
    that a rotation of a layer finds; linear probes; and distances between networks. With a sweep: whether selectivity
    is gone or only rotated, by alpha.
    """
    from auditor.api.geometry import geometry
    from auditor.api.run import Run
    from auditor.api.sweep import Sweep

    if sweep_name is not None and run_name is not None:
        raise click.UsageError("--run and --sweep exclude each other.")
    what = Run.open(run_name, runs=runs) if sweep_name is None else Sweep.open(sweep_name, runs=runs)
    result = geometry(
        what,
        parts=None if parts is None else _names(parts),
        layers=layers or None,
        others=[Run.open(name, runs=runs) for name in others],
        corruptions=None if corruptions is None else () if corruptions == "none" else _names(corruptions),
        epsilon=epsilon[0],
        reporter=reporter(quiet=quiet),
        **options,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        show(result)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def show(result: Geometry) -> None:
    """Print a geometry."""
    if result.is_sweep:
        _show_outcomes(result)
    else:
        _show_layers(result)
    print_lines([*result.summary().splitlines(), f"Tables and figures are in {result.path}."])


def _show_layers(result: Geometry) -> None:
    """One row per layer of the first network."""
    first = result.selectivity["run"].iloc[0]
    columns: list[tuple[str, dict[str, str]]] = []
    if "dimensionality" in result.parts:
        clean = result.dimensionality.query("condition == 'clean'")
        columns.append(("PR", _cells(clean, first, "participation_ratio", ".1f")))
    if "gradients" in result.parts:
        columns.append(("gradient CV", _cells(result.gradients, first, "cv_images", ".2f")))
    if "rotation" in result.parts:
        columns.append(("SI aligned", _cells(result.rotation, first, "aligned")))
        columns.append(("SI rotated", _cells(result.rotation, first, "rotated")))
    if "probes" in result.parts:
        named = result.probes.rename(columns={"low": "accuracy_low", "high": "accuracy_high"})
        columns.append(("probe, %", _cells(named, first, "accuracy", ".1f", 100)))
    if columns:
        sites = dict.fromkeys(site for _, cells in columns for site in cells)
        level = f"{100 * result.confidence:g}%"
        print_table(
            f"Geometry of {first} by layer, {level} intervals over images; PR: participation ratio",
            [("layer", "left"), *((name, "right") for name, _ in columns)],
            [(site, *(cells.get(site, "-") for _, cells in columns)) for site in sites],
        )


def _show_outcomes(result: Geometry) -> None:
    """One row per alpha."""
    outcomes = {float(row["alpha"]): row for row in result.outcomes.to_dict("records")}
    levels = result.by_alpha("selectivity").sort_values("alpha")
    print_table(
        f"Networks by alpha; {100 * result.confidence:g}% intervals over seeds; left: share of alpha 0's held-out SI",
        [("alpha", "left"), *((h, "right") for h in
         ("seeds", "mean SI", "left on units' axes, %", "left on best axes, %", "selectivity is"))],
        [
            (
                f"{row['alpha']:g}",
                str(row["n_seeds"]),
                _cell(row, "mean_index"),
                _cell(outcomes.get(row["alpha"], {}), "aligned_kept", ".0f", 100),
                _cell(outcomes.get(row["alpha"], {}), "rotated_kept", ".0f", 100),
                str(outcomes.get(row["alpha"], {}).get("outcome", "-")),
            )
            for row in levels.to_dict("records")
        ],
    )  # fmt: skip


def _cells(table: Any, run: str, name: str, form: str = ".3f", scale: float = 1) -> dict[str, str]:
    rows = table[table["run"] == run].to_dict("records")
    return {row["site"]: _cell(row, name, form, scale) for row in rows}


def _cell(row: dict[Any, Any], name: str, form: str = ".3f", scale: float = 1) -> str:
    if name not in row:
        return "-"
    value, low, high = (scale * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return interval(value, low, high, form)
