"""Figures of robustness: what is drawn, where, and how it is marked."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from auditor.errors import DataError
from auditor.report.robustness import accuracy_against_strength, accuracy_by_corruption
from auditor.report.robustness_sweep import robustness_against_selectivity
from auditor.report.style import GREY

TYPES = [("gaussian_noise", "noise"), ("fog", "weather"), ("contrast", "digital"), ("gaussian_blur", "extra")]
EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def corruptions() -> pd.DataFrame:
    rows = [
        {"corruption": name, "group": group, "severity": s, "accuracy": 0.9 - 0.1 * s - 0.05 * k}
        for k, (name, group) in enumerate(TYPES)
        for s in range(1, 6)
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["accuracy"] - 0.03, high=table["accuracy"] + 0.03)


def curves(alphas: tuple[float, ...], *, failed: tuple[float, ...] = ()) -> pd.DataFrame:
    rows = [
        {
            "alpha": a, "epsilon": e, "accuracy": 0.9 / (1 + e * (0.3 + 0.02 * max(a, -10))), "clean": 0.92,
            "failed": a in failed,
        }
        for a in alphas
        for e in EPSILONS
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(low=table["accuracy"] - 0.02, high=table["accuracy"] + 0.02)


def networks() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    alphas = np.repeat([-20.0, -1.0, 0.0, 1.0, 20.0], 3)
    index, value = 0.3 + 0.01 * alphas + rng.normal(0, 0.01, 15), 0.6 - 0.01 * alphas
    clean = 0.9 + 0 * alphas
    table = pd.DataFrame({"alpha": alphas, "mean_si": index, "clean": clean, "value": value, "si_null": 0.05})
    for name, short in (("mean_si", "si"), ("clean", "clean"), ("value", "value")):
        table[f"{short}_low"], table[f"{short}_high"] = table[name] - 0.02, table[name] + 0.02
    return table.assign(failed=alphas == 20)


def flaws(figure: Figure) -> list[str]:
    """Tick labels that cover their neighbour, and texts that leave the page."""
    figure.savefig(io.BytesIO(), format="png")
    found = []
    for axes in figure.axes:
        for axis, limits, place in ((axes.xaxis, axes.get_xlim(), 0), (axes.yaxis, axes.get_ylim(), 1)):
            ticks = [
                tick.label1
                for tick in axis.get_major_ticks()
                if min(limits) <= tick.get_loc() <= max(limits) and tick.label1.get_visible()
            ]
            boxes = sorted((t.get_window_extent() for t in ticks if t.get_text()), key=lambda box: box.min[place])
            found += [
                f"ticks at {one.min}" for one, two in itertools.pairwise(boxes) if one.max[place] > two.min[place]
            ]
        tight = axes.get_tightbbox()
        if tight is not None and (tight.x0 < -1 or tight.x1 > figure.bbox.x1 + 1 or tight.y0 < -1):
            found.append("axes leave the page")
    for legend in figure.legends:
        box = legend.get_window_extent()
        found += ["legend covers the axes" for axes in figure.axes if axes.bbox.overlaps(box)]
        if box.x1 > figure.bbox.x1 + 1 or box.y0 < -1:
            found.append("legend leaves the page")
    return found


def test_types_have_rows_and_severities_shades() -> None:
    table = corruptions()
    means = table.groupby("corruption", sort=False, as_index=False)[["accuracy", "low", "high"]].mean()
    figure = accuracy_by_corruption(table, means, clean=(0.93, 0.9, 0.95), chance=0.1, confidence=0.9)
    (axes,) = figure.axes
    assert "90 % interval" in axes.get_xlabel()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gaussian noise", "fog", "contrast",
                                                                      "gaussian blur"]  # fmt: skip
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(dots) == 5
    assert len({to_hex(line.get_color()) for line in dots}) == 5
    np.testing.assert_allclose(dots[4].get_xdata(), table[table["severity"] == 5]["accuracy"])
    assert axes.get_xlim()[0] <= 0.1
    assert not flaws(figure)


def test_one_corruption_at_one_severity_can_be_drawn() -> None:
    table = corruptions().head(1)
    assert not flaws(accuracy_by_corruption(table, table, clean=(0.9, 0.85, 0.94), chance=0.1))


def test_alphas_have_lines_and_a_failed_check_hollow_marks() -> None:
    alphas = (-20.0, -5.0, -1.0, -0.1, 0.0, 0.1, 1.0, 5.0, 20.0)
    table = curves(alphas, failed=(20.0,))
    figure = accuracy_against_strength({"FGSM": table, "PGD, 10 steps": table}, x="epsilon", chance=0.1, note="Bands.")
    left, right = figure.axes
    lines = [line for line in left.lines if len(line.get_xdata()) == len(EPSILONS)]
    assert len(lines) == len(alphas)
    hollow = [line for line in lines if to_hex(str(line.get_markerfacecolor())) == "#ffffff"]
    assert len(hollow) == 1
    assert to_hex(lines[alphas.index(0.0)].get_color()) == GREY.lower()
    assert left.get_xscale() == "log"
    assert [label.get_text() for label in right.get_xticklabels()] == [f"{e:g}" for e in EPSILONS]
    assert "failed" in " ".join(t.get_text() for t in figure.legends[0].get_texts())
    assert not flaws(figure)


def test_single_network_and_missing_bands_can_be_drawn() -> None:
    table = curves((0.0,)).assign(alpha=np.nan, steps=np.arange(1, 8) * 4, low=np.nan, high=np.nan)
    figure = accuracy_against_strength({"PGD": table}, x="steps", chance=0.1)
    assert len(figure.axes[0].collections) == 0
    assert not flaws(figure)


def test_dots_lie_at_selectivity_and_at_clean_accuracy() -> None:
    table = networks()
    figure = robustness_against_selectivity(table, label="accuracy under PGD at 2/255", chance=0.1, note="rho 0.5")
    left, right = figure.axes
    for axes, name in ((left, "mean_si"), (right, "clean")):
        drawn = np.concatenate([np.asarray(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"])
        np.testing.assert_allclose(np.sort(drawn), np.sort(table[name]))
    assert not flaws(figure)


def test_empty_tables_are_refused() -> None:
    empty = pd.DataFrame()
    with pytest.raises(DataError):
        accuracy_by_corruption(empty, empty, clean=(1, 1, 1), chance=0.1)
    with pytest.raises(DataError):
        accuracy_against_strength({"FGSM": empty}, x="epsilon", chance=0.1)
    with pytest.raises(DataError):
        robustness_against_selectivity(empty, label="", chance=0.1)
