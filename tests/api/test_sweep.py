"""The verb ``sweep``: what it trains, what it skips, and what its tables say."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import auditor
from auditor.api import sweep_work
from auditor.api.compare import Comparison, correct_images
from auditor.api.intervention import find_arms
from auditor.api.overview import list_runs
from auditor.api.sweep import Sweep, sweep
from auditor.api.sweep_board import Board
from auditor.api.sweep_grid import Cell, grid
from auditor.api.sweep_words import change_sentences, seeds_sentence
from auditor.api.workspace import locked
from auditor.causal import harm_images, non_inferiority_images
from auditor.errors import DataError, OptionError, RunError, UnknownNameError
from auditor.progress import NullReporter

TRAINING: dict[str, Any] = {"epochs": 1, "limit": 100, "learning_rate": 0.04, "device": "cpu"}


class Said(NullReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module", autouse=True)
def _no_figures_of_networks() -> Any:
    """They take seconds, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auditor.api.finetune._save_history_figure", lambda _: None)
        patch.setattr(Comparison, "save", lambda *_: None)
        patch.setattr(auditor.Run, "save_figures", lambda _: [])
        patch.setattr(Sweep, "save_figures", lambda _: [])
        yield


def copied(shared_runs: Path, folder: Path) -> auditor.Run:
    shutil.copytree(shared_runs / "base", folder / "base")
    return auditor.Run.open("base", runs=folder)


