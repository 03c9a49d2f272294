"""``auditor audit`` killed at random moments, and taken up again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest
from processes import NAME, PATIENCE, Server

DECLARATION = """
hypotheses = ["necessity", "correlation", "sufficiency", "controls"]
shares = [0.2]
keep_shares = [0.5]
draws = 200
keep_draws = 20
resamples = 200
q = 0.9
check = 1
"""
AUDIT = [
    "audit", "--run", NAME, "--declaration", "audit.toml", "--device", "cpu", "--batch-size", "6", "--workers", "0",
    "--quiet",
]  # fmt: skip
# What tells how far an audit is, in order: declared, units silenced, sets silenced, sets kept, tables written.
SIGNS = ("manifest.json", "per_image/*.npz", "blocks/*3.npz", "kept_blocks/*2.npz", "verdicts.json")


def seen(folder: Path, sign: str) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + PATIENCE
    while not any(folder.glob(f"runs/{NAME}/audits/*/{sign}")):
        assert time.monotonic() < deadline, sign
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_again_and_again(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    folders = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        shutil.copytree(undisturbed, folder / "runs" / NAME, ignore=shutil.ignore_patterns("ablations", "audits"))
        (folder / "audit.toml").write_text(DECLARATION, encoding="utf-8")
        folders.append(folder)
    whole, killed = folders
    done = server.call(*AUDIT, cwd=whole)
    assert done.code == 0, done.err
    chance, declared = random.Random(0), set()
    for sign in SIGNS:
        process = server.start(*AUDIT, cwd=killed)
        seen(killed, sign)
        time.sleep(chance.random() * 0.1)
        process.send(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
        (path,) = killed.glob(f"runs/{NAME}/audits/*/manifest.json")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        assert manifest["complete"] is False
        declared.add(manifest["provenance"]["created"])
    # However often it was taken up, it was declared once.
    assert len(declared) == 1
    done = server.call(*AUDIT, cwd=killed)
    assert done.code == 0, done.err
    (expected,), (found,) = ((folder / "runs" / NAME / "audits").iterdir() for folder in folders)
    assert found.name == expected.name
    names = sorted(path.name for path in expected.iterdir() if path.suffix in (".csv", ".json"))
    assert {"verdicts.json", "results.json", "units.csv", "necessity.csv"} <= set(names)
    assert sorted(path.name for path in found.iterdir() if path.suffix in (".csv", ".json")) == names
    for name in names:
        if name != "manifest.json":
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(found.rglob("*.tmp"))
    manifests = [json.loads((path / "manifest.json").read_text(encoding="utf-8")) for path in (expected, found)]
    assert manifests[0]["digest"] == manifests[1]["digest"]
    assert manifests[1]["complete"] is True
    assert manifests[1]["provenance"]["created"] in declared
    # The pages differ in when each was declared, and in nothing else.
    pages = []
    for folder, manifest in zip(folders, manifests, strict=True):
        created = manifest["provenance"]["created"]
        text = (folder / "runs" / NAME / "report.html").read_text(encoding="utf-8")
        shown = f"{datetime.fromisoformat(created):%Y-%m-%d %H:%M} UTC"
        assert created in text
        assert shown in text
        pages.append(text.replace(created, "then").replace(shown, "then"))
    assert pages[0] == pages[1]
