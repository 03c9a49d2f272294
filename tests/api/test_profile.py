"""The verb ``profile``: the tables follow from what is stored, and nothing is lost or overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import auditor
from auditor.api.forward import Execution
from auditor.errors import DataError, ModelError, OptionError, RunError, UnknownNameError
from auditor.models.preprocessing import Preprocessing

QUICK = {"shuffles": 199, "bootstraps": 100}
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def small() -> Preprocessing:
    return Preprocessing(input_size=(3, 16, 16), resize=(16,))


def test_index_equals_numpy_on_the_stored_responses(base: auditor.Run) -> None:
    with h5py.File(base.path / "activations.h5") as file:
        select = file["splits"][:] == 1
        labels = file["labels"][:][select]
        assert file["responses"].keys() == {"1", "3", "5"}
        for site, dataset in file["responses"].items():
            responses = dataset[:][select].astype(np.float64)
            means = np.stack([responses[labels == c].mean(0) for c in range(10)])
            top = means.max(0)
            rest = (means.sum(0) - top) / 9
            expected = (top - rest) / (top + rest + 1e-7)
            table = base.selectivity[base.selectivity["site"] == site]
            assert responses.shape[1] == len(table)
            alive = ~table["dead"].to_numpy()
            np.testing.assert_allclose(table["index"].to_numpy()[alive], expected[alive], atol=1e-6)
            assert table["preferred"].to_numpy()[alive].tolist() == [str(c) for c in means.argmax(0)[alive]]
            np.testing.assert_allclose(table["mean"], responses.mean(0), atol=1e-6)
            np.testing.assert_allclose(table["firing_rate"], (responses != 0).mean(0))


def test_the_store_holds_every_image_of_two_splits_once(base: auditor.Run) -> None:
    data = base.data()
    with base.store() as store:
        assert store.n_rows == len(data.splits["select"]) + len(data.splits["score"])
        by_id = {name: i for i, name in enumerate(data.ids)}
        rows = np.array([by_id[name] for name in store.ids])
        assert len(set(rows.tolist())) == len(rows)
        np.testing.assert_array_equal(store.labels, load_digits().target[rows])
        assert not set(rows.tolist()) & set(data.splits["train"].tolist())
        accuracy = (store.logits.argmax(1) == store.labels)[store.splits == 2].mean()
    assert base.summary["accuracy"]["accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.9


def test_moments_equal_the_store(base: auditor.Run) -> None:
    moments = base.moments("score")
    with base.store() as store:
        rows = np.flatnonzero(store.splits == 2)
        responses, labels = store.responses("3", rows).astype(np.float64), store.labels[rows]
    for c in range(10):
        np.testing.assert_allclose(moments["3"].mean[c], responses[labels == c].mean(0), atol=1e-9)
        np.testing.assert_allclose(moments["3"].variance[c], responses[labels == c].var(0, ddof=1), atol=1e-9)


def test_every_number_has_its_uncertainty(base: auditor.Run) -> None:
    units = base.selectivity
    defined = units[units["index"].notna()]
    for metric in ("index", "dprime"):
        assert (defined[f"{metric}_low"] <= defined[metric]).all()
        assert (defined[metric] <= defined[f"{metric}_high"]).all()
        assert defined[f"{metric}_p"].between(1 / 200, 1).all()
        assert (defined[f"{metric}_q"] >= defined[f"{metric}_p"]).all()
        np.testing.assert_allclose(defined[f"{metric}_excess"], defined[metric] - defined[f"{metric}_null"])
    network = base.summary["network"]
    layer_means = defined.groupby("site", sort=False)["index"].mean()
    assert network["mean_index"] == pytest.approx(layer_means.mean())
    assert network["low"] < network["mean_index"] < network["high"]


def test_files_of_a_run(base: auditor.Run) -> None:
    names = {p.relative_to(base.path).as_posix() for p in base.path.rglob("*") if p.is_file()}
    expected = {"manifest.json", "activations.h5", "units.csv", "layers.csv", "class_means.csv", "summary.json"}
    assert expected <= names
    for figure in ("selectivity_index", "selectivity_dprime", "class_tuning"):
        assert {f"figures/{figure}.png", f"figures/{figure}.svg"} <= names
    means = pd.read_csv(base.path / "class_means.csv")
    np.testing.assert_allclose(means["7"].to_numpy()[:12], base.moments()["1"].mean[7])
    json.dumps(base.to_dict(), allow_nan=False)


def test_same_seed_same_tables(factories: str, base: auditor.Run, tmp_path: Path) -> None:
    again = auditor.profile(factories, metrics=["dprime"], name="again", runs=tmp_path, **QUICK)
    assert again.manifest.digest() == base.manifest.digest()
    for name in ("units.csv", "layers.csv", "class_means.csv", "summary.json"):
        assert (again.path / name).read_bytes() == (base.path / name).read_bytes()


def test_another_seed_moves_the_null_only(factories: str, base: auditor.Run, tmp_path: Path) -> None:
    weights = next(Path(base.manifest.provenance["weights_file"]).parent.glob("*.safetensors"))
    one, two = (
        auditor.profile(factories, checkpoint=weights, seed=seed, runs=tmp_path, **QUICK).selectivity for seed in (0, 1)
    )
    pd.testing.assert_series_equal(one["index"], two["index"])
    assert (one["index_null"] != two["index_null"]).any()


def test_a_finished_run_is_shown_not_repeated(factories: str, shared_runs: Path) -> None:
    said: list[str] = []

    class Listener(auditor.TerminalReporter):
        def say(self, text: str) -> None:
            said.append(text)

    before = (shared_runs / "base" / "units.csv").stat().st_mtime_ns
    auditor.profile(factories, metrics=["dprime"], name="base", runs=shared_runs, reporter=Listener(), **QUICK)
    assert any("finished before" in line for line in said)
    assert (shared_runs / "base" / "units.csv").stat().st_mtime_ns == before


def test_other_settings_do_not_overwrite_a_run(factories: str, shared_runs: Path) -> None:
    with pytest.raises(RunError, match="other settings") as caught:
        auditor.profile(factories, name="base", runs=shared_runs, shuffles=300, bootstraps=100)
    assert "selectivity.shuffles: 199 -> 300" in str(caught.value)


def test_a_foreign_folder_is_left_alone(factories: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not a run"):
        auditor.profile(factories, name="mine", runs=tmp_path, **QUICK)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_users_module_is_left_as_it_was(
    tiny_resnet: nn.Module, tiny_data: object, small: Preprocessing, tmp_path: Path
) -> None:
    model = tiny_resnet.train()
    model.bn.eval()
    model.fc.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()]
    grads = [p.requires_grad for p in model.parameters()]
    run = auditor.profile(model, data=tiny_data, preprocessing=small, runs=tmp_path, **QUICK)
    run.finetune(1.0, epochs=1)
    assert flags == [
        (n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()
    ]
    assert grads == [p.requires_grad for p in model.parameters()]
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name


def test_reused_modules_get_one_table_per_call(
    tiny_resnet: nn.Module, tiny_data: object, small: Preprocessing, tmp_path: Path
) -> None:
    run = auditor.profile(tiny_resnet, data=tiny_data, preprocessing=small, runs=tmp_path, **QUICK)
    assert run.layers["site"].tolist() == ["relu", *(f"blocks.{i}.relu@{c}" for i in (0, 1) for c in (1, 2))]
    first, second = (run.selectivity[run.selectivity["site"] == f"blocks.0.relu@{c}"] for c in (1, 2))
    assert (first["mean"].to_numpy() != second["mean"].to_numpy()).any()


def test_signed_layers_are_flagged_and_have_no_index(
    tiny_vit: nn.Module, tiny_data: object, small: Preprocessing, tmp_path: Path
) -> None:
    run = auditor.profile(tiny_vit, data=tiny_data, preprocessing=small, metrics=["dprime"], runs=tmp_path, **QUICK)
    signed = run.selectivity[run.selectivity["signed"]]
    assert len(signed) > 0
    assert signed["index"].isna().all()
    assert signed["dprime"].notna().all()


def test_a_folder_of_images(tiny_cnn: nn.Module, tiny_folder: Path, small: Preprocessing, tmp_path: Path) -> None:
    run = auditor.profile(tiny_cnn, data=str(tiny_folder), preprocessing=small, runs=tmp_path / "runs", **QUICK)
    assert run.classes == ("blue", "green", "red")
    with run.store() as store:
        assert sorted(store.ids)[0].startswith("blue/")
    reopened = auditor.Run.open(runs=tmp_path / "runs")
    assert reopened.data().fingerprint() == run.data().fingerprint()
    (tiny_folder / "blue" / "new.png").write_bytes((tiny_folder / "blue" / "00.png").read_bytes())
    with pytest.raises(RunError, match="not those of the run"):
        auditor.Run.open(runs=tmp_path / "runs").data()


def test_limit_keeps_every_class(factories: str, tmp_path: Path) -> None:
    run = auditor.profile(factories, limit=40, runs=tmp_path, weights="none", **QUICK)
    with run.store() as store:
        assert store.n_rows == 80
        assert np.bincount(store.labels[store.splits == 1]).min() >= 3


def test_a_hand_edited_manifest_is_noticed(factories: str, tmp_path: Path) -> None:
    run = auditor.profile(factories, limit=40, runs=tmp_path, weights="none", **QUICK)
    path = run.path / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match="was changed after it was written"):
        auditor.Run.open(run.name, runs=tmp_path)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"model": "resnet81"}, UnknownNameError, "resnet18"),
        ({"model": "factories:big_cnn"}, UnknownNameError, "big_cnn"),
        ({"data": "digitz"}, DataError, "digits"),
        ({"data": "no/such/folder"}, DataError, "no folder"),
        ({"layers": "layer9.*"}, UnknownNameError, "layer9"),
        ({"layers": "layer9.*", "weights": "digits", "seed": 77}, UnknownNameError, "layer9"),
        ({"metrics": ["indx"]}, UnknownNameError, "index"),
        ({"weights": "best"}, UnknownNameError, "pretrained"),
        ({"weights": "none", "checkpoint": "x.pt"}, OptionError, "exclude"),
        ({"checkpoint": "missing.safetensors"}, ModelError, "missing.safetensors"),
        ({"shuffles": 5}, OptionError, "at least 19"),
        ({"limit": 0}, OptionError, "at least 1"),
        ({"batch_size": 0}, OptionError, "at least 1"),
        ({"device": "abacus"}, OptionError, "abacus"),
        ({"name": "../escape"}, OptionError, "plain folder name"),
        ({"fractions": (0.5, 0.5, 0.5)}, OptionError, "1"),
    ],
)
def test_bad_input_is_refused_before_work(
    factories: str, tmp_path: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {
        "model": factories,
        "weights": None if "checkpoint" in options else "none",
        "runs": tmp_path,
        **options,
    }
    with pytest.raises(error) as caught:
        auditor.profile(**arguments)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert not list(Path(os.environ["AUDITOR_CACHE"]).rglob("*seed77*"))


def test_a_module_is_used_where_it_is() -> None:
    module = nn.Linear(2, 2)
    assert Execution().on(module).device == "cpu"
    with pytest.raises(OptionError, match="another device"):
        Execution(device="cpu").on(nn.Linear(2, 2, device="meta"))


def test_a_network_built_for_the_input_size_is_built_so_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _run: [])
    run = auditor.profile(
        "timm:test_vit", weights="none", input_size=32, limit=60, runs=tmp_path, name="vit", workers=0, **QUICK
    )
    assert run.manifest.identity["model"]["image_size"] == [32, 32]
    first = {site.name: site.shape for site in run.sites}
    reopened = auditor.Run.open(run.path)
    assert (
        "image_size"
        not in auditor.profile(
            "timm:test_resnet", weights="none", input_size=32, limit=60, runs=tmp_path, workers=0, **QUICK
        ).manifest.identity["model"]
    )
    tuned = reopened.finetune(alpha=0.0, epochs=1, from_scratch=True, signed="rectify", limit=60, workers=0)
    assert tuned.manifest.identity["model"]["image_size"] == [32, 32]
    again = auditor.Run.open(tuned.path)
    assert {site.name: site.shape for site in again.sites} == first
    effects = again.ablate(top_selective=2, workers=0).effects
    assert len(effects) >= 2
    assert set(effects["site"]) <= first.keys()
