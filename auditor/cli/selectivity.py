"""Selectivity as a profile prints it: by the index, and by what stands in for it where responses are signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor.cli.console import interval, number, print_table

if TYPE_CHECKING:
    import pandas as pd

    from auditor.api.run import Run

TOP = 10
INDEX = "index"
# Two digits where the values are larger and columns more.
FORMS = {"dprime": ".2f"}
SHORT = {INDEX: "SI", "dprime": "d'", "auc": "AUC"}


def show_selectivity(run: Run) -> None:
    """Print the layers and the most selective units."""
    from auditor.api.selection import scored_by, signed_metrics

    judged, signed = run.layers["site"].map(scored_by(run.layers)), signed_metrics(run.layers)
    groups = [metrics for metrics in ((INDEX,), signed) if metrics and (judged == metrics[0]).any()]
    for metrics in groups:
        _layers(run, run.layers[judged == metrics[0]], metrics)
    for metrics in groups:
        _units(run, metrics, part=len(groups) > 1)


def network_lines(run: Run) -> list[str]:
    """Sentences on the network's means and on how many units are significant."""
    from auditor.api.selection import layers_with_signed

    summary = run.summary
    network, signed = summary["network"], summary["network"].get("signed")
    counted = f"{summary['significant']} of {summary['units']} units significant (q <= 0.05), {summary['dead']} dead."
    index = (
        f"mean SI {interval(network['mean_index'], network['low'], network['high'])}, "
        f"label-shuffle null {number(network['null_mean'])}, excess {number(network['excess'])}"
    )
    if signed is None:
        return [f"Network {index}; {counted}"]
    others = len(run.layers) - signed["sites"]
    found = [(name, value) for name, value in signed.items() if isinstance(value, dict)]
    means = "; ".join(
        f"mean {_short(name)} {interval(value['mean'], value['low'], value['high'])}"
        f"{' (without an interval)' if value['low'] is None else ''}, "
        f"null {number(value['null_mean'])}, excess {number(value['excess'])}"
        for name, value in found
    )
    which = layers_with_signed(signed["sites"]) if others else "Network"
    lines = [f"{layers_with_signed(others).replace('with', 'without')}: {index}."] if others else []
    return [
        *lines,
        f"{which}{':' if others else ''} {means}.",
        f"{summary['signed']} units have negative responses: SI is not defined for them, and layers that hold such "
        f"units are scored by {' and '.join(_short(name) for name, _ in found)}.",
        f"Significance by {'SI or, where responses are signed, ' if others else ''}{_short(found[0][0])}: {counted}",
    ]


def _layers(run: Run, layers: pd.DataFrame, metrics: Sequence[str]) -> None:
    first, *others = metrics
    title = "Class selectivity by layer" if first == INDEX else "Class selectivity by layer, signed responses"
    form = FORMS.get(first, ".3f")
    part = f"{len(layers)} of {len(run.layers)} layers, " if len(layers) < len(run.layers) else ""
    headers = ["units", "dead", "signed", f"mean {_short(first)} [{100 * run.confidence:g}%]", "null", "excess"]
    headers += [header for name in others for header in (_short(name), "null")]
    print_table(
        f"{title} ({part}{int(run.selectivity['n_images'].iloc[0])} images of the select split)",
        [("layer", "left"), *((header, "right") for header in (*headers, "significant"))],
        [
            (
                row["site"],
                str(row["n_units"]),
                str(row["dead"]),
                str(row["signed"]),
                interval(row[f"mean_{first}"], row[f"{first}_low"], row[f"{first}_high"], form),
                number(row[f"{first}_null_mean"], form),
                number(row[f"{first}_excess"], form),
                *(number(row[column]) for name in others for column in (f"mean_{name}", f"{name}_null_mean")),
                str(row["significant"]),
            )
            for row in layers.to_dict("records")
        ],
    )


def _units(run: Run, metrics: Sequence[str], *, part: bool) -> None:
    from auditor.api.selection import rank_units

    first, *others = metrics
    prefers, last = ("preferred", ["fires on"]) if first == INDEX else (f"{first}_preferred", [])
    top = rank_units(run.selectivity, run.layers, first).head(TOP)
    form = FORMS.get(first, ".3f")
    headers = [_header(run, first), "null", "excess", "q", "held-out SI" if first == INDEX else "held-out"]
    where = "" if not part else f" of layers with{'out' * (first == INDEX)} signed responses"
    print_table(
        f"The {min(TOP, len(top))} most selective units{where} "
        f"(by {'' if first == INDEX else _short(first) + ' in '}excess over the label-shuffle null)",
        [
            ("unit", "left"),
            ("prefers", "left"),
            *((header, "right") for header in (*headers, *(_header(run, name) for name in others), *last)),
        ],
        [
            (
                row["unit_id"],
                row[prefers],
                _interval(row, first, form),
                number(row[f"{first}_null"], form),
                number(row[f"{first}_excess"], form),
                number(row[f"{first}_q"], ".2g"),
                number(row.get(f"{first}_heldout"), form),
                *(_interval(row, name, ".2f") for name in others),
                *(f"{row['firing_rate']:.0%}" for _ in last),
            )
            for row in top.to_dict("records")
            if row[f"{first}_excess"] == row[f"{first}_excess"]
        ],
    )


def _header(run: Run, metric: str) -> str:
    return f"{_short(metric)} [{100 * run.confidence:g}%]"


def _interval(row: dict[Any, Any], metric: str, form: str) -> str:
    return interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], form)


def _short(metric: str) -> str:
    return SHORT.get(metric, metric)