@pytest.fixture(scope="module")
def run(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> auditor.Run:
    return copied(shared_runs, tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def swept(run: auditor.Run) -> Sweep:
    return sweep(run, alphas=[-1, 1], seeds=2, name="it", **TRAINING)


@pytest.fixture
def fresh(shared_runs: Path, tmp_path: Path) -> auditor.Run:
    return copied(shared_runs, tmp_path)


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_work, "finetune", lambda *_, **__: pytest.fail("trained again"))


def test_every_alpha_has_every_seed_and_a_run_of_its_own(swept: Sweep, run: auditor.Run) -> None:
    assert [(m.alpha, m.seed) for m in swept.members] == [(a, s) for a in (-1, 0, 1) for s in (0, 1)]
    assert swept.parent.path == run.path
    for member in swept.members:
        assert member.run.path == swept.path / "networks" / f"alpha-{member.alpha:g}-seed{member.seed}"
        assert {key: member.run.plan[key] for key in ("alpha", "seed", "epochs")} == {
            "alpha": member.alpha, "seed": member.seed, "epochs": 1,
        }  # fmt: skip
        assert isinstance(member.run, auditor.FineTuned)
    table = swept.networks.set_index("name")
    for member in swept.members:
        row, summary = table.loc[member.run.name], member.run.summary
        assert row["accuracy"] == summary["accuracy"]["accuracy"]
        assert [row[f"mean_index{end}"] for end in ("", "_low", "_high")] == [
            summary["network"][key] for key in ("mean_index", "low", "high")
        ]
        assert row["excess"] == pytest.approx(summary["network"]["excess"])
        assert row["dead"] == (member.run.selectivity["dead"]).sum()
        assert row["seconds"] > 0
    assert (swept.failed, swept.missing, swept.manifest.complete) == ([], [], True)
    json.dumps(json.loads((swept.path / "sweep.json").read_text("utf-8")), allow_nan=False)
    json.dumps(swept.to_dict(), allow_nan=False)


def test_the_table_of_alphas_as_scipy(swept: Sweep) -> None:
    networks, alphas = swept.networks, swept.alphas.set_index("alpha")
    values = {a: networks[networks["alpha"] == a].sort_values("seed") for a in (-1, 0, 1)}
    for alpha, mine in values.items():
        for name in ("accuracy", "mean_index", "excess"):
            low, high = stats.t.interval(0.95, 1, mine[name].mean(), stats.sem(mine[name]))
            assert alphas.loc[alpha, [name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(
                [mine[name].mean(), low, high]
            )
    tests = {
        -1: stats.ttest_1samp(values[-1]["accuracy"].to_numpy() - values[0]["accuracy"].to_numpy(), -0.01,
                              alternative="greater"),
        1: stats.ttest_rel(values[1]["accuracy"], values[0]["accuracy"], alternative="less"),
    }  # fmt: skip
    q = stats.false_discovery_control([tests[-1].pvalue, tests[1].pvalue])
    for alpha, adjusted in zip((-1, 1), q, strict=True):
        row = alphas.loc[alpha]
        assert row["p"] == pytest.approx(tests[alpha].pvalue)
        assert row["q"] == pytest.approx(adjusted)
        difference = values[alpha]["mean_index"].to_numpy() - values[0]["mean_index"].to_numpy()
        interval = stats.t.interval(0.95, 1, difference.mean(), stats.sem(difference))
        assert row[["mean_index_change_low", "mean_index_change_high"]].tolist() == pytest.approx(list(interval))
        assert (row["n_pairs"], row["change_over"], row["over"]) == (2, "seeds", "seeds")
    assert alphas["claim"].fillna("").tolist() == ["no worse", "", "worse"]
    assert alphas["margin"].tolist() == pytest.approx([0.01, np.nan, 0], nan_ok=True)
    assert np.isnan(alphas.loc[0, "accuracy_change"])


def test_layers_are_means_over_the_networks(swept: Sweep) -> None:
    layers = swept.layers.set_index(["alpha", "site"])
    assert [site for _, site in layers.index][:3] == [site.name for site in swept.parent.sites]
    whole = pd.concat([m.run.layers.assign(alpha=m.alpha) for m in swept.members])
    for key, mine in whole.groupby(["alpha", "site"]):
        row = layers.loc[key]
        assert row["mean_index"] == pytest.approx(mine["mean_index"].mean())
        assert row["null_mean"] == pytest.approx(mine["index_null_mean"].mean())
        assert row["dead"] == mine["dead"].mean()
        assert row["over"] == "seeds"


def test_what_is_done_is_not_done_again(swept: Sweep, run: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    no_training(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in swept.path.rglob("*") if path.is_file()}
    said = Said()
    again = sweep(run, alphas=(1, 0, -1), seeds=(1, 0), name="it", reporter=said, **TRAINING)
    assert {path: path.stat().st_mtime_ns for path in swept.path.rglob("*") if path.is_file()} == before
    assert len(again.members) == 6
    assert said.lines == [f"Sweep: {swept.path}, 6 networks, 6 of them finished before."]


def test_damaged_records_are_made_again(swept: Sweep, run: auditor.Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "base")
    shutil.copytree(swept.path, tmp_path / "it")
    work, before = tmp_path / "it" / "work" / "alpha-1-seed0", swept.networks
    (work / "done.json").write_text("{", encoding="utf-8")
    (work / "failed.json").write_text('{"id": "x"}', encoding="utf-8")
    (tmp_path / "it" / "networks.csv").unlink()
    broken = Sweep.open(tmp_path / "it")
    assert [(one.alpha, one.seed, one.error) for one in broken.failed] == [(1, 0, "unknown: its record is damaged")]
    again = sweep(auditor.Run.open(tmp_path / "base"), alphas=[-1, 1], seeds=2, name="it", **TRAINING)
    assert (again.failed, len(again.members)) == ([], 6)
    pd.testing.assert_frame_equal(again.networks, before)
    (tmp_path / "it" / "alphas.csv").unlink()
    again.write(margin=0.01)
    assert len(again.alphas) == 3


def test_changes_have_intervals_or_say_that_there_are_none(swept: Sweep) -> None:
    row = swept.alphas.set_index("alpha").loc[-1]
    change, low, high = (row[f"mean_index_change{end}"] for end in ("", "_low", "_high"))
    assert f"mean SI {change:+.3f} ([{low:+.3f}, {high:+.3f}])" in swept.summary()
    assert "mean SI +0.100 (no interval)" in change_sentences(
        swept.alphas.assign(mean_index_change=0.1, mean_index_change_low=np.nan, mean_index_change_high=np.nan)
    )[0]  # fmt: skip


def test_other_settings_are_another_sweep(swept: Sweep, run: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    no_training(monkeypatch)
    with pytest.raises(RunError, match="other settings") as caught:
        sweep(run, alphas=[1], name="it", **(TRAINING | {"learning_rate": 0.2}))
    assert "plan.learning_rate: 0.04 -> 0.2" in str(caught.value)
    with pytest.raises(RunError, match="holds a profile run"):
        sweep(run, alphas=[1], name="base", **TRAINING)
    (run.path.parent / "notes").mkdir()
    (run.path.parent / "notes" / "text").touch()
    with pytest.raises(RunError, match="is not a sweep"):
        sweep(run, alphas=[1], name="notes", **TRAINING)


def test_it_is_found_and_is_no_run(swept: Sweep, run: auditor.Run) -> None:
    runs = run.path.parent
    assert Sweep.latest(runs).path == Sweep.open("it", runs=runs).path == Sweep.open(swept.path).path == swept.path
    assert Sweep.open(swept.path).parent.path == run.path
    assert auditor.Run.open(runs=runs).path == run.path
    with pytest.raises(RunError, match="not a profile"):
        auditor.Run.open("it", runs=runs)
    with pytest.raises(RunError, match="not a sweep"):
        Sweep.open("base", runs=runs)
    with pytest.raises(UnknownNameError, match="'at'"):
        Sweep.open("at", runs=runs)
    states = {row["name"]: (row["state"], row["weights"], row["model"]) for row in list_runs(runs)}
    assert states["it"] == ("complete, 6 of 6 networks", "sweep", "factories:small_cnn")
    # An audit of the parent finds its arms there.
    arms = {arm.alpha: {seed: each.path for seed, each in arm.runs.items()} for arm in find_arms(run)}
    assert arms == {a: {m.seed: m.run.path for m in swept.members if m.alpha == a} for a in (-1, 0, 1)}


def test_no_sweep_yet(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no sweep"):
        Sweep.latest(tmp_path)


def test_alphas_and_seeds_join_later(fresh: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    first = sweep(fresh, alphas=[1], seeds=1, reporter=said, **TRAINING)
    assert said.lines[0] == "alpha 0 is added: it is what the others are compared with."
    assert any("network only" in line for line in first.summary().splitlines())
    trained: list[tuple[float, int]] = []
    original = sweep_work.finetune

    def noting(*args: Any, **options: Any) -> Any:
        trained.append((options["alpha"], options["seed"]))
        return original(*args, **options)

    monkeypatch.setattr(sweep_work, "finetune", noting)
    # A default that is written out is the same setting.
    more = sweep(fresh, alphas=[1, 0, 2], seeds=[5, 0], optimizer="sgd", regularize="all", **TRAINING)
    assert more.path == first.path
    assert trained == [(0, 5), (1, 5), (2, 5), (2, 0)]
    assert [(c.alpha, c.seed) for c in more.cells] == [(a, s) for a in (0, 1, 2) for s in (0, 5)]
    assert more.alphas["n_seeds"].tolist() == [2, 2, 2]


def test_one_seed_is_judged_over_images_and_says_so(fresh: auditor.Run) -> None:
    found = sweep(fresh, alphas=[-5, 5], seeds=1, margin=0.02, **TRAINING)
    by_alpha = {member.alpha: member.run for member in found.members}
    right = {alpha: correct_images(each) for alpha, each in by_alpha.items()}
    table = found.alphas.set_index("alpha")
    for alpha, test in (
        (-5, non_inferiority_images(right[-5], right[0], margin=0.02)),
        (5, harm_images(right[5], right[0])),
    ):
        row = table.loc[alpha]
        assert (row["change_over"], row["over"], row["n_pairs"]) == ("images", "images", 1)
        assert row[["accuracy_change_low", "accuracy_change_high", "p"]].tolist() == pytest.approx(
            [test.low, test.high, test.p]
        )
        change = auditor.compare(by_alpha[0], by_alpha[alpha]).overall.iloc[1]
        assert row["mean_index_change_low"] == pytest.approx(change["index_change_low"])
        assert row["accuracy_low"] == by_alpha[alpha].summary["accuracy"]["low"]
    assert set(found.layers["over"]) == {"images"}
    assert seeds_sentence(found.alphas) in found.summary()
    assert all(np.isnan(one.interval().low) for one in found.halving().values())


def test_a_network_that_fails_does_not_stop_the_others(fresh: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = sweep_work.finetune, []

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(options["alpha"])
        if options["alpha"] == -1:
            raise ZeroDivisionError("by nought\nat all")
        return original(*args, **options)

    monkeypatch.setattr(sweep_work, "finetune", failing)
    found = sweep(fresh, alphas=[-1, 1], seeds=1, **TRAINING)
    assert calls == [0, -1, 1]
    assert [(one.alpha, one.seed, one.error) for one in found.failed] == [
        (-1, 0, "ZeroDivisionError: by nought\nat all")
    ]
    assert "Failed: alpha -1, seed 0: ZeroDivisionError: by nought" in found.summary().splitlines()
    assert found.alphas["alpha"].tolist() == [0, 1]
    assert not found.manifest.complete
    record = json.loads((found.path / "work" / "alpha--1-seed0" / "failed.json").read_text("utf-8"))
    assert "failing" in record["traceback"]
    monkeypatch.setattr(sweep_work, "finetune", original)
    again = sweep(fresh, alphas=[-1, 1], seeds=1, **TRAINING)
    assert (again.failed, again.manifest.complete) == ([], True)
    assert again.alphas["alpha"].tolist() == [-1, 0, 1]


def test_when_all_fail_there_are_empty_tables(fresh: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise OSError("nothing works")

    monkeypatch.setattr(sweep_work, "finetune", failing)
    found = sweep(fresh, alphas=[1], seeds=1, **TRAINING)
    assert len(found.failed) == 2
    assert (len(found.networks), len(found.alphas), len(found.layers)) == (0, 0, 0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_network_that_is_deleted_is_trained_again(fresh: auditor.Run) -> None:
    found = sweep(fresh, alphas=[1], seeds=1, **TRAINING)
    before = {member.alpha: (member.run.path / "weights.safetensors").read_bytes() for member in found.members}
    shutil.rmtree(found.members[1].run.path)
    assert [str(cell) for cell in Sweep.open(found.path).missing] == ["alpha 1, seed 0"]
    again = sweep(fresh, alphas=[1], seeds=1, **TRAINING)
    assert {m.alpha: (m.run.path / "weights.safetensors").read_bytes() for m in again.members} == before


def test_what_others_are_at_is_waited_for(fresh: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_work, "PAUSE", 0.01)
    path = fresh.path.parent / "shared"
    said, others = Said(), Board(path)
    others.join(_manifest_of(fresh), [Cell(0.0, 0), Cell(1.0, 0)])
    thread = threading.Thread(
        target=lambda: sweep(fresh, alphas=[1], seeds=1, name="shared", reporter=said, **TRAINING)
    )
    with locked(others.work(Cell(0.0, 0))):
        thread.start()
        waiting = "Other processes are at alpha 0, seed 0: waiting for them."
        for _ in range(6000):
            if waiting in said.lines:
                break
            threading.Event().wait(0.01)
        assert waiting in said.lines
        assert others.done(Cell(1.0, 0)) is not None
        assert others.done(Cell(0.0, 0)) is None
    thread.join(60)
    assert len(Sweep.open(path).members) == 2


def _manifest_of(run: auditor.Run) -> Any:
    from auditor.api.sweep_board import KIND
    from auditor.api.sweep_grid import identity, plans
    from auditor.manifest import Manifest, provenance

    plan = plans([Cell(0.0, 0)], TRAINING)[0]
    told = provenance(parent=str(run.path), model="m", data="d", confidence=run.confidence, cells=[])
    return Manifest(KIND, identity(run, plan, TRAINING), told)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.integers(1, 4))
def test_the_grid_is_whole_and_names_differ(alphas: list[float], seeds: int) -> None:
    cells = grid(alphas, seeds)
    assert set(cells) == {Cell(a + 0.0, s) for a in {*alphas, 0.0} for s in range(seeds)}
    assert len({cell.name for cell in cells}) == len(cells)
    assert cells[0] == Cell(0.0, 0)
    for cell in cells:
        alpha, seed = cell.name.removeprefix("alpha-").rsplit("-seed", 1)
        assert (float(alpha), int(seed)) == (cell.alpha, cell.seed)


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"alphas": []}, OptionError, "finite values"),
        ({"alphas": [float("nan")]}, OptionError, "finite values"),
        ({"alphas": [1], "seeds": 0}, OptionError, "needs a seed"),
        ({"alphas": [1], "seeds": [-1]}, OptionError, "0 or more"),
        ({"alphas": [1], "processes": 0}, OptionError, "needs a process"),
        ({"alphas": [1], "margin": -1}, OptionError, "share of images"),
        ({"alphas": [1], "optimizer": "sdg"}, UnknownNameError, "sdg"),
        ({"alphas": [1], "learning": 1}, UnknownNameError, "training option"),
        ({"alphas": [1], "epochs": 0}, OptionError, "epochs"),
        ({"alphas": [1], "name": "a/b"}, OptionError, "plain folder name"),
        ({"alphas": [1], "cache_images": "some"}, UnknownNameError, "some"),
        ({"alphas": [1], "limit": 0}, OptionError, "limit"),
        ({"alphas": [1], "limit": 1}, DataError, "one class only"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    base: auditor.Run, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    before = sorted(base.path.parent.iterdir())
    with pytest.raises(error, match=match):
        sweep(base, **options)
    assert sorted(base.path.parent.iterdir()) == before


def test_without_a_train_split_there_is_nothing_to_sweep(factories: str, tmp_path: Path) -> None:
    run = auditor.profile(
        factories, weights="none", fractions=(0.0, 0.5, 0.5), limit=40, shuffles=199, bootstraps=100, runs=tmp_path
    )
    with pytest.raises(DataError, match="train split is empty"):
        run.sweep([1])


def test_a_network_from_python_can_be_swept_in_this_process_only(tmp_path: Path, factories: str) -> None:
    from factories import small_cnn

    from auditor.data import load_data

    preprocessing = auditor.Preprocessing(input_size=(3, 32, 32))
    torch.manual_seed(0)
    run = auditor.profile(
        small_cnn(), data=load_data("digits").limited(60), preprocessing=preprocessing, shuffles=199, bootstraps=100,
        runs=tmp_path, name="given",
    )  # fmt: skip
    with pytest.raises(OptionError, match="data and model came from Python"):
        sweep(run, alphas=[1], processes=2)
    found = sweep(run, alphas=[1], seeds=1, epochs=1)
    assert len(found.members) == 2
    assert len(found.members[0].run.data()) == len(run.data())


@pytest.mark.slow
def test_processes_do_what_one_does_and_survive_a_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training that finds the order to die takes it along; the other process does the rest."""
    (tmp_path / "dying.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from torch import nn\n"
        "import auditor.api.finetune\n"
        "# Figures take seconds, and have tests of their own.\n"
        "auditor.api.finetune._save_history_figure = lambda _: None\n"
        "auditor.api.compare.Comparison.save = lambda *_: None\n"
        "auditor.Run.save_figures = lambda _: []\n"
        "class Dying(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        if self.training and 'DIE' in os.environ:\n"
        "            try:\n"
        "                Path(os.environ['DIE']).unlink()\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "            except FileNotFoundError:\n"
        "                pass\n"
        "        return super().forward(x)\n"
        "def net(num_classes=10):\n"
        "    return Dying(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                 nn.Linear(4, num_classes))\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = auditor.profile(
        "dying:net", weights="none", limit=40, shuffles=199, bootstraps=100, runs=tmp_path / "runs", name="it"
    )
    options: dict[str, Any] = {"alphas": [1], "seeds": 1, "epochs": 1, "device": "cpu"}
    alone = sweep(run, name="alone", **options)
    (tmp_path / "die").touch()
    monkeypatch.setenv("DIE", str(tmp_path / "die"))
    several = sweep(run, name="several", processes=2, **options)
    assert [one.error for one in several.failed] == ["The process that trained it ended with signal 9."]
    assert len(several.members) == 1
    again = sweep(run, name="several", **options)
    assert again.failed == []
    # The number of threads differs, and with it the order of sums.
    left, right = (one.networks.drop(columns="seconds") for one in (alone, again))
    pd.testing.assert_frame_equal(left, right, rtol=1e-3, atol=0.02)
