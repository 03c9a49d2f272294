"""The verb ``geometry``: what it measures against independent computations, what it keeps, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats
from sklearn.decomposition import PCA

import auditor
from auditor.api import geometry_dimensionality, geometry_gradients
from auditor.api.forward import Execution
from auditor.api.geometry import Geometry, geometry
from auditor.api.geometry_alphas import distances_by_alpha, early_sites, over_seeds
from auditor.api.geometry_networks import Network, chosen_sites, networks_of
from auditor.api.geometry_outcomes import outcomes_by_alpha
from auditor.api.geometry_responses import (
    ADVERSARIAL,
    CLEAN,
    CleanResponses,
    Condition,
    PixelImages,
    change,
    conditions_of,
)
from auditor.api.geometry_settings import GeometrySettings
from auditor.api.geometry_similarity import pairs_of
from auditor.cli.main import main
from auditor.errors import DataError, OptionError, RunError, UnknownNameError
from auditor.store.blocks import BlockCache

SMALL = {
    "n_images": 60, "corruptions": ("contrast", "gaussian_noise"), "attack_steps": 2, "units": 4, "gradient_images": 12,
    "starts": 2, "shuffles": 1, "probe_images": 150, "similarity_images": 150,
}  # fmt: skip

COMMAND = [
    "--images", "60", "--corruptions", "contrast,gaussian_noise", "--attack-steps", "2", "--units", "4",
    "--gradient-images", "12", "--starts", "2", "--shuffles", "1",
    "--probe-images", "150", "--similarity-images", "150",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a copy of the shared run that may be written to."""
    folder = tmp_path_factory.mktemp("geometry")
    shutil.copytree(shared_runs / "base", folder / "base")
    return folder


@pytest.fixture(scope="module")
def found(runs: Path) -> Geometry:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Geometry, "save_figures", lambda _: [])
        return geometry(auditor.Run.open("base", runs=runs), **SMALL)


@pytest.fixture
def run(runs: Path) -> auditor.Run:
    return auditor.Run.open("base", runs=runs)


def test_one_row_per_layer_and_every_part(found: Geometry, run: auditor.Run) -> None:
    sites = [site.name for site in run.sites]
    assert found.parts == ("dimensionality", "gradients", "rotation", "probes")
    for part in ("gradients", "rotation", "probes"):
        table = getattr(found, part)
        assert table["site"].tolist() == sites
        assert set(table["run"]) == {"base"}
    conditions = set(found.dimensionality["condition"])
    assert {
        "clean",
        "corrupted",
        "adversarial",
        "corrupted - clean",
        "adversarial - clean",
        "clean, whole split",
    } == conditions


def test_dimensionality_of_the_whole_split_is_that_of_scikit_learn(found: Geometry, run: auditor.Run) -> None:
    table = found.dimensionality.query("condition == 'clean, whole split'").set_index("site")
    with run.store() as store:
        for site in store.sites:
            values = store.responses(site)[store.splits == 2]
            variances = PCA().fit(values.astype(np.float64)).explained_variance_
            row = table.loc[site]
            assert row["n_images"] == len(values)
            assert row["participation_ratio"] == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-6)
            shares = np.cumsum(variances) / variances.sum()
            assert row["components_95"] == np.searchsorted(shares, 0.95) + 1
            assert row["participation_ratio_low"] < row["participation_ratio"] < row["participation_ratio_high"]


def test_conditions_are_of_the_same_images_and_differences_image_by_image(found: Geometry, run: auditor.Run) -> None:
    settings = GeometrySettings(**SMALL)
    images = PixelImages(run, run.sites, Execution(batch_size=64))
    (batch,) = images.batches(images.index(settings.n_images))
    changed = change(Condition("corrupted", "contrast"), images, batch, settings)
    clean, corrupted = images.pooled(batch.images), images.pooled(changed)
    rows = found.dimensionality.set_index(["site", "condition", "corruption"])["participation_ratio"]
    for site in run.sites:
        for condition, values in (
            ("corrupted", corrupted[site.name]),
            ("corrupted - clean", corrupted[site.name] - clean[site.name]),
        ):
            variances = np.linalg.eigvalsh(np.cov(values.astype(np.float64).T))
            expected = variances.sum() ** 2 / (variances**2).sum()
            assert rows[site.name, condition, "contrast"] == pytest.approx(expected, rel=1e-4)
        both = [rows[site.name, "corrupted", name] for name in settings.corruptions or ()]
        assert rows[site.name, "corrupted", "all"] == pytest.approx(np.mean(both))


