"""One model of each of timm's families, the smallest in the benchmark's table, is loaded, probed and profiled."""

from __future__ import annotations

import csv
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.models import list_modules

import auditor
from auditor.data import LabelledData
from auditor.errors import ModelError

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "zoo.csv"
SIZES = (64, 96, None)  # the cheap ones first; None is the model's own
# Small images fit into one of its windows, and a layer inside that has no row for each image elsewhere has one there.
OWN_SIZE = {"efficientvit_msra"}
# What takes longer in the benchmark is left to it.
MOST_SECONDS = 60.0

pytestmark = pytest.mark.slow


def smallest() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "timm" and row["status"] == "ok"]
    rows = [row for row in rows if not row["model"].startswith("test_")]
    return {row["family"]: row for row in sorted(rows, key=lambda row: -int(row["parameters"]))}


ROWS = smallest()


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    yield
    gc.collect()


def test_the_table_knows_the_families() -> None:
    known = set(list_modules())
    assert len(known & ROWS.keys()) >= 0.99 * len(known), sorted(known - ROWS.keys())


@pytest.mark.parametrize("family", sorted(f for f, row in ROWS.items() if float(row["seconds"]) < MOST_SECONDS))
def test_profiled(family: str, noise_data: LabelledData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if family not in list_modules():
        pytest.skip(f"this timm has no {family}")
    monkeypatch.setattr(auditor.Run, "save_figures", lambda _run: [])
    name = ROWS[family]["model"]
    torch.manual_seed(0)
    for size in (None,) if family in OWN_SIZE else SIZES:
        try:
            run = auditor.profile(
                f"timm:{name}", data=noise_data, weights="none", input_size=size, shuffles=19, bootstraps=39,
                runs=tmp_path, batch_size=8, workers=0, device="cpu",
            )  # fmt: skip
            break
        except ModelError:
            if size is None:  # else a size that the model does not take
                raise
    assert len(run.sites) == int(ROWS[family]["sites"])
    assert len(run.selectivity) == sum(site.n_units for site in run.sites)
    with run.store() as store:
        assert store.n_rows == len(noise_data)
        assert sum(float(store.responses(site.name).std()) > 0 for site in run.sites) > len(run.sites) / 2
