"""What runs there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auditor.api.run import Run
from auditor.api.sweep_board import KIND, Board, cells_of
from auditor.api.workspace import run_folders
from auditor.errors import RunError
from auditor.manifest import Manifest


def list_runs(runs: str | Path = "runs") -> list[dict[str, Any]]:
    """Describe every run in a folder, newest first; damaged ones are named as such."""
    return [_describe(folder) for folder in run_folders(Path(runs))]


def _describe(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("model", "weights", "data", "state"), "")
    row |= {"name": folder.name, "mean_index": None, "accuracy": [None, None, None]}
    try:
        run = Run(folder)
        if run.manifest.kind == KIND:
            return row | _sweep(run.manifest, folder)
        model = run.manifest.identity["model"]
        row |= {
            "model": model["spec"],
            "weights": model["weights"].split(":")[0],
            "data": run.manifest.identity["data"]["name"],
            "state": "complete" if run.manifest.complete else "unfinished",
        }
        if run.manifest.complete:
            accuracy = run.summary["accuracy"] or {}
            row["mean_index"] = run.summary["network"]["mean_index"]
            row["accuracy"] = [accuracy.get(key) for key in ("accuracy", "low", "high")]
    except (RunError, OSError, KeyError, ValueError):
        row["state"] = "damaged"
    return row


def _sweep(manifest: Manifest, folder: Path) -> dict[str, Any]:
    cells, board = cells_of(manifest), Board(folder)
    done = sum(board.done(cell) is not None for cell in cells)
    return {
        "model": str(manifest.provenance["model"]),
        "weights": "sweep",
        "data": str(manifest.provenance["data"]),
        "state": f"{'complete' if manifest.complete else 'unfinished'}, {done} of {len(cells)} networks",
    }
