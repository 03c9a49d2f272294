"""Plans: counts against closed forms and real files, laws of scaling. No time is asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import auditor
from auditor.ablation.curves import curve_counts
from auditor.api.ablation_settings import AblationSettings
from auditor.api.bench import Bench
from auditor.api.forward import Execution
from auditor.api.joint import EVEN_POINTS
from auditor.api.joint import Plan as Silenced
from auditor.api.plan_ablate import AblationCost, Chosen, ablation_parts, choose, sizes
from auditor.api.plan_clock import METHOD, NO_TIME, Part, Stopwatch, Timed
from auditor.api.plan_counts import Counts, count
from auditor.api.plan_finetune import TrainingCost, training_parts
from auditor.api.plan_profile import (
    ProfileCost,
    measure_scoring,
    moments_bytes,
    profile_parts,
    scoring_operations,
    store_bytes,
)
from auditor.api.plan_result import Plan, duration, shown, time_text
from auditor.api.selection import select_units
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.errors import OptionError, UnknownNameError
from auditor.models import probe_sites
from auditor.training import TrainingPlan

ONE = Timed(1.0, 0.5, 2.0)
IMAGES = {"train": 400, "select": 100, "score": 60}


def quickly(patch: pytest.MonkeyPatch) -> None:
    """Leave out the start of a Python and the figures, which take seconds."""
    patch.setattr("auditor.api.plan.measure_start", lambda: ONE)
    patch.setattr("auditor.api.run.Run.save_figures", lambda _: [])


@pytest.fixture(autouse=True)
def _quickly(shared_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def counted(model: nn.Module, images: torch.Tensor) -> Counts:
    return count(model, images[:2], probe_sites(model, images[:2]))


def test_operations_of_a_plain_network_by_the_formula(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    found = counted(tiny_cnn, tiny_batch)
    # two for each multiply-add: inputs x kernel x outputs x positions
    conv1, conv2, fc1, fc2 = 2 * 3 * 9 * 8 * 64, 2 * 8 * 9 * 12 * 16, 2 * 12 * 10, 2 * 10 * 3
    assert found.forward == conv1 + conv2 + fc1 + fc2
    assert found.n_units == 8 + 12 + 10
    assert found.table()["operations_after"].tolist() == [conv2 + fc1 + fc2, fc1 + fc2, fc2]
    assert found.after(["act2", "act3"]) == fc1 + fc2
    assert found.weights == sum(4 * p.numel() for p in tiny_cnn.parameters())
    assert found.image == 4 * 3 * 16 * 16
    assert found.n_outputs == 3


def test_a_residual_network_runs_again_what_comes_after(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    found = counted(tiny_resnet, tiny_batch)
    conv, fc = 2 * 8 * 9 * 8 * 64, 2 * 8 * 3
    assert found.forward == 2 * 3 * 9 * 8 * 64 + 4 * conv + fc
    after = found.table().set_index("site")["operations_after"]
    assert after.tolist() == [4 * conv + fc, 3 * conv + fc, 2 * conv + fc, conv + fc, fc]


def test_operations_are_those_that_torch_counts(tiny_model: nn.Module, tiny_batch: torch.Tensor) -> None:
    found = counted(tiny_model, tiny_batch)
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        tiny_model(tiny_batch)
    assert found.forward * len(tiny_batch) == counter.get_total_flops()
    assert sum(own for _, own in found.calls) <= found.forward
    after = found.table()["operations_after"]
    assert after.is_monotonic_decreasing
    assert after.between(0, found.forward).all()


def test_counting_leaves_the_network_as_it_is(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    tiny_resnet.train()
    before = {name: value.clone() for name, value in tiny_resnet.state_dict().items()}
    counted(tiny_resnet, tiny_batch)
    assert tiny_resnet.training
    assert not any(module._forward_hooks or "forward" in vars(module) for module in tiny_resnet.modules())
    assert all(torch.equal(value, before[name]) for name, value in tiny_resnet.state_dict().items())


def test_what_a_step_keeps_of_an_image() -> None:
    # The image for the first layer's weights, its output for the ReLU's slope, and the same for the second's weights.
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    found = counted(model, torch.randn(2, 3, 2, 2))
    assert found.kept == 4 * (12 + 5)


@pytest.fixture
def base_counts(base: auditor.Run) -> Counts:
    model = base.model(Execution(device="cpu"))
    return count(model.module, torch.zeros(2, *model.preprocessing.input_size), base.sites)


def test_bytes_are_those_of_a_real_profile(base: auditor.Run, base_counts: Counts) -> None:
    with base.store() as store:
        n, width = store.n_rows, max(len(name.encode()) for name in store.ids)
    planned, held = store_bytes(base_counts, n, StoreSettings(), id_bytes=width)
    real = base.path.joinpath("activations.h5").stat().st_size
    assert held == 0
    assert planned == pytest.approx(real, abs=8192 + 2048 * len(base.sites))
    archives = sum(base.path.joinpath("moments", f"{split}.npz").stat().st_size for split in ("select", "score"))
    headers = 2 * len(base.sites) * 6 * 512
    assert moments_bytes(base_counts, 10) <= archives <= moments_bytes(base_counts, 10) + headers


def test_what_is_stored_decides_the_bytes(base_counts: Counts) -> None:
    def size(keep: str, dtype: str) -> tuple[int, int]:
        return store_bytes(base_counts, 1000, StoreSettings(keep, dtype), id_bytes=20)

    units = base_counts.n_units
    assert size("pooled", "float32")[0] - size("pooled", "float16")[0] == 1000 * units * 2
    maps = sum(math.prod(site.shape) for site in base_counts.sites)
    extra = size("full", "float32")[0] - size("pooled", "float32")[0]
    assert extra == pytest.approx(4000 * maps, abs=1024 * len(base_counts.sites))
    assert size("none", "float16")[1] == 1000 * units * 2


def test_a_plan_silences_what_ablate_silences(base: auditor.Run, base_counts: Counts) -> None:
    settings = AblationSettings(top_selective=5)
    bench = Bench.build(base, base.data().limited(20), settings, Execution(device="cpu"))
    chosen, _ = choose(base, settings, exact=True)
    assert chosen.index.tolist() == select_units(base.selectivity, settings).index.tolist()
    score = base.selectivity["index_excess"].to_numpy()
    silenced = Silenced.make(bench.units, chosen, score, settings)
    rows = chosen.index.to_numpy()
    found = sizes(base_counts, bench, silenced, rows, None)
    assert found.alone == chosen["site"].value_counts().to_dict()
    points = len(curve_counts(52, 8, even=EVEN_POINTS))
    assert found.n_groups == 1 + 1 + 100 + (2 + 5) * points
    # The intact network runs whole; the sets share the sites of the selected units.
    after = base_counts.after(chosen["site"].unique())
    assert found.set_operations == base_counts.forward + 101 * after
    assert 0 < found.point_operations <= 7 * points * base_counts.forward
    twice = sizes(base_counts, bench, silenced, rows, 10)
    assert sum(twice.alone.values()) == pytest.approx(10)


def profile_of(counts: Counts, scale: int) -> list[Part]:
    cost = ProfileCost(ONE, ONE, ONE, ONE, ONE.times(scale))
    images = {split: scale * n for split, n in IMAGES.items()}
    return profile_parts(counts, cost, images, StoreSettings(), SelectivitySettings(), n_classes=10, id_bytes=16)


def test_twice_the_images_take_twice_the_pass(base_counts: Counts) -> None:
    once, twice = (profile_of(base_counts, scale)[1] for scale in (1, 2))
    assert once.part == "pass over the images"
    assert once.parallel
    assert once.operations == 160 * base_counts.forward
    assert twice.operations == 2 * once.operations
    assert twice.time == once.time.times(2) == ONE.times(320)
    row = 4 * (52 + 10) + 8 + 1 + 16
    assert twice.disk - once.disk == 160 * row


def test_ablation_grows_with_units_and_images(base_counts: Counts) -> None:
    first, last = base_counts.sites[0].name, base_counts.sites[-1].name
    cost = AblationCost(ONE, {first: ONE, last: ONE.times(0.5)}, ONE, ONE, NO_TIME, NO_TIME, NO_TIME, ONE)

    def alone(units: int, n: int) -> Part:
        found = Chosen({first: units, last: 2 * units}, 1, 100, 10, 20, 0)
        parts = ablation_parts(base_counts, found, cost, n, start=ONE, read=NO_TIME, batch_size=64, memory=2**20)
        return next(part for part in parts if part.part.endswith("units alone"))

    part = alone(3, 50)
    assert part.part == "9 units alone"
    assert part.time.seconds == 50 * (3 * 1 + 6 * 0.5 + 1)
    after = {name: base_counts.after([name]) for name in (first, last)}
    assert part.operations == 50 * (3 * after[first] + 6 * after[last] + base_counts.forward)
    assert part.disk == 16 * 9 * 50
    assert alone(3, 100).time.seconds == 2 * part.time.seconds
    assert alone(6, 50).disk == 2 * part.disk


def test_training_grows_with_epochs(base_counts: Counts) -> None:
    cost = TrainingCost(ONE, ONE, ONE, NO_TIME, ONE)

    def parts(epochs: int) -> dict[str, Part]:
        plan = TrainingPlan(alpha=-1.0, epochs=epochs)
        made = training_parts(base_counts, cost, IMAGES, plan, start=ONE)
        return {part.part.split(",")[0]: part for part in made}

    five, ten = parts(5), parts(10)
    assert five["training"].operations == 3 * 5 * 400 * base_counts.forward
    assert ten["training"].time == five["training"].time.times(2)
    assert five["evaluation after each epoch"].time.seconds == 5 * (100 + 1)
    assert ten["comparison and figures"] == five["comparison and figures"]


def test_devices_divide_what_divides() -> None:
    parts = [
        Part("profile", "start", "-", Timed(3, 3, 3)),
        Part("profile", "pass", "images", Timed(12, 10, 16), parallel=True),
        Part("ablate", "units", "units", Timed(5, 4, 6), parallel=True),
    ]
    plan = Plan({}, None, parts, devices=4)  # type: ignore[arg-type]
    assert plan.seconds("profile").seconds == 3 + 12 / 4
    assert plan.seconds("profile", devices=1) == pytest.approx((15, 13 * (1 - METHOD), 19 * (1 + METHOD)))
    assert plan.seconds(devices=1000).seconds == pytest.approx(3 + 0.017)
    totals = plan.totals().set_index("job")
    assert totals.loc["all", "serial"] == 3
    assert totals.loc["profile", "speedup"] == 15 / 6
    assert totals.loc["profile", "limit"] == 5
    assert math.isnan(totals.loc["ablate", "limit"])


def test_scoring_operations() -> None:
    settings = SelectivitySettings(shuffles=1000, bootstraps=500)
    assert scoring_operations(100, 8, 10, settings) == 2 * 100 * 8 * (1000 * 9 + 500)
    assert scoring_operations(100, 8, 1000, settings) == 2 * 100 * 8 * 1500


def test_scores_of_signed_layers_are_timed_too(shared_runs: Path, base: auditor.Run) -> None:
    labels = np.resize(np.arange(10), 200)
    settings = SelectivitySettings(shuffles=200, bootstraps=100)
    base.layers["signed"] = [0, 1, 0]
    found = measure_scoring(base, labels, 10, settings, budget=0.1)
    assert 0 < found.low <= found.seconds <= found.high


def test_a_stopwatch_keeps_steps_and_their_amounts() -> None:
    clock = Stopwatch()
    with clock.task("Profiling", 6, "images") as task:
        task.advance(0)
        task.advance(4)
        task.advance(2)
    span = clock.span("Prof")
    assert [amount for _, amount in span.steps] == [0, 4, 2]
    assert span.seconds >= sum(taken for taken, _ in span.steps)
    assert len(span.rates()) == 2


def test_a_range_holds_its_median() -> None:
    values = [3.0, 1.0, 2.0, 10.0]
    found = Timed.of(values)
    assert found == pytest.approx((np.median(values), np.quantile(values, 0.1), np.quantile(values, 0.9)))
    assert Timed.of([]) == NO_TIME
    assert found.plus(ONE, ONE).high == found.high + 4


@pytest.mark.parametrize(
    "seconds, text", [(0.123, "0.12 s"), (45, "45 s"), (200, "3.3 min"), (7300, "2 h"), (9e5, "10 d")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_range_is_in_one_unit() -> None:
    assert time_text(Timed(300, 60, 3600)) == "5 min [1, 60]"
    assert shown(4.09e9) == "4.09 G"
    assert shown(12) == "12"


@pytest.fixture(scope="module")
def made(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        patch.setenv("AUDITOR_CACHE", str(tmp_path_factory.mktemp("empty")))
        patch.chdir(tmp_path_factory.mktemp("nothing"))
        found = auditor.plan(
            "factories:small_cnn", limit=60, seconds=0.2, top_selective=5, all_units=True, epochs=2, images=1200,
            devices=2, device="cpu", check=0,
        )  # fmt: skip
        assert list(Path.cwd().iterdir()) == []
    return found


def test_a_plan_covers_the_three_verbs(made: Plan) -> None:
    assert made.jobs == ["profile", "ablate", "finetune"]
    assert made.layers["n_units"].tolist() == [12, 16, 24]
    table = made.to_frame()
    assert (table["low"] <= table["seconds"]).all()
    assert (table["seconds"] <= table["high"]).all()
    assert {"52 units alone", "first-order estimates"} <= set(table["part"])
    assert made.about["images"] == {"train": 400, "select": 400, "score": 400}
    passed = table[table["part"] == "pass over the images"].iloc[0]
    assert passed["operations"] == 800 * made.about["operations"]


def test_it_says_what_it_assumes(made: Plan) -> None:
    text = made.summary()
    assert "random" in text
    assert "upper estimates" in text
    assert "1,200 images" in text
    assert "on 2 devices" in text


def test_it_is_plain_values(made: Plan) -> None:
    document = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert document["devices"] == 2
    assert [row["job"] for row in document["totals"]] == ["profile", "ablate", "finetune", "all"]
    assert len(document["parts"]) == len(made.parts)


def test_weights_that_are_there_are_used(factories: str, tmp_path: Path) -> None:
    auditor.profile(factories, runs=tmp_path, shuffles=19, bootstraps=39)
    found = auditor.plan(factories, jobs=["profile"], shuffles=19, bootstraps=39, seconds=0.1, device="cpu")
    assert "digits" in found.about["model"]
    assert not any("random" in note for note in found.notes)


def test_none_are_trained(factories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path))
    found = auditor.plan(factories, jobs=["profile"], limit=30, shuffles=19, bootstraps=39, seconds=0.1, device="cpu")
    assert list(tmp_path.iterdir()) == []
    assert any("trained once" in note for note in found.notes)


def test_a_run_is_planned_with_its_own_units(base: auditor.Run) -> None:
    found = auditor.plan(run=base, jobs=["ablate"], top_selective=5, units=20, seconds=0.1, device="cpu", check=0)
    assert found.jobs == ["ablate"]
    assert found.about["run"] == str(base.path)
    assert "20 units alone" in set(found.to_frame()["part"])


def test_what_cannot_be_done_is_said(factories: str) -> None:
    found = auditor.plan(factories, fractions=(0.0, 1.0, 0.0), limit=40, seconds=0.1, device="cpu")
    assert found.jobs == ["profile"]
    assert sum("is not planned" in note for note in found.notes) == 2


@pytest.mark.parametrize(
    "options", [{"devices": 0}, {"images": 0}, {"units": -1}, {"epochs": 0}, {"seconds": 0}, {"top_selective": 0}]
)
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        auditor.plan("no_such_network", **options)  # type: ignore[arg-type]


def test_unknown_jobs_and_too_many_units(factories: str) -> None:
    with pytest.raises(UnknownNameError, match="finetune"):
        auditor.plan(factories, jobs=["finetun"])
    with pytest.raises(OptionError, match="52 units"):
        auditor.plan(factories, jobs=["ablate"], top_selective=53, limit=30, seconds=0.1, device="cpu")