def test_attacked_images_stay_in_the_ball_and_do_not_depend_on_the_batch(run: auditor.Run) -> None:
    settings = GeometrySettings(**SMALL)
    images = PixelImages(run, run.sites, Execution(batch_size=8))
    index = images.index(16)[:8]
    (batch,) = images.batches(index)
    attacked = change(Condition(ADVERSARIAL), images, batch, settings)
    assert float((attacked - batch.images).abs().max()) <= settings.epsilon + 1e-6
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    (alone,) = images.batches(index[3:4])
    np.testing.assert_allclose(change(Condition(ADVERSARIAL), images, alone, settings)[0], attacked[3], atol=1e-6)
    assert change(Condition(CLEAN), images, batch, settings) is batch.images


def test_probes_and_gradients_say_on_how_many_images(found: Geometry, run: auditor.Run) -> None:
    assert set(found.gradients["n_images"]) == {12}
    assert set(found.gradients["n_sampled"]) == {4}
    assert set(found.probes["n_test"]) == {150}
    assert (found.probes["low"] < found.probes["accuracy"]).all()
    assert (found.probes["accuracy"] > found.probes["chance"]).all()
    assert (found.rotation["aligned_low"] <= found.rotation["aligned_high"]).all()


def test_the_same_settings_show_what_is_there(
    found: Geometry, run: auditor.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.api.geometry._MEASURES", {})  # anything measured would fail
    again = geometry(run, **SMALL)
    assert again.path == found.path
    assert again.to_dict()["tables"].keys() == {
        "dimensionality",
        "gradients",
        "rotation",
        "probes",
        "selectivity",
        "dead",
    }
    json.dumps(again.to_dict(), allow_nan=False, default=str)


def test_a_part_is_not_measured_twice(found: Geometry, run: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry_gradients, "input_unit_gradients", None)
    monkeypatch.setattr(Geometry, "save_figures", lambda _: [])
    (folder,) = (run.path / "geometry" / "parts").glob("gradients-*")
    blocks = BlockCache(folder / "blocks")
    blocks.put("left", {"by": np.zeros(1)})  # as where it was killed while it cleared away
    alone = geometry(run, parts=["gradients"], **SMALL)
    assert alone.path != found.path
    assert blocks.keys() == []
    pd.testing.assert_frame_equal(alone.gradients, found.gradients)


def test_what_was_killed_goes_on_at_its_batch_and_layer(run: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Geometry, "save_figures", lambda _: [])
    options = SMALL | {"seed": 5, "batch_size": 20, "parts": ["dimensionality"]}
    whole = geometry_dimensionality._conditions
    calls = []

    def failing(*arguments: object) -> list[dict[str, float]]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(geometry_dimensionality, "_conditions", failing)
    with pytest.raises(KeyboardInterrupt):
        geometry(run, **options)
    parts = (run.path / "geometry" / "parts").glob("dimensionality-*")
    (folder,) = (path for path in parts if any(path.glob("blocks/*")))
    assert len(list((folder / "layers").iterdir())) == 1
    # The batches that were changed are there: no image is changed again.
    monkeypatch.setattr("auditor.api.geometry_responses.change", None)
    resumed = geometry(run, **options)
    assert len(calls) == 2 + len(run.sites) - 1
    monkeypatch.undo()
    monkeypatch.setattr(Geometry, "save_figures", lambda _: [])
    shutil.rmtree(folder)
    shutil.rmtree(resumed.path)
    undisturbed = geometry(run, **options)
    pd.testing.assert_frame_equal(undisturbed.dimensionality, resumed.dimensionality)


def test_without_a_store_the_model_gives_the_same(run: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with CleanResponses(run, run.sites, Execution()) as clean:
        index = clean.images("score", 50)
        stored = {site.name: clean.responses(site.name, index) for site in run.sites}
    monkeypatch.setattr(CleanResponses, "stored", False)
    with CleanResponses(run, run.sites, Execution()) as clean:
        for site in run.sites:
            np.testing.assert_allclose(clean.responses(site.name, index), stored[site.name], rtol=1e-4, atol=1e-5)


def test_layers_are_chosen_by_pattern_and_unknown_names_are_named(run: auditor.Run) -> None:
    names = [site.name for site in run.sites]
    assert [site.name for site in chosen_sites(run, ["re:[0-1]"])] == [names[0]]
    assert chosen_sites(run, []) == run.sites
    with pytest.raises(UnknownNameError, match="layer9"):
        chosen_sites(run, ["layer9*"])


@pytest.mark.parametrize(
    "options, error",
    [
        ({"parts": ["shape"]}, UnknownNameError),
        ({"parts": []}, OptionError),
        ({"corruptions": ["sunshine"]}, UnknownNameError),
        ({"severity": 6}, OptionError),
        ({"epsilon": 2.0}, OptionError),
        ({"units": 1}, OptionError),
        ({"layers": "nothing*"}, UnknownNameError),
        ({"parts": ["similarity"]}, RunError),
    ],
)
def test_what_cannot_be_measured_is_refused_before_work(
    run: auditor.Run, options: dict[str, object], error: type[Exception]
) -> None:
    before = sorted((run.path / "geometry").iterdir()) if (run.path / "geometry").exists() else []
    with pytest.raises(error):
        geometry(run, **options)
    assert (sorted((run.path / "geometry").iterdir()) if before else []) == before


def network(name: str, alpha: float | None, seed: int | None) -> Network:
    return Network(name, alpha, seed, SimpleNamespace(path=Path(name)))  # type: ignore[arg-type]


def test_pairs_are_of_one_seed_and_of_controls_among_themselves() -> None:
    networks = [network(f"{alpha}-{seed}", alpha, seed) for alpha in (-1.0, 0.0, 2.0) for seed in (0, 1, 2)]
    pairs = [(pair.relation, pair.first.name, pair.second.name) for pair in pairs_of(networks)]
    assert [pair[1:] for pair in pairs if pair[0] == "seed to seed"] == [
        ("0.0-0", "0.0-1"), ("0.0-0", "0.0-2"), ("0.0-1", "0.0-2"),
    ]  # fmt: skip
    others = [pair[1:] for pair in pairs if pair[0] == "from alpha 0"]
    assert others == [(f"0.0-{seed}", f"{alpha}-{seed}") for alpha in (-1.0, 2.0) for seed in (0, 1, 2)]
    plain = [(p.relation, p.second.name) for p in pairs_of([network("a", None, None), network("b", None, None)])]
    assert plain == [("other run", "b")]


def test_means_over_seeds_and_paired_changes_are_students() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"site": site, "alpha": alpha, "seed": seed, "value": rng.normal()}
        for site in "ab" for alpha in (-1.0, 0.0) for seed in range(4)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    row = over_seeds(table, ["site"], ["value"], 0.9).query("site == 'b' and alpha == -1").iloc[0]
    own, control = (table.query(f"site == 'b' and alpha == {alpha}")["value"].to_numpy() for alpha in (-1, 0))
    low, high = stats.t.interval(0.9, 3, own.mean(), stats.sem(own))
    assert row[["value", "value_low", "value_high"]].tolist() == pytest.approx([own.mean(), low, high])
    change = stats.ttest_rel(own, control).confidence_interval(0.9)
    assert row[["value_change_low", "value_change_high"]].tolist() == pytest.approx([change.low, change.high])


def test_the_ratio_of_distances_is_welchs_on_logarithms() -> None:
    rng = np.random.default_rng(1)
    own, control = rng.uniform(0.2, 0.5, 3), rng.uniform(0.05, 0.15, 3)
    measures = ("cca", "svcca", "pwcca", "cka", "cka_debiased")
    rows = [{"relation": "from alpha 0", "alpha": -1.0, "site": "a", **dict.fromkeys(measures, v)} for v in own]
    rows += [{"relation": "seed to seed", "alpha": 0.0, "site": "a", **dict.fromkeys(measures, v)} for v in control]
    row = distances_by_alpha(pd.DataFrame(rows), 0.95).query("measure == 'cka'").iloc[0]
    welch = stats.ttest_ind(np.log(own), np.log(control), equal_var=False).confidence_interval(0.95)
    assert row["ratio"] == pytest.approx(stats.gmean(own) / stats.gmean(control))
    assert [row["ratio_low"], row["ratio_high"]] == pytest.approx([np.exp(welch.low), np.exp(welch.high)])


def outcome(aligned: list[float], rotated: list[float]) -> str:
    rows = [
        {"run": f"{alpha}-{seed}", "alpha": alpha, "seed": seed, "aligned": a, "rotated": r}
        for alpha, first, second in ((0.0, [0.4] * len(aligned), [0.8] * len(aligned)), (-1.0, aligned, rotated))
        for seed, (a, r) in enumerate(zip(first, second, strict=True))
    ]
    selectivity = pd.DataFrame(rows).assign(dead=1, units=9)[["run", "alpha", "seed", "dead", "units"]]
    return str(outcomes_by_alpha(pd.DataFrame(rows), selectivity, 0.95)["outcome"].iloc[0])


def test_gone_rotated_and_what_cannot_be_told() -> None:
    assert outcome([0.10, 0.11, 0.12], [0.20, 0.21, 0.22]) == "gone"
    assert outcome([0.10, 0.11, 0.12], [0.78, 0.79, 0.80]) == "rotated"
    assert outcome([0.10, 0.11, 0.12], [0.50, 0.52, 0.54]) == "partly gone"
    assert outcome([0.10, 0.11, 0.12], [0.20, 0.50, 0.80]) == "cannot tell"
    assert outcome([0.38, 0.42, 0.40], [0.20, 0.21, 0.22]) == "not reduced"
    assert outcome([0.38, 0.385, 0.39], [0.58, 0.59, 0.60]) == "hardly reduced"
    assert outcome([0.10], [0.20]) == "cannot tell"


def test_a_network_with_other_outputs_is_not_attacked() -> None:
    settings = GeometrySettings(corruptions=("contrast",))
    found = [conditions_of(SimpleNamespace(summary={"accuracy": each}), settings) for each in (None, {})]  # type: ignore[arg-type]
    assert found[0] == [Condition(CLEAN), Condition("corrupted", "contrast")]
    assert found[1] == [*found[0], Condition(ADVERSARIAL)]


def test_too_few_images_of_a_class_are_refused_before_work(run: auditor.Run) -> None:
    with pytest.raises(DataError, match="too few images of a class"):
        geometry(run, parts=["rotation"], n_images=10)


def test_early_layers_are_the_first_third() -> None:
    assert early_sites(list("abcdefg")) == ["a", "b", "c"]
    assert early_sites(["a"]) == ["a"]


def test_networks_of_other_images_are_refused(run: auditor.Run, runs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditor.Run, "save_figures", lambda _: [])
        other = auditor.profile(
            "factories:small_cnn", weights="none", limit=60, name="other", runs=tmp_path, shuffles=19, bootstraps=39
        )
    with pytest.raises(RunError, match="different images"):
        networks_of(run, [other])


@pytest.mark.slow
def test_a_sweep_by_alpha(runs: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditor.Run, "save_figures", lambda _: [])
        parent = auditor.Run.open("base", runs=runs)
        sweep = auditor.sweep(parent, alphas=[-3, 0], seeds=2, name="sweep", epochs=1, limit=200)
        patch.setattr(Geometry, "save_figures", lambda _: [])
        options = SMALL | {"layers": "re:[1-3]"}
        found = geometry(sweep, **options)
    assert found.is_sweep
    assert set(found.similarity["relation"]) == {"seed to seed", "from alpha 0"}
    for part in found.parts:
        assert -3 in set(found.by_alpha(part)["alpha"])
    assert set(found.associations["n_networks"]) == {4}
    assert found.outcomes["outcome"].iloc[0] in {
        "gone",
        "rotated",
        "partly gone",
        "cannot tell",
        "not reduced",
        "hardly reduced",
    }
    assert "dprime_kept" in found.outcomes
    assert "Alpha -3" in found.summary()
    shown = CliRunner().invoke(
        main, ["geometry", "--sweep", "sweep", "--runs", str(runs), *COMMAND, "--layers", "re:[1-3]"]
    )
    assert shown.exit_code == 0, shown.output
    assert str(found.path) in shown.output.replace("\n", "")
    assert "left on best axes" in shown.output
    assert {"gradients", "rotation", "probes", "similarity", "similarity_by_layer"} < set(found.figures())
    assert sweep.path.joinpath("geometry") in found.path.parents
    # A member that is measured alone shares what was measured of it.
    assert list(sweep.members[0].run.path.glob("geometry/parts/*/manifest.json"))


def test_the_command_is_a_thin_shell(runs: Path, found: Geometry) -> None:
    arguments = ["geometry", "--run", "base", "--runs", str(runs), *COMMAND]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "Participation ratio" in shown.output
    assert str(found.path) in shown.output.replace("\n", "")
    document = json.loads(CliRunner().invoke(main, [*arguments, "--json", "--quiet"]).stdout)
    assert document["tables"]["probes"][0]["n_test"] == 150
    wrong = CliRunner().invoke(main, [*arguments, "--sweep", "x"])
    assert wrong.exit_code == 2
