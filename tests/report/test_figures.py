"""Every figure is drawn from ordinary and from awkward data, saved, and saved in the same bytes again."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from auditor.errors import DataError
from auditor.report.comparison import comparison
from auditor.report.curve import ablation_curve
from auditor.report.importance import unit_importance
from auditor.report.selectivity import selectivity_by_layer, selectivity_panels
from auditor.report.set_test import set_test
from auditor.report.style import save, tell_apart
from auditor.report.training import training_history
from auditor.report.tuning import class_tuning

pytestmark = pytest.mark.filterwarnings("error")
LABEL = "class selectivity index"


def units(n_sites=17, n_units=12, *, all_dead=False):
    rng = np.random.default_rng(0)
    n = n_sites * n_units
    table = pd.DataFrame(
        {
            "unit_id": [f"layer4.{i // n_units}.relu@2:{i % n_units}" for i in range(n)],
            "site": [f"layer4.{i // n_units}.relu@2" for i in range(n)],
            "dead": np.full(n, all_dead),
            "index": rng.beta(2, 4, n),
            "index_null": rng.normal(0.1, 0.01, n),
        }
    )
    if all_dead:
        table[["index", "index_null"]] = np.nan
    return table


def tuning(n_units=12, n_classes=10):
    rng = np.random.default_rng(0)
    mean = rng.gamma(2, 0.3, n_units * n_classes)
    return pd.DataFrame(
        {
            "unit_id": np.repeat([f"layer4.1.relu@2:{i}" for i in range(n_units)], n_classes),
            "class_name": [f"class {i}" for i in range(n_classes)] * n_units,
            "mean": mean,
            "se": mean / 10,
            "preferred": np.tile(np.arange(n_classes) == 1, n_units),
            "index": 0.5,
            "index_low": 0.4,
            "index_high": 0.6,
        }
    )


def effects(n=20):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"site": [f"s{i % 3}" for i in range(n)], "index_excess": rng.random(n)})
    for name in ("loss_change", "accuracy_change", "preferred_accuracy_change"):
        table[name] = rng.normal(size=n)
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 1, table[name] + 1
    return table


def curve():
    n = np.array([0, 10, 100])
    orders = ("selective first", "least selective first", "random", "my own")
    return pd.concat(
        pd.DataFrame({"order": o, "n_silenced": n, "accuracy": 0.9 - n / 200, "low": 0.8 - n / 200, "high": 0.95})
        for o in orders
    )


def kept():
    table = curve()
    return pd.concat([table.assign(kind="silence"), table.assign(kind="keep")]).assign(draws=1)


def areas(kinds=("silence", "keep")):
    rows = [(order, kind) for kind in kinds for order in ("selective first", "least selective first", "random")]
    table = pd.DataFrame(rows, columns=["order", "kind"]).assign(area=0.4, low=-0.1, high=0.5)
    return table.assign(area=table["area"].where(table["order"] != "random"))


def layers(runs=("before", "after"), n_sites=17):
    rows = [(run, f"layer{i}.relu@2") for run in runs for i in range(n_sites)]
    table = pd.DataFrame(rows, columns=["run", "site"])
    return table.assign(mean_index=0.3, low=0.25, high=0.35, null_mean=0.1, dead=np.arange(len(rows)))


def overall(runs=("before", "after")):
    return pd.DataFrame({"run": runs, "accuracy": 0.97, "accuracy_low": 0.95, "accuracy_high": 0.98})


def history(n=5):
    epochs = np.arange(n)
    names = ("train_loss", "cross_entropy", "batch_si", "val_accuracy", "val_accuracy_low", "val_accuracy_high")
    table = pd.DataFrame({"epoch": epochs} | dict.fromkeys(names, 1 / (1 + epochs)))
    table.loc[0, ["train_loss", "cross_entropy", "batch_si"]] = np.nan
    return table


def hidden_units():
    return units().assign(index=np.where(units()["site"] == "layer4.3.relu@2", np.nan, 0.5))


def partly_signed(n_sites=6):
    """Every other site is scored by d' and AUC."""
    table = units(n_sites)
    odd = table["site"].map({site: i % 2 == 1 for i, site in enumerate(dict.fromkeys(table["site"]))})
    table["signed"] = odd
    for name, value in (("dprime", 0.5), ("auc", 0.7)):
        table[name] = np.where(odd, table["index"] + value, np.nan)
        table[f"{name}_null"] = np.where(odd, value, np.nan)
    return table.assign(index=table["index"].where(~odd), index_null=table["index_null"].where(~odd))


def panels(table):
    labels = {"index": LABEL, "dprime": "d'", "auc": "ROC-AUC of the best class"}
    signed = table.groupby("site", sort=False)["signed"].any()
    names = {site: ("dprime", "auc") if yes else ("index",) for site, yes in signed.items()}
    used = {name for mine in names.values() for name in mine}
    return selectivity_panels(table, labels={k: v for k, v in labels.items() if k in used}, scored_by=names)


