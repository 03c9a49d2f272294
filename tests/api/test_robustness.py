"""The verb ``robustness`` on one small trained network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import auditor
from auditor.api.robustness import robustness
from auditor.api.robustness_measure import Measurement, is_right
from auditor.cli.robustness import command
from auditor.errors import ModelError, OptionError, UnknownNameError
from auditor.hookspecs import hookimpl
from auditor.models.preprocessing import Preprocessing
from auditor.perturbations.basic import GaussianNoise
from auditor.perturbations.pixels import PixelModel
from auditor.perturbations.seeds import corruption_seeds
from auditor.registry import registry
from auditor.store.blocks import BlockCache

QUICK: dict[str, Any] = {
    "corruptions": ["gaussian_noise", "contrast"], "severities": (1, 5), "epsilons": (1, 16), "steps": (1, 4),
    "pgd_steps": 4, "step_epsilon": 4.0, "n_images": 40, "batch_size": 16,
}  # fmt: skip


@pytest.fixture
def run(shared_runs: Path, tmp_path: Path) -> auditor.Run:
    """Return a copy of the shared run, to write into."""
    shutil.copytree(shared_runs / "base", tmp_path / "runs" / "base")
    return auditor.Run.open("base", runs=tmp_path / "runs")


@pytest.fixture(scope="module")
def found(shared_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> auditor.Robustness:
    """Results with the network as its own reference; read only."""
    runs = tmp_path_factory.mktemp("robust")
    shutil.copytree(shared_runs / "base", runs / "base")
    run = auditor.Run.open("base", runs=runs)
    return robustness(run, reference=run, **QUICK)


def network(run: auditor.Run) -> tuple[Any, torch.Tensor, torch.Tensor, list[str]]:
    """Model, pixels, labels and ids of the images, by a way of their own: through the model's whole transform."""
    data = run.data().limited(40)
    rows = data.splits["score"]
    model = run.model(auditor.api.forward.Execution())  # type: ignore[attr-defined]
    images = torch.stack([model.preprocessing.build()(data.read(int(row))) for row in rows])
    plan = model.preprocessing
    mean, std = (torch.tensor(v)[:, None, None] for v in (plan.mean, plan.std))
    pixels = (images * std + mean).clamp(0, 1)

    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model.module((x - mean) / std)
        return out

    return forward, pixels, torch.as_tensor(data.labels[rows]), [data.ids[row] for row in rows]


def test_tables_are_what_the_network_does(found: auditor.Robustness) -> None:
    forward, pixels, labels, ids = network(auditor.Run.open("base", runs=found.path.parents[2]))
    with torch.no_grad():
        clean = forward(pixels).argmax(1) == labels
        seeds = corruption_seeds(0, "gaussian_noise", 5, ids)
        noisy = forward(GaussianNoise()(pixels, 5, seeds=seeds)).argmax(1) == labels
    overall, table = found.overall.iloc[0], found.corruptions
    assert overall["clean"] == pytest.approx(clean.double().mean().item())
    row = table.query("corruption == 'gaussian_noise' and severity == 5").iloc[0]
    assert row["accuracy"] == pytest.approx(noisy.double().mean().item())
    assert row["n"] == 40
    assert row["low"] < row["accuracy"] < row["high"] or row["accuracy"] in (0, 1)
    assert overall["corrupted"] == pytest.approx(table["accuracy"].mean())
    leaf = pixels.clone().requires_grad_()
    torch.nn.functional.cross_entropy(forward(leaf), labels, reduction="sum").backward()
    assert leaf.grad is not None
    attacked = forward((pixels + 16 / 255 * leaf.grad.sign()).clamp(0, 1)).argmax(1) == labels
    row = found.attacks.query("attack == 'fgsm' and epsilon == 16").iloc[0]
    assert row["accuracy"] == pytest.approx((attacked & clean).double().mean().item(), abs=1.01 / 40)


def test_attacks_have_their_grid_and_never_beat_clean(found: auditor.Robustness) -> None:
    rows = {tuple(row) for row in found.attacks[["attack", "epsilon", "steps"]].itertuples(index=False)}
    pgd = {("pgd", 1.0, 4), ("pgd", 4.0, 1), ("pgd", 4.0, 4), ("pgd", 16.0, 4)}
    assert rows == {("fgsm", 1.0, 1), ("fgsm", 16.0, 1), *pgd}
    assert (found.attacks["accuracy"] <= found.overall["clean"].iloc[0]).all()
    assert set(found.masking["check"]) == {"epsilon", "falls", "steps", "iterations", "transfer"}
    assert found.masking.set_index("check")["outcome"]["transfer"] == "not checked"


def test_a_network_is_its_own_unit_of_error(found: auditor.Robustness) -> None:
    row = found.overall.iloc[0]
    assert row["mce"] == row["mce_low"] == row["mce_high"] == 1
    assert (found.by_type["corruption_error"] == 1).all()


