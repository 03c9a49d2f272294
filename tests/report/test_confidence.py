"""Figures name, and draw, intervals of the confidence that they are given."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

import auditor.report
from auditor.report import geometry, geometry_alphas
from auditor.report.audit_curves import necessity_curves
from auditor.report.comparison import comparison
from auditor.report.correlations import correlation_forest
from auditor.report.density import importance_density, running_median
from auditor.report.importance import unit_importance
from auditor.report.metric_dependence import agreement_matrix, metric_forest
from auditor.report.own_class import own_class_figure
from auditor.report.reliability import reliability_figure
from auditor.report.robustness import accuracy_by_corruption
from auditor.report.sweep import accuracy_against_selectivity
from auditor.report.sweep_alphas import against_alpha
from auditor.report.sweep_layers import layers_by_alpha
from auditor.report.tuning import class_tuning

RNG = np.random.default_rng(0)
SITES = ["a", "b", "c"]
# What is 95 % whatever the confidence is: quantiles of random draws, a share of the variance, validation accuracy.
OTHERS = (
    "components for 95 % of the variance",
    "middle 95 % of them",
    "mean of the draws and their middle 95 %",
    "middle 95 % of the draws",
    "Accuracy: 95 % interval over images",
)


def with_ends(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    ends = {f"{name}{end}": table[name] + half for name in names for end, half in (("_low", -0.1), ("_high", 0.1))}
    return table.assign(**ends)


def rows(**values: object) -> pd.DataFrame:
    """One row per site."""
    return pd.DataFrame({"site": SITES, **values})


UNITS = pd.DataFrame({"site": np.repeat(SITES, 100), "s": RNG.random(300), "i": RNG.normal(size=300)})
EFFECTS = with_ends(rows(index_excess=[0.1, 0.5, 0.3], loss_change=[0.3, 0.2, 0.4]), "loss_change")
CURVE = with_ends(pd.DataFrame({"n_units": [1, 9], "selected": [1.0, 4.0], "least": [0.1, 1.0]}), "selected", "least")
RANDOM = with_ends(CURVE.assign(random=[0.5, 2.0]), "random")
FOREST = rows(rho=0.2, low=0.1, high=0.3, q=0.01, low_images=0.0, high_images=0.4)
POOLED = {"mean": 0.1, "low": 0.0, "high": 0.2, "prediction_low": -0.3, "prediction_high": 0.5}
METRICS = pd.DataFrame({"metric": ["index"], "rho": [0.1], "low": [0.0], "high": [0.2]})
PAIRS = pd.DataFrame({"first": ["a"], "second": ["b"], "rho": [0.5], "low": [0.4], "high": [0.6]})
OWN = with_ends(rows(own=0.2, others=0.1, difference=0.1), "own", "others", "difference")
OWN = OWN.assign(difference_null_low=-0.1, difference_null_high=0.1)
TUNING = pd.DataFrame({"unit_id": "a:1", "class_name": ["cat", "dog"], "mean": [1.0, 2.0], "se": [0.1, 0.2]})
TUNING = with_ends(TUNING.assign(preferred=[False, True], index=0.5), "index")
RUNS = pd.DataFrame({"run": ["before", "after"], "site": "a"})
RUNS = RUNS.assign(mean_index=0.3, low=0.2, high=0.4, null_mean=0.1, dead=0)
OVERALL = with_ends(pd.DataFrame({"run": ["before", "after"], "accuracy": 0.9}), "accuracy")
CONDITIONS = rows(condition="clean", corruption="none", participation_ratio=2.0, components_95=3.0, n_images=60)
GRADIENTS = with_ends(rows(cv_images=0.5, cv_units=0.7, n_images=12), "cv_images", "cv_units")
ROTATIONS = with_ends(rows(aligned=0.1, rotated=0.4, random=0.3, null_mean=0.0, null_highest=0.1), "aligned", "rotated")
PROBES = rows(accuracy=0.8, low=0.7, high=0.9, chance=0.1, n_train=50, n_test=40)
SWEPT = with_ends(pd.concat([rows(alpha=a, n_seeds=3, value=1.0) for a in (-1.0, 0.0)], ignore_index=True), "value")
DISTANCES = pd.DataFrame(
    [
        {"relation": "from alpha 0", "reference": f"c{i}", "run": f"r{i}", "alpha": -1.0, "site": "a", "cka": 0.2 + x}
        for i, x in enumerate((0.0, 0.1, 0.05))
    ]
)
CORRUPTED = pd.DataFrame({"corruption": ["fog"], "group": "weather", "severity": 1, "accuracy": 0.8})
CORRUPTED = CORRUPTED.assign(low=0.7, high=0.9)
NETWORKS = pd.DataFrame({"alpha": [-1.0, 0.0] * 2, "seed": [0, 0, 1, 1], "mean_index": 0.3, "accuracy": 0.9})
NETWORKS = with_ends(NETWORKS.assign(null_mean=0.0), "mean_index", "accuracy")
ALPHAS = NETWORKS.query("seed == 0").assign(over="seeds")
LAYERS = with_ends(rows(alpha=0.0, mean_index=0.3, null_mean=0.1, over="seeds"), "mean_index")

DRAWN: dict[str, Callable[[float], Figure]] = {
    "necessity_curves": lambda c: necessity_curves(CURVE, measure_label="lost", total_units=9, confidence=c),
    "comparison": lambda c: comparison(RUNS, OVERALL, confidence=c),
    "correlation_forest": lambda c: correlation_forest(FOREST, POOLED, label="rho", confidence=c),
    "importance_density": lambda c: importance_density(
        UNITS, score="s", importance="i", score_label="index", importance_label="loss", confidence=c
    ),
    "dimensionality": lambda c: geometry.dimensionality(
        with_ends(CONDITIONS, "participation_ratio", "components_95"), confidence=c
    ),
    "gradients": lambda c: geometry.gradients(GRADIENTS, confidence=c),
    "rotation": lambda c: geometry.rotation(ROTATIONS, confidence=c),
    "probes": lambda c: geometry.probes(PROBES, confidence=c),
    "by_layer": lambda c: geometry_alphas.by_layer([geometry_alphas.Panel(SWEPT, "value", "SI")], confidence=c),
    "distances_by_alpha": lambda c: geometry_alphas.distances_by_alpha(DISTANCES, {"cka": "CKA"}, confidence=c),
    "unit_importance": lambda c: unit_importance(EFFECTS, confidence=c),
    "metric_forest": lambda c: metric_forest(METRICS, confidence=c),
    "agreement_matrix": lambda c: agreement_matrix(PAIRS, confidence=c),
    "own_class_figure": lambda c: own_class_figure(OWN, confidence=c),
    "reliability_figure": lambda c: reliability_figure(
        [0.1, 0.2], [0.1, 0.3], ["a", "b"], rho=0.9, low=0.8, high=0.95, by_layer=FOREST, confidence=c
    ),
    "accuracy_by_corruption": lambda c: accuracy_by_corruption(
        CORRUPTED, CORRUPTED, clean=(0.9, 0.8, 0.95), chance=0.1, confidence=c
    ),
    "accuracy_against_selectivity": lambda c: accuracy_against_selectivity(NETWORKS, confidence=c),
    "against_alpha": lambda c: against_alpha(ALPHAS, NETWORKS, confidence=c),
    "layers_by_alpha": lambda c: layers_by_alpha(LAYERS, confidence=c),
    "class_tuning": lambda c: class_tuning(TUNING, n_images=9, confidence=c),
}


def figure_functions() -> dict[str, Callable[..., Figure]]:
    """Every function of the room that draws in its style."""
    found = {}
    for info in pkgutil.iter_modules(auditor.report.__path__):
        module = importlib.import_module(f"auditor.report.{info.name}")
        members = inspect.getmembers(module, inspect.isfunction)
        own = {name: each for name, each in members if each.__module__ == module.__name__}
        found |= {name: each for name, each in own.items() if hasattr(each, "__wrapped__")}
    return found


def leveled() -> list[str]:
    return [
        name for name, function in figure_functions().items() if "confidence" in inspect.signature(function).parameters
    ]


def words(figure: Figure) -> str:
    return without_others(" ".join(text.get_text() for text in figure.findobj(Text)))


def without_others(text: str) -> str:
    for other in OTHERS:
        text = text.replace(other, "")
    return text


def strings(path: Path) -> list[str]:
    """Texts of a module, f-strings with ``{}`` for what is put in, but no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    pieces = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said | pieces:
            found.append(node.value)
    return found


