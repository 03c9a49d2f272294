"""Figures of the audit: drawn from ordinary and from awkward data, and truthful where values can be read back."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from scipy.stats import quantile_test, spearmanr

from auditor.errors import DataError, OptionError
from auditor.report.audit_curves import necessity_curves
from auditor.report.correlations import correlation_forest
from auditor.report.density import importance_density, running_median
from auditor.report.metric_dependence import agreement_matrix, metric_forest
from auditor.report.own_class import own_class_figure
from auditor.report.reliability import reliability_figure
from auditor.report.style import decades, new_figure, plain, save, svg_text

pytestmark = pytest.mark.filterwarnings("error")
LOST = "accuracy lost (percentage points)"
RHO = "Spearman correlation of selectivity with importance"
LONG = [f"features.denseblock{i}.denselayer{i}.conv_bottleneck.relu2@2" for i in range(60)]
POOLED = {"mean": 0.1, "low": 0.0, "high": 0.2, "prediction_low": -0.3, "prediction_high": 0.5}


def curves(sizes=(1, 10, 100, 400)):
    n = np.asarray(sizes, dtype=float)
    table = pd.DataFrame({"n_units": n})
    for name, slope in (("selected", 0.05), ("random", 0.03), ("least", 0.03)):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = slope * n, 0.8 * slope * n, 1.2 * slope * n
    return table


def units(n=600, n_sites=5):
    rng = np.random.default_rng(0)
    score = rng.beta(2, 5, n)
    hurt = 1e-3 * rng.standard_t(1.5, n) + 1e-3 * score
    return pd.DataFrame({"site": [f"layer{i % n_sites}" for i in range(n)], "s": score, "i": hurt})


def density(table):
    return importance_density(table, score="s", importance="i", score_label="index", importance_label="loss (nats)")


def layers(names=("a", "b", "c")):
    n = len(names)
    table = pd.DataFrame({"site": names, "rho": np.linspace(-0.2, 0.4, n), "q": np.linspace(0.2, 0.01, n)})
    return table.assign(
        low=table["rho"] - 0.1, high=table["rho"] + 0.1, low_images=table["rho"] - 0.2,
        high_images=table["rho"] + 0.2, partial_rho=0.05, n_units=64,
    )  # fmt: skip


def missing(table, reason=True):
    table = table.copy()
    table.loc[1, [name for name in table if name not in ("site", "n_units")]] = np.nan
    return table.assign(reason=["", "all units are equally important", *[""] * (len(table) - 2)]) if reason else table


def own(names=("a", "b", "c"), tail=1.0):
    n = len(names)
    table = pd.DataFrame({"site": names, "own": 0.02, "others": 0.01, "difference": np.r_[tail, np.ones(n - 1)] * 0.01})
    for name in ("own", "others", "difference"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] * 0.5, table[name] * 1.5
    return table.assign(difference_null_low=-0.002, difference_null_high=0.002, difference_q=0.01, n_units=64)


OVERALL = {**own().iloc[0].drop(["site", "difference_q"]).to_dict(), "difference_p": 0.3}
METRICS = pd.DataFrame(
    {
        "metric": ["class selectivity index", "d'", "localist"],
        "rho": [0.1, -0.2, np.nan],
        "low": [0.0, -0.3, np.nan],
        "high": [0.2, -0.1, np.nan],
        "outcome": ["supported", "refuted", "of my own"],
    }
)
PAIRS = pd.DataFrame(
    {"first": ["a", "a", "b"], "second": ["b", "c", "c"], "rho": [0.5, -0.4, np.nan], "low": [0.4, -0.5, np.nan]}
).assign(high=[0.6, -0.3, np.nan])


def halves(n, n_sites=4):
    rng = np.random.default_rng(1)
    first = rng.random(n)
    return first, first + 0.05 * rng.standard_normal(n), [f"s{i % n_sites}" for i in range(n)]


def reliability(n, n_sites=4, **options):
    return reliability_figure(*halves(n, n_sites), rho=0.9, low=0.88, high=0.92, **options)


FIGURES = {
    "curves": lambda: necessity_curves(curves(), measure_label=LOST, total_units=3904),
    "curves from zero": lambda: necessity_curves(curves((0, 1, 50, 400)), measure_label=LOST, total_units=3904),
    "curves, narrow": lambda: necessity_curves(curves((10, 20, 30)), measure_label=LOST, total_units=60),
    "curves, many sizes": lambda: necessity_curves(curves(range(1, 300)), measure_label=LOST, total_units=400),
    "curves, one size": lambda: necessity_curves(curves((100,)), measure_label=LOST, total_units=3904),
    "curves, kept": lambda: necessity_curves(
        curves().drop(columns=["least", "least_low", "least_high"]), measure_label=LOST, total_units=3904, kept=True
    ),
    "curves, a gap": lambda: necessity_curves(
        curves().assign(selected=[0.1, np.nan, 5, 20], least_low=np.nan), measure_label=LOST, total_units=3904
    ),
    "density": lambda: density(units()),
    "density of many": lambda: density(units(30_000, 60)),
    "density of one layer": lambda: density(units(200, 1)),
    "density of few": lambda: density(units(5, 2)),
    "density of single units": lambda: density(units(3, 3)),
    "density without effects": lambda: density(units().assign(i=0.0)),
    "density with gaps": lambda: density(units().assign(s=lambda t: t["s"].where(t["s"] > 0.2))),
    "correlations": lambda: correlation_forest(layers(), POOLED, label=RHO),
    "correlations of one layer": lambda: correlation_forest(layers(("a",)), None, label=RHO),
    "correlations of 60 layers": lambda: correlation_forest(missing(layers(LONG)), POOLED, label=RHO),
    "correlations, units only": lambda: correlation_forest(
        layers()[["site", "rho", "low", "high", "q"]], {**POOLED, "prediction_low": np.nan}, label=RHO
    ),
    "own class": lambda: own_class_figure(own(), OVERALL),
    "own class, heavy tail": lambda: own_class_figure(own(LONG[:9], tail=1e4), OVERALL),
    "own class, one layer": lambda: own_class_figure(own(("a",))),
    "own class, 60 layers": lambda: own_class_figure(missing(own(LONG), reason=False), OVERALL),
    "own class, untested": lambda: own_class_figure(own().drop(columns=["difference_q", "n_units"])),
    "own class, by images": lambda: own_class_figure(
        own().rename(columns=lambda name: name.replace("difference", "excess")), contrast="excess",
        contrast_label="share of pairs of images above one half",
    ),
    "reliability": lambda: reliability(300),
    "reliability of many": lambda: reliability(4000, by_layer=missing(layers())),
    "reliability of one layer": lambda: reliability(50, 1),
    "reliability of one unit": lambda: reliability(1),
    "reliability of 60 layers": lambda: reliability(4000, 60, by_layer=layers(LONG)),
    "metrics": lambda: metric_forest(METRICS),
    "metrics without outcomes": lambda: metric_forest(METRICS.drop(columns="outcome").iloc[:1], label=RHO),
    "agreement": lambda: agreement_matrix(PAIRS, labels={"a": "class selectivity index"}),
    "agreement without intervals": lambda: agreement_matrix(PAIRS.assign(low=np.nan, high=np.nan)),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_drawn_whole_and_saved(tmp_path, name):
    figure = FIGURES[name]()
    for path in save(figure, tmp_path / "figure"):
        assert path.stat().st_size > 1000
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.02
    assert box.y0 >= -0.02
    assert box.x1 <= width + 0.02
    assert box.y1 <= height + 0.02
    for axes in figure.axes:
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        assert "mathdefault" not in "".join(label.get_text() for label in ticks)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: necessity_curves(curves().iloc[:0], measure_label=LOST, total_units=1),
        lambda: necessity_curves(curves()[["n_units"]], measure_label=LOST, total_units=1),
        lambda: density(units().iloc[:0]),
        lambda: density(units().assign(s=np.nan)),
        lambda: correlation_forest(layers().iloc[:0], None, label=RHO),
        lambda: own_class_figure(own().iloc[:0]),
        lambda: reliability_figure([np.nan], [1.0], ["a"], rho=np.nan, low=np.nan, high=np.nan),
        lambda: reliability_figure([1.0], [1.0], ["a", "b"], rho=1, low=1, high=1),
        lambda: metric_forest(METRICS.iloc[:0]),
        lambda: agreement_matrix(PAIRS.iloc[:0]),
    ],
)
def test_nothing_to_draw_is_a_clear_error(draw):
    with pytest.raises(DataError, match="to draw"):
        draw()


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def scattered(axes):
    return [each for each in axes.collections if isinstance(each, PathCollection)]


def test_curves_pass_through_their_values_and_names_stay_apart():
    figure = FIGURES["curves"]()
    axes = figure.axes[0]
    dashed, least, selected, _zero = axes.lines
    np.testing.assert_allclose(selected.get_ydata(), curves()["selected"])
    np.testing.assert_allclose(least.get_ydata(), dashed.get_ydata())
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    assert set(names) == {"most selective", "matched random", "least selective"}
    assert abs(names["matched random"] - names["least selective"]) >= 0.0649
    assert names["most selective"] > max(names["matched random"], names["least selective"])
    assert "kept" in FIGURES["curves, kept"]().axes[0].get_xlabel()


def test_the_running_median_has_the_interval_of_order_statistics():
    rng = np.random.default_rng(3)
    x, y = rng.random(400), rng.standard_cauchy(400)
    middle, found = running_median(x, y)
    assert len(middle) == 10
    edges = np.quantile(x, np.linspace(0, 1, 11))
    for number, (low, high) in enumerate(pairwise(edges)):
        mine = y[(x >= low) & ((x < high) | (number == 9))]
        interval = quantile_test(mine, p=0.5).confidence_interval(0.95)
        assert found[0, number] == np.median(mine)
        assert tuple(found[1:3, number]) == tuple(interval)
        np.testing.assert_allclose(found[3:, number], np.quantile(mine, [0.25, 0.75]))


def test_the_running_median_of_few_units_has_no_interval():
    middle, found = running_median(np.arange(5.0), np.arange(5.0))
    assert middle.tolist() == [2.0]
    assert np.isnan(found[1:3]).all()
    # Units that are equally selective stay together.
    assert len(running_median(np.zeros(500), np.arange(500.0))[0]) == 1


def test_every_unit_is_counted_and_ranks_are_within_layers():
    table = units().assign(i=lambda t: t["i"] + t["site"].str[-1].astype(float))
    figure = density(table)
    left, right = (axes.collections[0].get_array() for axes in figure.axes[:2])
    assert left.sum() == right.sum() == len(table)
    within = table.groupby("site")[["s", "i"]].rank()
    rho = spearmanr(within["s"], within["i"]).statistic
    assert f"{rho:+.2f}".replace("-", "−") in figure.axes[1].get_title(loc="left")
    assert "left out" in FIGURES["density with gaps"]()._supxlabel.get_text()


def test_ticks_of_the_asinh_axis_are_at_their_values():
    table = units()
    axes = density(table).axes[0]
    scale = np.median(table["i"].abs())
    named = dict(zip((t.get_text() for t in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    assert named["0"] == 0
    assert named["0.01"] == pytest.approx(np.arcsinh(0.01 / scale))
    assert named["−0.01"] == -named["0.01"]


def test_decades_and_their_texts():
    assert decades(-0.02, 3, 1e-3) == [-0.01, -0.001, 0, 0.001, 0.01, 0.1, 1]
    assert decades(0, 1e9, 1.0, most=5) == [0, 1, 1e3, 1e6, 1e9]
    assert [plain(value) for value in (0, 0.01, -0.1, 1e-4, -2e-12, 1e5)] == [
        "0",
        "0.01",
        "−0.1",
        "1e-4",
        "−2e-12",
        "1e5",
    ]


def test_significant_layers_are_filled():
    axes = FIGURES["correlations"]().axes[0]
    filled, hollow = (dots for dots in scattered(axes) if dots.get_sizes()[0] == 30)
    assert filled.get_offsets()[:, 1].tolist() == [2]
    assert hollow.get_offsets()[:, 1].tolist() == [0, 1]
    assert hollow.get_facecolors()[0].tolist() == [1, 1, 1, 1]


def test_rows_without_a_value_say_why():
    assert "not estimated: all units are equally important" in texts(FIGURES["correlations of 60 layers"]())
    assert "not estimated" in texts(FIGURES["own class, 60 layers"]())
    assert "not estimated" in texts(FIGURES["metrics"]())
    names = [label.get_text() for label in FIGURES["correlations of 60 layers"]().axes[0].get_yticklabels()]
    assert len(set(names)) == 61
    assert names[-1] == "mean of 59 layers"


def test_the_network_has_a_row_and_a_test_of_its_own():
    left, right = FIGURES["own class"]().axes
    assert left.get_yticklabels()[-1].get_text() == "all layers"
    filled, hollow = scattered(right)
    assert filled.get_offsets()[:, 1].tolist() == [0, 1, 2]
    assert hollow.get_offsets()[:, 1].tolist() == [3]
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in right.patches if bar.get_height() == 0.72]
    np.testing.assert_allclose(bars, [(-0.002, 0.002)] * 4)
    assert FIGURES["own class, heavy tail"]().axes[1].get_xscale() == "asinh"


def test_halves_share_their_scale():
    axes = FIGURES["reliability of many"]().axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.collections[0].get_array().sum() == 4000
    assert axes.get_title(loc="left") == "Spearman ρ = +0.90 [+0.88, +0.92]"


def test_agreement_is_symmetric_with_intervals():
    axes = FIGURES["agreement"]().axes[0]
    image = axes.images[0].get_array()
    np.testing.assert_array_equal(image.filled(9), image.T.filled(9))
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells[1, 0] == cells[0, 1] == "0.50\n[0.40, 0.60]"
    assert cells[2, 0] == "−0.40\n[−0.50, −0.30]"
    assert cells[2, 1] == "-"
    assert cells[0, 0] == "1.00"


@pytest.mark.parametrize("name", ["density", "own class, heavy tail", "agreement"])
def test_the_same_data_gives_the_same_bytes(tmp_path, name):
    first, again = (save(FIGURES[name](), tmp_path / each, pdf=True) for each in "ab")
    assert [path.suffix for path in first] == [".png", ".svg", ".pdf"]
    assert first[2].read_bytes().startswith(b"%PDF")
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()


class Ids(HTMLParser):
    """Collects ids, references and text as a browser would."""

    def __init__(self):
        super().__init__()
        self.ids, self.used, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            elif key == "href":
                assert value.startswith(("#", "data:image/png"))
                self.used += [value[1:]] if value.startswith("#") else []
            else:
                self.used += re.findall(r"url\(#([^)]*)\)", value or "")

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words.append(data)


def test_inlined_figures_do_not_meet():
    hostile = '<script>alert(1)</script> id="figure_1" url(#x) $\\frac{'
    table = METRICS.assign(metric=[hostile, "d'", "localist"])
    figures = [FIGURES["density"](), FIGURES["density"](), metric_forest(table)]
    parts = [svg_text(figure, prefix=f"f{n}") for n, figure in enumerate(figures)]
    page = Ids()
    page.feed("".join(parts))
    assert len(page.ids) == len(set(page.ids)) > 4
    assert set(page.used) == set(page.ids)
    assert all(re.match(r"f[012]-", one) for one in page.ids)
    assert "<script" not in parts[2]
    assert "<style" not in "".join(parts)
    assert any(word.startswith("<script>") for word in page.words)
    for part in parts:
        root = ElementTree.fromstring(part)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "width" not in root.attrib
        assert "max-width" in root.get("style")


def test_inlined_figures_have_a_name_and_need_a_plain_prefix():
    assert 'aria-label="a &lt; b"' in svg_text(FIGURES["metrics"](), prefix="x-1", label="a < b")
    for prefix in ("", "1a", 'a"b', "a b"):
        with pytest.raises(OptionError, match="prefix"):
            svg_text(new_figure(1, 1), prefix=prefix)