def test_jacobian_is_that_of_autograd(found: auditor.Robustness) -> None:
    forward, pixels, _, _ = network(auditor.Run.open("base", runs=found.path.parents[2]))
    norms = [
        float(torch.autograd.functional.jacobian(lambda x: forward(x[None])[0], image).norm()) for image in pixels[:40]
    ]
    row = found.jacobian.iloc[0]
    assert row["norm"] == pytest.approx(np.mean(norms), rel=1e-3)
    assert row["exact"]


def test_document_summary_and_figures(found: auditor.Robustness) -> None:
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(document["corruptions"]) == 4
    assert "enlarged first" in found.summary()
    assert "not checked for 1 of 1" in found.summary()
    assert found.figures() == ["corruptions", "epsilon", "steps"]
    for name in found.figures():
        assert {path.suffix for path in found.path.glob(f"figures/{name}.*")} == {".png", ".svg", ".pdf"}


def test_work_that_was_stopped_goes_on_and_ends_in_the_same_tables(
    run: auditor.Run, found: auditor.Robustness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "attacked", stop)
        with pytest.raises(KeyboardInterrupt):
            robustness(run, reference=run, **QUICK)
    (folder,) = (run.path / "robustness").iterdir()
    cache = BlockCache(folder / "per_image")
    names = cache.keys()
    before = {key: cache._path(key).stat().st_mtime_ns for key in names}
    assert len(before) == 5
    gone = next(key for key in before if "contrast@5" in key)
    cache._path(gone).write_bytes(b"half a block")
    again = robustness(run, reference=run, **QUICK)
    after = {key: cache._path(key).stat().st_mtime_ns for key in before}
    assert [key for key in before if before[key] != after[key]] == [gone]
    for name in ("overall", "corruptions", "by_type", "attacks", "masking", "jacobian"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
    (folder / "overall.csv").unlink()
    pd.testing.assert_frame_equal(robustness(run, reference=run, **QUICK).overall, found.overall)
    stamp = (folder / "overall.csv").stat().st_mtime_ns
    assert robustness(run, reference=run, **QUICK).path == folder
    assert (folder / "overall.csv").stat().st_mtime_ns == stamp


def test_other_settings_get_a_folder_of_their_own(run: auditor.Run) -> None:
    only = {"attacks": "none", "jacobian": False, "corruptions": ["contrast"], "severities": (1,)}
    paths = {robustness(run, n_images=20, seed=seed, **only).path for seed in (0, 1)}
    assert len(paths) == 2


def test_transfer_takes_another_network(run: auditor.Run, tmp_path: Path, shared_runs: Path, factories: str) -> None:
    quick = QUICK | {"corruptions": "none", "epsilons": (4,), "jacobian": False}
    with pytest.raises(OptionError, match="another network"):
        robustness(run, transfer_from=run, **quick)
    auditor.profile(factories, weights="none", name="raw", runs=tmp_path / "runs", shuffles=19, bootstraps=39)
    found = robustness(run, transfer_from="raw", **quick)
    check = found.masking.set_index("check").loc["transfer"]
    assert check["outcome"] == "passed"
    assert "made on raw" in check["detail"]


def test_stored_images_are_read_in_place_of_making_them(run: auditor.Run, tmp_path: Path) -> None:
    data = run.data().limited(30)
    rows = data.splits["score"]
    clean = np.stack([np.asarray(data.read(int(row)).convert("RGB")) for row in rows])
    folder = tmp_path / "stored"
    folder.mkdir()
    np.save(folder / "labels.npy", data.labels[rows])
    np.save(folder / "untouched.npy", np.concatenate([clean] * 4 + [np.zeros_like(clean)]))
    found = robustness(run, stored=folder, attacks="none", jacobian=False, n_images=30, severities=(1, 5))
    accuracy = found.corruptions.set_index("severity")["accuracy"]
    assert accuracy[1] == pytest.approx(found.overall["clean"].iloc[0])
    assert accuracy[5] < 0.5
    assert found.corruptions["group"].tolist() == ["other", "other"]
    with pytest.raises(UnknownNameError, match="fog"):
        robustness(run, stored=folder, corruptions=["fog"])


def test_stored_images_may_be_named_like_an_attack_and_follow_their_groups(run: auditor.Run, tmp_path: Path) -> None:
    data = run.data().limited(20)
    rows = data.splits["score"]
    clean = np.stack([np.asarray(data.read(int(row)).convert("RGB")) for row in rows])
    np.save(tmp_path / "labels.npy", data.labels[rows])
    for name in ("brightness", "contrast", "fgsm", "gaussian_noise", "pixelate"):
        np.save(tmp_path / f"{name}.npy", np.concatenate([clean] * 5))
    quick = {"severities": (1,), "attacks": ["fgsm"], "epsilons": (1,), "jacobian": False}
    found = robustness(run, stored=tmp_path, n_images=20, **quick)
    assert (found.corruptions["accuracy"] == found.overall["clean"].iloc[0]).all()
    assert found.attacks["attack"].tolist() == ["fgsm"]
    assert found.by_type["corruption"].tolist() == ["gaussian_noise", "brightness", "contrast", "pixelate", "fgsm"]


class NoNumber(torch.nn.Module):
    """Its logits are the means of the channels, and not numbers for a white picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3))
        return torch.where(means.amin(dim=1, keepdim=True) > 0.9, torch.nan, means)


def test_logits_that_are_not_numbers_are_wrong() -> None:
    model = PixelModel(NoNumber(), Preprocessing(input_size=(3, 2, 2), resize=(2,), mean=(0,) * 3, std=(1,) * 3))
    pixels = torch.zeros(1, 3, 2, 2)
    labels = torch.zeros(1, dtype=torch.int64)
    assert is_right(model, pixels, labels).all()
    assert not is_right(model, pixels + 1, labels).any()


def test_networks_without_a_gradient_are_refused_before_any_work(
    run: auditor.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelModel, "forward", lambda self, pixels: self.module(pixels).detach())
    with pytest.raises(ModelError, match="no gradient"):
        robustness(run, **QUICK)
    assert not list(run.path.glob("robustness/*/per_image/*"))


def test_few_steps_are_not_held_against_a_network(found: auditor.Robustness) -> None:
    check = found.masking.set_index("check").loc["iterations"]
    assert check["outcome"] == "not checked"
    assert "4 steps of PGD do not cross the ball" in check["detail"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"corruptions": ["gaussian_nose"]}, "gaussian_nose"),
        ({"attacks": ["cw"]}, "cw"),
        ({"severities": (6,)}, "five severities"),
        ({"severities": (0,)}, "five severities"),
        ({"severities": (1.5,)}, "whole numbers"),
        ({"severities": 3}, "severities cannot be used"),
        ({"epsilons": "16"}, "epsilons cannot be used"),
        ({"epsilons": (-1,)}, "255ths"),
        ({"epsilons": ("a",)}, "epsilons cannot be used"),
        ({"steps": (1.5,)}, "whole numbers"),
        ({"pgd_steps": 0}, "pgd_steps"),
        ({"n_images": 0}, "--images 2"),
        ({"epsilons": (0,)}, "255ths"),
        ({"epsilons": ()}, "need an epsilon"),
        ({"steps": (0,)}, "steps"),
        ({"corruptions": "none", "attacks": "none", "jacobian": False}, "nothing to measure"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    run: auditor.Run, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(auditor.AuditorError, match=message):
        robustness(run, **options)
    assert not (run.path / "robustness").exists()


def test_command_prints_tables_and_one_document(run: auditor.Run) -> None:
    options = ["--runs", str(run.path.parent), "--corruptions", "contrast", "--severities", "1", "--attacks", "fgsm",
               "--epsilons", "1,16", "--images", "20", "--quiet"]  # fmt: skip
    shown = CliRunner().invoke(command, options, catch_exceptions=False)
    assert shown.exit_code == 0
    for text in ("contrast", "FGSM", "Checks for masked gradients", "Clean accuracy", "1 of 1: it needs PGD"):
        assert text in shown.stdout
    printed = CliRunner().invoke(command, [*options, "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout)["attacks"][0]["attack"] == "fgsm"
    assert CliRunner().invoke(command, [*options, "--sweep", "x", "--run", "base"]).exit_code == 2
    assert "holds no name" in CliRunner().invoke(command, ["--corruptions", ","]).stderr
    assert "'a' is not a list of numbers" in CliRunner().invoke(command, ["--epsilons", "a"]).stderr


def test_defaults_of_command_and_verb_agree() -> None:
    from inspect import signature

    parameters = signature(robustness).parameters
    given = command.make_context("robustness", []).params
    for name in set(given) - {"run_name", "runs", "sweep_name", "as_json", "quiet"}:
        value = given[name]
        assert (tuple(value) if isinstance(value, list) else value) == parameters[name].default, name


def test_corruptions_of_a_plugin_are_found_by_name(run: auditor.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Black(GaussianNoise):
        name, label, group = "black", "black", "extra"

        def corrupt(self, images: torch.Tensor, parameters: Any, generators: Any) -> torch.Tensor:
            return torch.zeros_like(images)

    plugin = SimpleNamespace(auditor_corruptions=hookimpl(lambda: [Black()]))
    registry().manager.register(plugin, name="black-plugin")
    try:
        found = robustness(run, corruptions=["black"], attacks="none", jacobian=False, n_images=20, severities=(1,))
    finally:
        registry().manager.unregister(name="black-plugin")
    assert found.corruptions["accuracy"].iloc[0] < 0.4
    assert found.overall["types"].iloc[0] == 1
