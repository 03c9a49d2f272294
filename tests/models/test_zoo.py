"""One small model of every layout, profiled end to end; and the command that does so for whole zoos."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import auditor
from auditor.api.forward import Execution
from auditor.api.run import Run
from auditor.data import LabelledData

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

MODELS = [
    ("timm:test_resnet", 12, {1}),  # convolutions, each nonlinearity its own module
    ("timm:test_efficientnet", 11, {1}),  # gates, norms that contain their nonlinearity
    ("timm:test_nfnet", 24, {1}),  # no norms
    ("timm:test_vit", 6, {-1}),  # tokens
    ("timm:test_convnext", 9, {-1}),  # channels last
    ("timm:test_maxvit", 21, {1, -1}),  # convolutions and attention in windows
    ("timm:levit_128s", 25, {1, -1}),  # tokens that are normalised in batches
    ("timm:efficientvim_m1", 21, {1}),  # flattened maps, channels first
    ("timm:mobilevit_xxs", 25, {1}),  # transformer layers whose rows are parts of images
    ("torchvision:googlenet", 57, {1}),  # nonlinearities that are functions
    ("torchvision:squeezenet1_1", 25, {1}),  # logits that are a map
    ("torchvision:shufflenet_v2_x0_5", 37, {1}),  # halves that are shuffled
]


@pytest.mark.parametrize("name, n_sites, axes", MODELS, ids=[row[0] for row in MODELS])
def test_every_layout_is_profiled(
    name: str, n_sites: int, axes: set[int], noise_data: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise_data
    monkeypatch.setattr(Run, "save_figures", lambda _run: [])  # slow, and the same for every model
    run = auditor.profile(
        name,
        data=data,
        weights="none",
        shuffles=20,
        bootstraps=40,
        runs=tmp_path,
        batch_size=8,
        workers=0,
        device="cpu",
    )
    assert len(run.sites) == n_sites
    assert {site.unit_axis for site in run.sites} == axes
    assert len(run.selectivity) == sum(site.n_units for site in run.sites)
    index = run.selectivity["index"].to_numpy()
    assert np.all(np.isnan(index) | ((index >= 0) & (index <= 1)))

    # What the store has against a forward pass of its own, with plain hooks.
    prepared = run.model(Execution(device="cpu"))
    row = int(data.splits["select"][0])
    image = prepared.preprocessing.build()(data.read(row))[None]
    outputs: dict[str, list[np.ndarray]] = {}
    for site in run.sites:
        outputs[site.layer] = []
    handles = [
        prepared.module.get_submodule(layer).register_forward_hook(
            lambda _m, _i, output, kept=kept: kept.append(output[0].double().numpy().copy())
        )
        for layer, kept in outputs.items()
    ]
    with torch.no_grad():
        prepared.module.eval()(image)
    for handle in handles:
        handle.remove()
    with run.store() as store:
        for site in run.sites:
            units = np.moveaxis(outputs[site.layer][site.call - 1], site.unit_axis - (site.unit_axis > 0), 0)
            expected = units.reshape(site.n_units, -1).mean(1)
            np.testing.assert_allclose(store.responses(site.name, slice(0, 1))[0], expected, rtol=1e-3, atol=1e-4)


def test_the_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    table = tmp_path / "zoo.csv"
    header = (ROOT / "benchmarks" / "results" / "zoo.csv").read_text().splitlines()[0]
    stopped = "timm,test_vit2,vision_transformer,,,,,,,,0.1,,took more than 0.1 s"
    other = "timm,vgg11,vgg,9,3x224x224,1,1,0,1,0,1.0,1,ok"
    table.write_text("\n".join([header, stopped, other, ""]))
    command = [sys.executable, "benchmarks/zoo.py", "--match", "timm:test_vit2", "--retry", "--out", str(table)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "1 models, 1 to do" in done.stdout
    assert "1 of 1 ok" in done.stdout
    first, row, kept = table.read_text().splitlines()
    assert (first, kept) == (header, other)
    assert row.startswith("timm,test_vit2,vision_transformer,391370,3x160x160,8,1536,0,8,0,")


def test_the_table_says_why_a_model_cannot_be_audited() -> None:
    with (ROOT / "benchmarks" / "results" / "zoo.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["status"] for row in rows)
    assert all(row["contradicted"] == "0" and int(row["units"]) > 0 for row in rows if row["status"] == "ok")