def test_every_figure_with_intervals_is_looked_at() -> None:
    assert sorted(leveled()) == sorted(DRAWN)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("level", [0.9, 0.975])
def test_a_figure_names_the_confidence_that_it_is_given(name: str, level: float) -> None:
    found = words(DRAWN[name](level))
    assert f"{100 * level:g} %" in found
    assert "95 %" not in found
    assert "95 %" in words(DRAWN[name](0.95))


@pytest.mark.parametrize(
    "path",
    [
        *sorted(Path(auditor.report.__file__).parent.glob("*.py")),
        *sorted((Path(auditor.__file__).parent / "api").glob("*figures.py")),
    ],
    ids=lambda path: path.stem,
)
def test_no_figure_has_a_level_of_its_own(path: Path) -> None:
    fixed = [text for text in strings(path) if "95 %" in without_others(text)]
    # The page's default, and a panel's label, which names a share of the variance.
    assert fixed == {"page": ["95 % interval"], "geometry_figures": ["components for 95 %"]}.get(path.stem, [])


def test_a_level_that_is_forgotten_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "new.py"
    lines = (
        "def draw(n):",
        '    """Bars are 95 % intervals."""',
        '    return f"{n} units, 95 % intervals", "middle 95 % of them"',
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [text for text in strings(path) if "95 %" in without_others(text)] == ["{} units, 95 % intervals"]


def test_random_draws_keep_their_quantiles() -> None:
    figure = necessity_curves(RANDOM, measure_label="lost", total_units=9, confidence=0.9)
    text = " ".join(each.get_text() for each in figure.findobj(Text))
    assert "90 % interval over images" in text
    assert "their middle 95 %" in text


def test_distances_have_students_interval_of_that_confidence() -> None:
    values = DISTANCES["cka"].to_numpy()
    for level in (0.9, 0.95):
        axes = DRAWN["distances_by_alpha"](level).axes[0]
        ((_, low), (_, high)) = axes.collections[0].get_segments()[0]
        wanted = stats.t.interval(level, len(values) - 1, values.mean(), stats.sem(values))
        np.testing.assert_allclose([low, high], wanted)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.99])