def signed_layers(*, index):
    table = layers().assign(mean_dprime=1.0, dprime_low=0.9, dprime_high=1.1, dprime_null_mean=0.5)
    columns = ["mean_index", "low", "high", "null_mean"]
    return table if index else table.assign(**dict.fromkeys(columns, np.nan))


NULL = np.random.default_rng(0).normal(0.04, 0.01, 200)
FIGURES = {
    "selectivity": lambda: selectivity_by_layer(units(), metric_label=LABEL),
    "selectivity of one unit": lambda: selectivity_by_layer(units(1, 1), metric_label=LABEL),
    "selectivity of 60 sites": lambda: selectivity_by_layer(units(60, 3), metric_label=LABEL),
    "selectivity of dead units": lambda: selectivity_by_layer(units(2, all_dead=True), metric_label=LABEL),
    "selectivity, a site unscored": lambda: selectivity_by_layer(hidden_units(), metric_label=LABEL),
    "another metric": lambda: selectivity_by_layer(
        units().rename(columns={"index": "dprime", "index_null": "dprime_null"}), metric="dprime", metric_label="d'"
    ),
    "selectivity, partly signed": lambda: panels(partly_signed()),
    "selectivity, all signed": lambda: panels(partly_signed().query("signed")),
    "tuning": lambda: class_tuning(tuning(), n_images=450),
    "tuning by d'": lambda: class_tuning(
        tuning().rename(columns=lambda name: name.replace("index", "dprime")),
        n_images=450,
        metric="dprime",
        metric_label="d'",
    ),
    "tuning of one unit": lambda: class_tuning(tuning(1, 2), n_images=450),
    "tuning to 1000 classes": lambda: class_tuning(tuning(20, 1000), n_images=50_000),
    "tuning below zero": lambda: class_tuning(tuning().assign(mean=-1.0), n_images=450),
    "tuning without errors": lambda: class_tuning(tuning().assign(se=np.nan), n_images=450),
    "importance": lambda: unit_importance(effects()),
    "importance by depth": lambda: unit_importance(effects(), sites=["s0", "s1", "s2"]),
    "importance of one unit": lambda: unit_importance(effects(1)),
    "importance by d'": lambda: unit_importance(
        effects().rename(columns={"index_excess": "dprime_excess"}), metric="dprime", metric_label="d' above chance"
    ),
    "importance, all alike": lambda: unit_importance(effects().assign(loss_change=0.0)),
    "importance, loss only": lambda: unit_importance(effects()[[c for c in effects() if "accuracy" not in c]]),
    "set test": lambda: set_test(NULL, 0.02, 0.02, 0.06, 0.9, label="loss of accuracy", n_units=100),
    "set test, one set": lambda: set_test([0.1], 0.1, 0.1, 0.1, 1.0, label="loss of accuracy", n_units=100),
    "curve": lambda: ablation_curve(curve(), chance=0.1),
    "curve without an intact row": lambda: ablation_curve(curve().query("n_silenced > 0")),
    "curve with areas": lambda: ablation_curve(curve(), chance=0.1, areas=areas(["silence"]).drop(columns="kind")),
    "curve, kept too": lambda: ablation_curve(kept(), chance=0.1),
    "curve, kept too, with areas": lambda: ablation_curve(kept(), chance=0.1, areas=areas(), n_units=120),
    "curve, kept only": lambda: ablation_curve(kept().query("kind == 'keep'"), areas=areas().assign(low=np.nan)),
    "comparison": lambda: comparison(layers(), overall()),
    "comparison of five": lambda: comparison(layers(tuple("abcde"), 3), overall(tuple("abcde"))),
    "comparison, one site": lambda: comparison(layers(n_sites=1), overall()),
    "comparison, other sites": lambda: comparison(layers().iloc[3:-3], overall().iloc[:1]),
    "comparison, partly signed": lambda: comparison(signed_layers(index=True), overall(), signed={"dprime": "d'"}),
    "comparison, all signed": lambda: comparison(signed_layers(index=False), overall(), signed={"dprime": "d'"}),
    "training": lambda: training_history(history()),
    "training, one epoch": lambda: training_history(history(2).iloc[1:]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_drawn_and_saved(tmp_path, name):
    for path in save(FIGURES[name](), tmp_path / "new" / "figure"):
        assert path.stat().st_size > 1000
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["selectivity", "tuning", "importance by depth", "curve, kept too, with areas", "comparison"]
)
def test_the_same_data_gives_the_same_bytes(tmp_path, name):
    for first, again in zip(save(FIGURES[name](), tmp_path / "a"), save(FIGURES[name](), tmp_path / "b"), strict=True):
        assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "selectivity", "selectivity, partly signed", "tuning", "importance", "set test", "curve", "curve with areas",
        "curve, kept too", "curve, kept too, with areas", "comparison", "comparison, partly signed", "training",
    ],
)  # fmt: skip
def test_nothing_sticks_out(name):
    figure = FIGURES[name]()
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width / figure.dpi + 0.01
    assert box.y1 <= height / figure.dpi + 0.01


