"""What is shown of a unit is what the network does on the images that are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import auditor
from auditor.api.evidence import UnitEvidence, notable_units, unit_evidence
from auditor.api.forward import Execution
from auditor.api.regions import lay_out, project
from auditor.data.base import LabelledData
from auditor.errors import DataError, OptionError, UnknownNameError
from auditor.units import Site

CPU = Execution(device="cpu", batch_size=4)
SHAPE = auditor.Preprocessing(input_size=(3, 16, 16), resize=(16,), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
QUICK = {"shuffles": 19, "bootstraps": 39}

Profile = Callable[..., auditor.Run]


@pytest.fixture
def profile(tmp_path: Path, tiny_data: LabelledData, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _run: [])

    def call(model: nn.Module, **options: object) -> auditor.Run:
        given = {"data": tiny_data, "preprocessing": SHAPE, "runs": tmp_path, "name": "run"} | QUICK | options
        return auditor.profile(model, **given)  # type: ignore[arg-type]

    return call


class ChannelsLast(nn.Module):
    """Channels last: (B, 8, 8, 5) after the convolution, the fourth unit dead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 2, stride=2)
        self.act = nn.ReLU()
        self.fc = nn.Linear(5, 3)
        with torch.no_grad():
            self.conv.weight[3] = 0
            self.conv.bias[3] = -1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.conv(x).permute(0, 2, 3, 1))
        return self.fc(y.mean((1, 2)))


@pytest.fixture
def channels_last() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return ChannelsLast().eval()


def split_rows(run: auditor.Run, split: str = "select") -> np.ndarray:
    return np.asarray(run.data().splits[split])


def outputs(run: auditor.Run, rows: np.ndarray, layer: str, call: int = 1) -> torch.Tensor:
    """What one call of a layer returns for images of the data, by a hook of our own on a plain pass."""
    prepared, data = run.model(CPU), run.data()
    transform = prepared.preprocessing.build()
    seen: list[torch.Tensor] = []
    module = dict(prepared.module.named_modules())[layer]
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output.clone()))
    with torch.no_grad():
        prepared.module(torch.stack([transform(data.read(int(row))) for row in rows]))
    handle.remove()
    return seen[call - 1]


def check(run: auditor.Run, found: UnitEvidence, values: np.ndarray, rows: np.ndarray) -> None:
    """Compare with pooled responses (N,) to the images at `rows`."""
    data = run.data()
    n_top = min(6, int((values > values.min()).sum()))
    order = np.argsort(-values, kind="stable")[:n_top]
    assert [example.sample_id for example in found.top] == [data.ids[rows[place]] for place in order]
    row_of = {name: row for row, name in enumerate(data.ids)}
    transform = SHAPE.build()
    for example in found.top + found.random:
        row = row_of[example.sample_id]
        assert row in rows
        assert example.class_name == data.classes[data.labels[row]]
        assert example.response == pytest.approx(values[list(rows).index(row)], rel=1e-5, abs=1e-6)
        picture = np.asarray(data.read(row).convert("RGB"))
        np.testing.assert_array_equal(example.image, picture)  # of the model's own size already
        assert transform(data.read(row)).shape[1:] == example.image.shape[:2]
    shown = [example.sample_id for example in found.top + found.random]
    assert len(set(shown)) == len(shown)
    labels = data.labels[rows]
    for c in range(3):
        mine = values[labels == c]
        assert found.n[c] == len(mine)
        assert found.mean[c] == pytest.approx(mine.mean(), abs=1e-6)
        assert found.se[c] == pytest.approx(mine.std(ddof=1) / np.sqrt(len(mine)), abs=1e-6)