def test_the_running_median_has_that_confidence(level: float) -> None:
    y = RNG.standard_cauchy(37)
    _, found = running_median(np.zeros(37), y, level)
    assert tuple(found[1:3, 0]) == tuple(stats.quantile_test(y, p=0.5).confidence_interval(level))
    # As many values as that confidence takes, and one fewer.
    enough = int(np.floor(1 - np.log2(1 - level))) + 1
    for n, known in ((enough, True), (enough - 1, False)):
        _, found = running_median(np.zeros(n), np.arange(float(n)), level)
        assert np.isfinite(found[1:3]).all() == known


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_titles_hold_correlations_of_that_confidence(level: float) -> None:
    x, y = UNITS["s"].to_numpy(), UNITS["i"].to_numpy()
    rho = stats.spearmanr(x, y).statistic
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (len(x) - 3))  # Bonett & Wright (2000)
    ends = ", ".join(f"{np.tanh(np.arctanh(rho) + shift):+.2f}" for shift in (-half, half)).replace("-", "\u2212")
    table = with_ends(UNITS.rename(columns={"s": "index_excess", "i": "loss_change"}), "loss_change")
    assert f"[{ends}]" in words(unit_importance(table, confidence=level))
    # Of one layer, ranks within it are ranks.
    one = UNITS.assign(site="a")
    drawn = importance_density(one, score="s", importance="i", score_label="", importance_label="", confidence=level)
    assert f"[{ends}]" in words(drawn)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_mean_responses_have_bars_of_that_confidence(level: float) -> None:
    (bars,) = class_tuning(TUNING, n_images=9, confidence=level).axes[0].containers[1].lines[2]
    half = stats.norm.ppf((1 + level) / 2) * TUNING["se"]
    for segment, mean, reach in zip(bars.get_segments(), TUNING["mean"], half, strict=True):
        np.testing.assert_allclose(segment[:, 0], [mean - reach, mean + reach])


def test_runs_of_different_confidence_are_named_with_theirs() -> None:
    found = words(comparison(RUNS, OVERALL, confidence={"before": 0.95, "after": 0.9}))
    assert "95 % for before, 90 % for after" in found
    assert "Bars: 90 % intervals" in words(comparison(RUNS, OVERALL, confidence={"before": 0.9, "after": 0.9}))