@pytest.mark.parametrize(
    "draw",
    [
        lambda: selectivity_by_layer(units().iloc[:0], metric_label=LABEL),
        lambda: selectivity_panels(units().iloc[:0], labels={"index": LABEL}, scored_by={}),
        lambda: class_tuning(tuning().iloc[:0], n_images=0),
        lambda: unit_importance(effects().iloc[:0]),
        lambda: unit_importance(effects()[["site", "index_excess"]]),
        lambda: set_test([], 0.0, 0.0, 0.0, 1.0, label="", n_units=1),
        lambda: ablation_curve(curve().iloc[:0]),
        lambda: comparison(layers().iloc[:0], overall()),
        lambda: training_history(history().iloc[:0]),
    ],
)
def test_nothing_to_draw_is_a_clear_error(draw):
    with pytest.raises(DataError, match="to draw"):
        draw()


def test_the_caller_keeps_own_settings():
    with mpl.rc_context({"font.size": 31.0, "axes.grid": False}):
        size = FIGURES["curve"]().axes[0].xaxis.label.get_size()
        assert mpl.rcParams["font.size"] == 31.0
    assert size < 12


def test_sites_are_in_network_order_and_named():
    axes = FIGURES["selectivity"]().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"layer4.{i}.relu@2" for i in range(17)]
    assert axes.yaxis.get_inverted()


def test_layers_are_drawn_where_they_are_scored():
    figure = FIGURES["selectivity, partly signed"]()
    for axes, drawn in zip(figure.axes, ([0, 2, 4], [1, 3, 5], [1, 3, 5]), strict=True):
        assert [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"] == drawn
    assert "12  (12 signed)" in [text.get_text() for text in figure.axes[-1].texts]
    assert len(FIGURES["selectivity, all signed"]().axes) == 2
    assert [axes.get_xlabel() for axes in FIGURES["comparison, all signed"]().axes] == ["mean of the layer, d'", ""]


def test_values_land_where_they_belong():
    axes = set_test([0.1, 0.3], 0.5, 0.1, 0.3, 0.01, label="x", n_units=3).axes[0]
    lines = {line.get_label(): line.get_xdata()[0] for line in axes.lines}
    assert lines["their mean"] == pytest.approx(0.2)
    assert lines["selected set"] == 0.5


def test_kept_units_are_those_that_are_not_silenced():
    silenced, rest = FIGURES["curve, kept too, with areas"]().axes
    assert [axes.get_xlabel() for axes in (silenced, rest)] == ["silenced units (of 120)", "kept units (of 120)"]
    first, there = (next(line for line in axes.lines if line.get_marker() == "o") for axes in (silenced, rest))
    assert first.get_xdata().tolist() == [0, 10, 100]
    assert there.get_xdata().tolist() == [20, 110, 120]
    assert there.get_ydata().tolist() == first.get_ydata().tolist()[::-1]
    assert first.get_color() == there.get_color()


def test_orders_differ_in_colour_and_in_marker_and_show_their_areas():
    table = curve().assign(draws=[1] * 6 + [5] * 3 + [1] * 3)
    axes = ablation_curve(table, areas=areas()).axes[0]
    lines = [line for line in axes.lines if line.get_marker() != "None"]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "selective first: area 0.40 [−0.10, 0.50]",
        "least selective first: area 0.40 [−0.10, 0.50]",
        "random (mean of 5)",
        "my own",
    ]


def test_long_names_stay_apart():
    assert tell_apart(["a.b", "c"], 10) == ["a.b", "c"]
    assert tell_apart(["layer1.conv_bottleneck.relu2"], 20) == ["layer1.…leneck.relu2"]
    names = [f"features.denseblock{i}.layer{i}.conv_bottleneck.relu2@2" for i in range(12)]
    assert tell_apart(names, 30)[11] == "…denseblock11.layer11…"
    assert len(set(tell_apart(names, 30))) == 12


def test_matplotlib_is_loaded_by_drawing_only():
    code = "import sys, auditor.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, auditor.report.curve; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_text_not_formulas(tmp_path):
    hostile = tuning(2, 3).replace({"class_name": {name: f"$\\frac{{{name}$" for name in tuning(2, 3)["class_name"]}})
    assert hostile["class_name"].str.startswith("$").all()
    for path in save(class_tuning(hostile, n_images=450), tmp_path / "hostile"):
        assert path.stat().st_size > 1000
