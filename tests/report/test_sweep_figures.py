"""The figures of a sweep, from ordinary and from awkward data."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from auditor.errors import DataError
from auditor.report.style import GREY, rendered, save
from auditor.report.sweep import accuracy_against_selectivity
from auditor.report.sweep_alphas import against_alpha
from auditor.report.sweep_colours import alpha_colours, alpha_text
from auditor.report.sweep_layers import layers_by_alpha

pytestmark = pytest.mark.filterwarnings("error")
NINE = (-20, -5, -2, -1, 0, 1, 2, 5, 20)


def networks(alphas=NINE, n_seeds=3):
    rng = np.random.default_rng(0)
    rows = []
    for alpha in alphas:
        for seed in range(n_seeds):
            si = (0.28 * np.exp(0.16 * alpha) if alpha <= 0 else 0.88 - 0.6 * np.exp(-0.18 * alpha)) + rng.normal(
                0, 0.005
            )
            accuracy = 0.905 - 0.02 * max(alpha, 0) ** 0.9 + rng.normal(0, 0.003)
            rows.append(
                {"alpha": float(alpha), "seed": seed, "accuracy": accuracy, "mean_index": si, "null_mean": 0.03}
            )
    table = pd.DataFrame(rows)
    for name, half in (("accuracy", 0.006), ("mean_index", 0.004)):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - half, table[name] + half
    return table


def alphas_of(table):
    names = ["accuracy", "mean_index", "null_mean"]
    names += [f"{name}{end}" for name in names[:2] for end in ("_low", "_high")]
    over = "seeds" if table["seed"].nunique() > 1 else "images"
    return table.groupby("alpha", as_index=False)[names].mean().assign(over=over)


def layers(alphas=NINE, n_sites=19, over="seeds"):
    rows = [(float(alpha), f"layer{i // 4}.{i % 4}.relu@2") for alpha in alphas for i in range(n_sites)]
    table = pd.DataFrame(rows, columns=["alpha", "site"]).assign(over=over, null_mean=0.03)
    table["mean_index"] = 0.3 + table["alpha"] / 100
    return table.assign(mean_index_low=table["mean_index"] - 0.02, mean_index_high=table["mean_index"] + 0.02)


def unmeasured():
    table = networks()
    table.loc[table["alpha"] == -20, ["mean_index", "mean_index_low", "mean_index_high", "null_mean"]] = np.nan
    return table


def gaps():
    table = layers()
    dead = (table["alpha"] == -20) & table["site"].str.startswith("layer2")
    table.loc[dead, ["mean_index", "mean_index_low", "mean_index_high", "null_mean"]] = np.nan
    return table


def signed_only():
    table = layers()
    table.loc[table["site"] == "layer1.1.relu@2", ["mean_index", "mean_index_low", "mean_index_high", "null_mean"]] = (
        np.nan
    )
    return table


SMALL = networks((-1, 0, 1), 1)
FIGURES = {
    "study": lambda: accuracy_against_selectivity(networks()),
    "study-small": lambda: accuracy_against_selectivity(SMALL),
    "study-one": lambda: accuracy_against_selectivity(SMALL[SMALL["alpha"] == 0]),
    "study-no-control": lambda: accuracy_against_selectivity(SMALL[SMALL["alpha"] != 0]),
    "study-unmeasured": lambda: accuracy_against_selectivity(unmeasured()),
    "alphas": lambda: against_alpha(alphas_of(networks()), networks()),
    "alphas-small": lambda: against_alpha(alphas_of(SMALL), SMALL),
    "alphas-unmeasured": lambda: against_alpha(alphas_of(unmeasured()), unmeasured()),
    "layers": lambda: layers_by_alpha(layers()),
    "layers-small": lambda: layers_by_alpha(layers((-1, 0, 1), 3, "images")),
    "layers-one": lambda: layers_by_alpha(layers((0,), 1)),
    "layers-gaps": lambda: layers_by_alpha(gaps()),
    "layers-signed": lambda: layers_by_alpha(signed_only()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_drawn_in_the_same_bytes_again(name):
    first, second = (rendered(FIGURES[name](), "svg", metadata={"Date": None}) for _ in range(2))
    assert first == second
    assert b"<svg" in first


def test_it_is_saved_for_screens_and_for_paper(tmp_path):
    paths = save(accuracy_against_selectivity(SMALL), tmp_path / "study", pdf=True)
    assert [path.suffix for path in paths] == [".png", ".svg", ".pdf"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_the_inset_enlarges_the_neighbours_of_zero_and_hides_no_network():
    figure = accuracy_against_selectivity(networks())
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (inset,) = axes.child_axes
    table = networks()
    near = table[table["alpha"].isin((-1, 0, 1))]
    for name, (low, high) in (("mean_index", inset.get_xlim()), ("accuracy", inset.get_ylim())):
        assert near[name].between(low, high).all()
    box = inset.get_window_extent()
    points = axes.transData.transform(table[["mean_index", "accuracy"]].to_numpy())
    assert not any(box.contains(x, y) for x, y in points)


def test_where_one_side_of_zero_is_far_the_inset_enlarges_the_other():
    table = networks((-5, -1, 0, 20))
    figure = accuracy_against_selectivity(table)
    (inset,) = figure.axes[0].child_axes
    (low, high), near = inset.get_xlim(), table["alpha"].isin((-1, 0))
    assert table.loc[near, "mean_index"].between(low, high).all()
    assert not table.loc[table["alpha"] == 20, "mean_index"].between(low, high).any()


def test_intervals_beyond_what_an_index_can_be_are_cut():
    table = alphas_of(networks())
    table["mean_index_low"], table["mean_index_high"] = -0.5, 1.4
    figure = against_alpha(table, networks())
    assert figure.axes[1].get_ylim() == (-0.02, 1.02)
    assert any("cut at 0 and 1" in text.get_text() for text in figure.texts)


def test_without_much_to_enlarge_there_is_no_inset():
    (axes,) = accuracy_against_selectivity(SMALL).axes
    assert axes.child_axes == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: accuracy_against_selectivity(networks().iloc[:0]),
        lambda: accuracy_against_selectivity(networks().assign(accuracy=np.nan)),
        lambda: against_alpha(alphas_of(networks()).iloc[:0], networks()),
        lambda: layers_by_alpha(layers().iloc[:0]),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(DataError, match="draw"):
        draw()


def test_colours_diverge_from_grey():
    colours = alpha_colours(NINE)
    assert list(colours) == sorted(NINE)
    assert colours[0] == GREY
    assert len(set(colours.values())) == len(NINE)
    rgb = {alpha: mpl.colors.to_rgb(colour) for alpha, colour in colours.items()}
    for alpha, (red, _, blue) in rgb.items():
        assert alpha == 0 or (red > blue) == (alpha > 0)
    # Darker with every step away from 0.
    luminance = [sum(rgb[alpha]) for alpha in (1, 2, 5, 20)]
    assert luminance == sorted(luminance, reverse=True)
    # Alpha 1 is as strong alone as 20 is among others: ranks decide.
    assert alpha_colours((0, 1))[1] == colours[20]
    assert [alpha_text(alpha) for alpha in (-0.5, 0, 20)] == ["\N{MINUS SIGN}0.5", "0", "+20"]


def test_captions_tell_the_confidence():
    table = networks()
    figures = (
        accuracy_against_selectivity(table, confidence=0.9),
        against_alpha(alphas_of(table), table, confidence=0.9),
        layers_by_alpha(layers(), confidence=0.9),
    )
    for figure in figures:
        words = " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))
        assert "90 %" in words
        assert "95 %" not in words
