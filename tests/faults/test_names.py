"""Names that mean something to a shell, a browser, a terminal or a path: they stay names, through every output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import NAME, Server

import auditor

NASTY = (
    "../../up",
    "/etc/passwd",
    "..",
    "<script>alert('x')</script>",
    'say "cheese", please; $(rm -rf ~) `ls` %s {0}',
    "crème brûlée 🍮 👩‍👩‍👧 \u202eright to left",
    "x" * 300,
    "two\nlines\x1b[31m",
    "[bold]markup[/]",
    "NA",
)
SHOWN = tuple(name.replace("\n", "\\n").replace("\x1b", "\\x1b") for name in NASTY)
OPTIONS = ["--weights", "none", "--input-size", "16", "--shuffles", "199", "--bootstraps", "100", "--name", NAME]


def images(n: int) -> np.ndarray:
    """Noise with a bright column that depends on the class, so that units differ."""
    pixels = np.random.default_rng(2).integers(0, 90, (n, 16, 16, 3))
    for row in range(n):
        pixels[row, :, row % len(NASTY)] += 160
    return pixels.astype(np.uint8)


def outside(folder: Path) -> set[str]:
    """Everything below `folder` that is not in its runs."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if folder / "runs" not in path.parents}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Write an array file whose classes and images have such names, deep below `tmp_path`."""
    n = 12 * len(NASTY)
    ids = np.array([f"../{NASTY[row % len(NASTY)][:40]}/{row}" for row in range(n)])
    path = tmp_path / "a" / "b" / "c" / "odd.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, images=images(n), labels=np.arange(n) % len(NASTY), classes=np.array(NASTY), ids=ids)
    return path


@pytest.mark.slow
def test_every_output_keeps_the_names(server: Server, odd: Path, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if odd.parent not in path.parents}
    command = ["profile", "--model", "slow:small_cnn", "--data", odd.name, *OPTIONS]
    shown = server.call(*command, cwd=odd.parent, figures=True)
    assert shown.code == 0, shown.err
    for text in (shown.out, shown.err):
        assert "\x1b" not in text
    told = server.call(*command, "--json", cwd=odd.parent)
    document = json.loads(told.out, parse_constant=pytest.fail)
    assert document["manifest"]["provenance"]["classes"] == list(SHOWN)
    assert {unit["preferred"] for unit in document["units"]} <= {*SHOWN, ""}

    run = auditor.Run.open(NAME, runs=odd.parent / "runs")
    assert run.classes == SHOWN
    preferred = [unit["preferred"] for unit in document["units"]]
    assert run.selectivity["preferred"].tolist() == preferred
    assert len(set(preferred) - {""}) > 1
    assert list(pd.read_csv(run.path / "class_means.csv").columns) == ["unit_id", *SHOWN]
    for figure in (run.path / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text("utf-8")
    assert "<script" not in run._repr_html_()

    assert outside(odd.parent) == {"odd.npz", "runs"}
    assert {path for path in tmp_path.rglob("*") if odd.parent not in path.parents} == before


def test_such_names_can_be_ablated_and_compared(server: Server, odd: Path) -> None:
    command = ["profile", "--model", "slow:small_cnn", "--data", odd.name, *OPTIONS]
    assert server.call(*command, cwd=odd.parent).code == 0
    assert server.call(*command[:-1], "other", "--seed", "1", cwd=odd.parent).code == 0
    ablation = ["ablate", "--run", NAME, "--top-selective", "2", "--q", "1", "--random-orders", "2"]
    done = server.call(*ablation, "--curve-points", "2", "--json", cwd=odd.parent, figures=True)
    assert done.code == 0, done.err
    json.loads(done.out, parse_constant=pytest.fail)
    done = server.call("compare", NAME, "other", "--json", cwd=odd.parent)
    assert done.code == 0, done.err
    json.loads(done.out, parse_constant=pytest.fail)
    assert outside(odd.parent) == {"odd.npz", "runs"}


def test_folders_with_such_names(server: Server, tmp_path: Path) -> None:
    folders, pixels = [], images(80)
    for number, name in enumerate(SHOWN):
        folder = tmp_path / "data" / name.replace("/", "∕").removeprefix("..")[:60]
        try:
            folder.mkdir(parents=True)
            for row in range(8):
                Image.fromarray(pixels[8 * number + row]).save(folder / f"{row} '\"<b>&.png")
        except (OSError, ValueError):
            continue  # a name that this file system does not take
        folders.append(folder.name)
    assert len(folders) >= 3
    done = server.call("profile", "--model", "slow:small_cnn", "--data", "data", *OPTIONS, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    document = json.loads(done.out, parse_constant=pytest.fail)
    assert document["manifest"]["provenance"]["classes"] == sorted(folders)
    assert {path for path in outside(tmp_path) if not path.startswith("data/")} == {"data", "runs"}