@pytest.mark.parametrize("store", ["pooled", "none"])
def test_maps_of_a_call_that_works_in_place(profile: Profile, tiny_resnet: nn.Module, store: str) -> None:
    run = profile(tiny_resnet, store=store)
    rows = split_rows(run)
    evidence = unit_evidence(run, ["blocks.0.relu@2:5", "relu:1", "blocks.0.relu@1:5"], execution=CPU)
    assert [one.unit_id for one in evidence] == ["blocks.0.relu@2:5", "relu:1", "blocks.0.relu@1:5"]
    for found, layer, call, unit in zip(
        evidence, ("blocks.0.relu", "relu", "blocks.0.relu"), (2, 1, 1), (5, 1, 5), strict=True
    ):
        maps = outputs(run, rows, layer, call)[:, unit]
        check(run, found, maps.mean((1, 2)).double().numpy(), rows)
        assert found.region_note == "Region: the unit's 8 x 8 map, up-sampled bilinearly."
        ids = [run.data().ids[row] for row in rows]
        for example in found.top + found.random:
            own = maps[ids.index(example.sample_id)][None, None]
            wanted = torch.nn.functional.interpolate(own, size=(16, 16), mode="bilinear", align_corners=False)[0, 0]
            np.testing.assert_allclose(example.region, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_channels_last_ties_and_dead_units(profile: Profile, channels_last: nn.Module) -> None:
    run = profile(channels_last)
    rows = split_rows(run)
    maps = outputs(run, rows, "act")
    evidence = unit_evidence(run, [f"act:{unit}" for unit in range(5)], execution=CPU)
    for unit, found in enumerate(evidence):
        check(run, found, maps[..., unit].mean((1, 2)).double().numpy(), rows)
    dead, alive = evidence[3], evidence[next(u for u in range(5) if u != 3 and evidence[u].top)]
    assert dead.top == ()
    assert dead.notes == ("The response to all 9 images is 0: there is no top image.",)
    assert len(dead.random) == 4
    assert not np.asarray(dead.random[0].region).any()
    assert alive.region_note == "Region: the unit's 8 x 8 map, up-sampled bilinearly."
    first = alive.top[0]
    unit = int(alive.unit_id.rpartition(":")[2])
    own = maps[[run.data().ids[row] for row in rows].index(first.sample_id), :, :, unit]
    wanted = torch.nn.functional.interpolate(own[None, None], size=(16, 16), mode="bilinear")[0, 0]
    np.testing.assert_allclose(first.region, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_tokens_without_the_class_token(profile: Profile, tiny_vit: nn.Module) -> None:
    run = profile(tiny_vit)
    rows = split_rows(run)
    tokens = outputs(run, rows, "blocks.1.act")
    (found,) = unit_evidence(run, ["blocks.1.act:7"], execution=CPU)
    check(run, found, tokens[..., 7].mean(1).double().numpy(), rows)
    assert "16 tokens as 4 x 4 patches" in found.region_note
    assert "leaves out the first token" in found.region_note
    first = found.top[0]
    own = tokens[[run.data().ids[row] for row in rows].index(first.sample_id), 1:, 7].reshape(1, 1, 4, 4)
    wanted = torch.nn.functional.interpolate(own, size=(16, 16), mode="bilinear")[0, 0]
    np.testing.assert_allclose(first.region, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_vectors_have_no_region(profile: Profile, tiny_cnn: nn.Module) -> None:
    run = profile(tiny_cnn)
    found = unit_evidence(run, ["act3:0", "act1:0"], execution=CPU, split="score")
    check(
        run, found[0], outputs(run, split_rows(run, "score"), "act3")[:, 0].double().numpy(), split_rows(run, "score")
    )
    assert found[0].region_note.startswith("No region")
    assert all(example.region is None for example in found[0].top + found[0].random)
    assert found[1].top[0].region is not None


def test_nothing_of_the_model_changes(profile: Profile, tiny_resnet: nn.Module) -> None:
    run = profile(tiny_resnet)
    module = run.model(CPU).module
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    unit_evidence(run, ["relu:0"], execution=CPU)
    assert all(child.training for child in module.modules())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in module.parameters())


def test_random_images_depend_on_the_seed_and_the_unit_only(profile: Profile, tiny_cnn: nn.Module) -> None:
    run = profile(tiny_cnn)

    def ids(units: list[str], **options: int) -> dict[str, list[str]]:
        found = unit_evidence(run, units, execution=CPU, n_top=2, n_random=3, **options)
        return {one.unit_id: [example.sample_id for example in one.random] for one in found}

    alone, together = ids(["act1:0"]), ids(["act2:3", "act1:0", "act1:0", "act1:1"])
    assert alone["act1:0"] == together["act1:0"]
    assert len({tuple(names) for names in together.values()}) > 1
    assert any(ids(["act1:0"], seed=seed) != alone for seed in range(1, 4))


def test_numbers_of_images_are_limits(profile: Profile, tiny_cnn: nn.Module) -> None:
    run = profile(tiny_cnn)
    (none,) = unit_evidence(run, ["act1:0"], execution=CPU, n_top=0, n_random=0)
    assert none.top == none.random == ()
    (every,) = unit_evidence(run, ["act1:0"], execution=CPU, n_top=50, n_random=50)
    assert len(every.top) + len(every.random) == 9
    assert unit_evidence(run, [], execution=CPU) == []


@pytest.mark.parametrize(
    "unit, options, error",
    [
        ("act9:0", {}, UnknownNameError),
        ("act1:8", {}, OptionError),
        ("act1", {}, OptionError),
        ("act1:0", {"split": "train"}, UnknownNameError),
        ("act1:0", {"n_top": -1}, OptionError),
    ],
)
def test_what_is_not_there_is_a_clear_error(
    profile: Profile, tiny_cnn: nn.Module, unit: str, options: dict[str, object], error: type[Exception]
) -> None:
    run = profile(tiny_cnn)
    with pytest.raises(error):
        unit_evidence(run, [unit], execution=CPU, **options)  # type: ignore[arg-type]


def test_the_trained_digits_show_their_class(base: auditor.Run) -> None:
    best = base.selectivity.sort_values("index_excess", ascending=False).iloc[0]
    (found,) = unit_evidence(base, [best["unit_id"]], execution=CPU)
    assert found.class_names[int(np.argmax(found.mean))] == best["preferred"]
    with base.store() as store:
        rows = np.flatnonzero(store.splits == 1)
        values = store.responses(best["site"], rows)[:, best["unit"]]
        order = np.argsort(-values, kind="stable")[:6]
        assert [one.class_name for one in found.top] == [base.classes[label] for label in store.labels[rows[order]]]
        assert found.top[0].sample_id == store.ids[rows[int(np.argmax(values))]]
    assert [example.response for example in found.top] == sorted(values.tolist(), reverse=True)[:6]


def site(shape: tuple[int, ...], axis: int) -> Site:
    return Site("x", 1, 1, axis, shape[axis - 1] if axis > 0 else shape[-1], shape, "ReLU")


class Patches(nn.Module):
    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid_size, self.num_patches = grid, grid[0] * grid[1]


@pytest.mark.parametrize(
    "shape, axis, size, module, grid, prefix",
    [
        ((64, 7, 7), 1, (224, 224), nn.Identity(), (7, 7), 0),
        ((7, 10, 64), -1, (224, 320), nn.Identity(), (7, 10), 0),
        ((64, 8, 11), 1, (225, 321), nn.Identity(), (8, 11), 0),  # padding: neither divides
        ((4, 196, 64), -1, (224, 224), nn.Identity(), None, 0),  # windows of tokens
        ((64, 1, 1), 1, (224, 224), nn.Identity(), None, 0),
        ((64,), 1, (224, 224), nn.Identity(), None, 0),
        ((196, 64), -1, (224, 224), nn.Identity(), (14, 14), 0),
        ((197, 64), -1, (224, 224), nn.Identity(), (14, 14), 1),
        ((198, 64), -1, (224, 224), nn.Identity(), (14, 14), 2),
        ((64, 197), 1, (224, 224), nn.Identity(), (14, 14), 1),
        ((201, 64), -1, (224, 224), nn.Identity(), None, 0),  # four registers: nothing says so
        ((201, 64), -1, (224, 224), Patches((14, 14)), (14, 14), 5),
        ((1024, 64), -1, (224, 224), Patches((14, 14)), None, 0),  # a mixer's channels are no places
        ((784, 64), -1, (224, 224), Patches((56, 56)), (28, 28), 0),  # merged patches
        ((70, 64), -1, (224, 320), nn.Identity(), (7, 10), 0),
        ((2, 64), -1, (224, 224), nn.Identity(), None, 0),
        ((3, 3, 3, 64), -1, (224, 224), nn.Identity(), None, 0),
    ],
)
def test_positions_on_the_image(
    shape: tuple[int, ...], axis: int, size: tuple[int, int], module: nn.Module, grid: object, prefix: int
) -> None:
    found = lay_out(site(shape, axis), size, module)
    assert (found.grid, found.prefix) == (grid, prefix)
    assert found.note.startswith("Region" if grid else "No region")
    assert (project(torch.zeros(shape).select(axis - 1 if axis > 0 else -1, 0), found, size) is None) == (grid is None)


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three layers of eight units: selectivity falls with the number of the unit, importance is planted."""
    rows = [(f"s{layer}:{unit}", f"s{layer}", unit) for layer in range(3) for unit in range(8)]
    units = pd.DataFrame(rows, columns=["unit_id", "site", "unit"])
    units["index"] = 0.9 - 0.1 * units["unit"] + 0.01 * units["site"].str[1].astype(int)
    units["index_excess"], units["index_q"] = units["index"] - 0.1, np.where(units["unit"] < 6, 0.001, 0.5)
    units["dead"], units["signed"] = False, False
    effects = units[["unit_id"]].assign(loss_change=0.001, loss_change_low=-0.01, loss_change_high=0.012)
    effects.loc[[7, 13, 21], ["loss_change", "loss_change_low", "loss_change_high"]] = [
        [0.5, 0.4, 0.6],
        [0.3, 0.2, 0.4],
        [0.4, 0.3, 0.5],
    ]
    return units, effects


def test_planted_units_are_found_for_what_they_are() -> None:
    units, effects = tables()
    found = notable_units(units, effects, n=8)
    assert list(found) == ["unit_id", "kind", "why"]
    assert found["unit_id"].is_unique
    kinds = found.groupby("kind")["unit_id"].apply(list)
    # The best of the network comes first, then the best of each other layer.
    assert kinds["most selective"][:2] == ["s2:0", "s1:0"]
    assert kinds["most important"] == ["s0:7", "s2:5", "s1:5"]
    assert found.set_index("unit_id").loc["s0:7", "why"] == (
        "Among the most important; hardly selective, although important: class selectivity index 0.20 "
        "(+0.10 against shuffled labels, q = 0.5), rank 8 of 8 in its layer; silencing it changes the loss by "
        "+0.5 nats [+0.4, +0.6], rank 1 of 8 in its layer."
    )
    for name in kinds["selective, not important"]:
        assert int(name[-1]) < 2
    shuffled = notable_units(units.sample(frac=1, random_state=1), effects.sample(frac=1, random_state=2), n=8)
    pd.testing.assert_frame_equal(shuffled, found)


def test_few_units_and_units_that_were_not_silenced() -> None:
    units, effects = tables()
    assert len(notable_units(units, effects, n=1)) == 1
    everything = notable_units(units, effects, n=1000)
    assert len(everything) < 24
    assert everything["unit_id"].is_unique
    few = notable_units(units, effects.iloc[:0], n=6)
    assert set(few["kind"]) == {"most selective"}
    assert few["why"].str.endswith("it was not silenced.").all()
    nothing = notable_units(units.assign(index_q=1.0), effects.assign(loss_change_low=-1.0), n=6)
    assert nothing.empty
    assert list(nothing) == ["unit_id", "kind", "why"]


def test_signed_layers_are_judged_by_another_metric() -> None:
    units, effects = tables()
    signed = units["site"] == "s1"
    units["signed"] = signed & (units["unit"] == 3)
    for name, value in (("dprime", 3 - units["index"]), ("dprime_excess", 2.5 - units["index"]), ("dprime_q", 0.01)):
        units[name] = np.where(signed, value, np.nan)
    found = notable_units(units, effects, n=8).set_index("unit_id")["why"]
    assert "s1:7" in found  # the highest d', the lowest index
    assert "d'" in found["s1:7"]


def test_wrong_tables_are_a_clear_error() -> None:
    units, effects = tables()
    with pytest.raises(OptionError):
        notable_units(units, effects, n=0)
    with pytest.raises(UnknownNameError):
        notable_units(units, effects, n=3, importance="luck")
    with pytest.raises(DataError, match="lack"):
        notable_units(units, effects.drop(columns="loss_change_low"), n=3)
    with pytest.raises(DataError, match="lack"):
        notable_units(units.drop(columns="index_excess"), effects, n=3)


def test_the_whole_chain_on_the_trained_digits(base: auditor.Run) -> None:
    effects = base.selectivity[["unit_id"]].assign(loss_change=0.1, loss_change_low=0.05, loss_change_high=0.15)
    chosen = notable_units(base.selectivity, effects, n=6)
    evidence = unit_evidence(base, chosen["unit_id"].tolist(), execution=CPU)
    assert [one.unit_id for one in evidence] == chosen["unit_id"].tolist()
    assert all(example.image.dtype == np.uint8 for one in evidence for example in one.top)
