"""Figures of geometry hold what the tables hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from auditor.errors import DataError
from auditor.report import geometry
from auditor.report.geometry_alphas import Panel, by_layer, distances_by_alpha

SITES = ["layer1.0.relu@1", "layer1.0.relu@2", "layer2.0.relu@1"]


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))]
    return "\n".join(found)


def offsets(figure: Figure) -> list[list[float]]:
    return [line.get_xdata().tolist() for line in figure.axes[0].get_lines() if line.get_marker() in ("o", "s", "D")]


def with_ends(row: dict[str, object], **values: float) -> dict[str, object]:
    for name, value in values.items():
        row |= {name: value, f"{name}_low": value * 0.9, f"{name}_high": value * 1.1}
    return row


def conditions() -> pd.DataFrame:
    rows = []
    for place, site in enumerate(SITES):
        for number, (condition, corruption) in enumerate(
            [("clean", "none"), ("corrupted", "blur"), ("corrupted", "all"), ("adversarial", "none"),
             ("corrupted - clean", "all"), ("adversarial - clean", "none"), ("clean, whole split", "none")]
        ):  # fmt: skip
            row = {"site": site, "condition": condition, "corruption": corruption, "n_images": 60}
            rows.append(with_ends(row, participation_ratio=1.0 + place + number, components_95=3.0 + place))
    return pd.DataFrame(rows)


def test_dimensionality_draws_each_condition_once() -> None:
    figure = geometry.dimensionality(conditions())
    assert len(figure.axes) == 4
    assert offsets(figure) == [[1, 2, 3], [3, 4, 5], [4, 5, 6]]  # clean, mean of corruptions, adversarial
    assert "60 images" in texts(figure)
    assert "mean over corruptions" in texts(figure)


def test_dimensionality_without_perturbations_has_two_panels() -> None:
    table = conditions().query("condition == 'clean'")
    figure = geometry.dimensionality(table)
    assert len(figure.axes) == 2
    assert "mean over corruptions" not in texts(figure)


def rotations() -> pd.DataFrame:
    rows = [
        with_ends({"site": site, "random": 0.3, "null_mean": -0.02, "null_highest": 0.01}, aligned=0.1, rotated=0.4)
        for site in SITES
    ]
    return pd.DataFrame(rows)


def test_rotation_shows_the_null_and_dead_layers_leave_gaps() -> None:
    table = rotations()
    table.loc[1, table.columns != "site"] = np.nan
    figure = geometry.rotation(table)
    drawn = [line for line in figure.axes[0].get_lines() if line.get_marker() == "|"]
    np.testing.assert_allclose(drawn[0].get_xdata(), [-0.02, np.nan, -0.02])
    assert figure.axes[0].get_xlim()[0] < -0.02
    assert "labels shuffled" in texts(figure)


def test_gradients_and_probes() -> None:
    table = pd.DataFrame([with_ends({"site": site, "n_images": 12}, cv_images=0.5, cv_units=0.7) for site in SITES])
    assert "12 images" in texts(geometry.gradients(table))
    probes = pd.DataFrame(
        [
            {"site": s, "accuracy": 0.8, "low": 0.7, "high": 0.9, "chance": 0.1, "n_train": 50, "n_test": 40}
            for s in SITES
        ]
    )
    figure = geometry.probes(probes)
    assert "50 images of the select split, tested on 40" in texts(figure)
    assert offsets(figure) == [[0.8, 0.8, 0.8]]


def by_alpha(alphas: tuple[float, ...], n_seeds: int) -> pd.DataFrame:
    rows = [
        with_ends({"site": site, "alpha": alpha, "n_seeds": n_seeds, "floor": 0.02}, value=1.0 + place + alpha / 10)
        for alpha in alphas
        for place, site in enumerate(SITES)
    ]
    return pd.DataFrame(rows)


def test_lines_by_alpha_with_floor_and_cut_intervals() -> None:
    table = by_alpha((-2.0, 0.0, 2.0), 3)
    table.loc[0, "value_high"] = 1000.0
    figure = by_layer([Panel(table, "value", "SI", "floor")])
    assert figure.axes[0].get_ylim()[1] < 10
    assert "Bars that leave a panel are cut" in texts(figure)
    assert "over seeds" in texts(figure)
    assert "labels shuffled" in texts(figure)


def test_one_seed_has_no_interval_and_the_caption_says_so() -> None:
    table = by_alpha((-1.0, 0.0), 1)
    table[["value_low", "value_high"]] = np.nan
    assert "no interval over trainings" in texts(by_layer([Panel(table, "value", "SI")]))


def test_panels_of_a_row_can_share_their_scale() -> None:
    table = by_alpha((-1.0, 0.0), 2)
    larger = table.assign(value=5 * table["value"])
    figure = by_layer([Panel(table, "value", "a"), Panel(larger, "value", "b")], share=True)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def pairs() -> pd.DataFrame:
    rows = [
        {"relation": "from alpha 0", "reference": f"c{seed}", "run": f"{alpha}-{seed}", "alpha": alpha, "site": site,
         "cka": 0.3 + seed / 100 + place / 10}
        for alpha in (-1.0, 1.0) for seed in (0, 1) for place, site in enumerate(SITES)
    ]  # fmt: skip
    rows += [
        {"relation": "seed to seed", "reference": "c0", "run": "c1", "alpha": 0.0, "site": site, "cka": 0.1}
        for site in SITES
    ]
    return pd.DataFrame(rows)


def test_distances_are_means_over_layers_against_seed_to_seed() -> None:
    figure = distances_by_alpha(pairs(), {"cka": "linear CKA"})
    dots = [line.get_ydata().tolist() for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(dots[0], [0.4, 0.41])
    np.testing.assert_allclose(dots[1], [0.405])
    assert "seed to seed (1 pair)" in texts(figure)
    with pytest.raises(DataError, match="alpha 0"):
        distances_by_alpha(pairs().query("relation == 'seed to seed'"), {"cka": "linear CKA"})


def test_distances_of_given_runs_have_no_interval() -> None:
    figure = geometry.distances(pairs(), {"cka": "linear CKA"})
    assert "no interval" in texts(figure)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(DataError, match="no layers"):
        geometry.rotation(rotations().head(0))
    with pytest.raises(DataError, match="no layers"):
        by_layer([])
