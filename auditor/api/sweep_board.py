"""What is done, failed and free in a sweep's folder, for every process that shares it."""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auditor.api.run import Run
from auditor.api.sweep_grid import Cell
from auditor.api.workspace import MANIFEST, locked, read_manifest, write_manifest
from auditor.errors import AuditorError, RunError
from auditor.manifest import Manifest
from auditor.store.files import read_json, write_json

NETWORKS, WORK = "networks", "work"
KIND = "sweep"


class Board:
    """The state of a sweep, read from its folder each time.

    Parameters
    ----------
    path : Path
        The sweep's folder. ``networks/<cell>/`` is a run, ``work/<cell>/`` holds the cell's lock and how it ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.networks = path / NETWORKS

    def join(self, manifest: Manifest, cells: Iterable[Cell]) -> Manifest:
        """Begin the sweep, or add cells to one of the same identity.

        Returns
        -------
        Manifest
            As it is in the folder now.

        Raises
        ------
        RunError
            If the folder holds other work.
        """
        with locked(self.path, wait=True):
            if self.path.joinpath(MANIFEST).exists():
                there = read_manifest(self.path)
                if there.kind != KIND:
                    raise RunError(f"{self.path} holds a {there.kind} run.", fix="Choose another --name.")
                if changes := there.diff(manifest):
                    raise RunError(
                        f"{self.path} holds a sweep with other settings; it is left as it is.",
                        wanted="; ".join(map(str, changes[:5])) + ("; ..." if len(changes) > 5 else ""),
                        fix="Choose another --name, or go back to the settings of that sweep.",
                    )
                manifest = there
            elif any(not entry.name.startswith(".") for entry in self.path.iterdir()):
                raise RunError(f"{self.path} exists and is not a sweep; it is left as it is.",
                               fix="Choose another --name.")  # fmt: skip
            known = cells_of(manifest)
            joined = sorted({*known, *cells})
            if not self.path.joinpath(MANIFEST).exists() or joined != known:
                manifest.provenance["cells"] = [asdict(cell) for cell in joined]
                manifest.complete = False
                write_manifest(self.path, manifest)
        return manifest

    def folder(self, cell: Cell) -> Path:
        """Where the cell's network is, or will be."""
        return self.networks / cell.name

    def work(self, cell: Cell) -> Path:
        """Where the cell's lock is, and how it ended."""
        return self.path / WORK / cell.name

    def done(self, cell: Cell) -> dict[str, Any] | None:
        """What was finished, the ``digest`` of its network; None if nothing was, or its network is gone."""
        found = _read(self.work(cell) / "done.json")
        if found is None or not self.folder(cell).joinpath(MANIFEST).exists():
            return None
        try:
            manifest = read_manifest(self.folder(cell))
        except AuditorError:  # damaged: training says so, and it is recorded
            return None
        return found if manifest.complete and manifest.digest() == found.get("digest") else None

    def failure(self, cell: Cell) -> dict[str, Any] | None:
        """How the cell failed last: ``id``, ``error`` and ``traceback``; None if it did not."""
        return _read(self.work(cell) / "failed.json")

    def finish(self, cell: Cell, run: Run) -> None:
        """Record that the cell's network is there."""
        work = self.work(cell)
        work.joinpath("failed.json").unlink(missing_ok=True)
        write_json(work / "done.json", {"digest": run.manifest.digest()})

    def fail(self, cell: Cell, error: BaseException | str) -> None:
        """Record that the cell failed, and with what; each failure has an id of its own."""
        text = error if isinstance(error, str | AuditorError) else f"{type(error).__name__}: {error}"
        # One of our own errors says it all, unless it tells of another.
        told = isinstance(error, str) or (isinstance(error, AuditorError) and error.__cause__ is None)
        trace = "" if told or isinstance(error, str) else "".join(traceback.format_exception(error))
        write_json(
            self.work(cell) / "failed.json",
            {**asdict(cell), "id": secrets.token_hex(8), "error": str(text), "traceback": trace},
        )

    def failures(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Id of the last failure of each cell that failed, by the cell's name."""
        found = ((cell.name, self.failure(cell)) for cell in cells)
        return {name: str(failure.get("id")) for name, failure in found if failure is not None}

    def settled(self, cell: Cell, before: dict[str, str]) -> bool:
        """Whether there is nothing to do: finished, or failed since `before` was taken by :meth:`failures`."""
        if self.done(cell) is not None:
            return True
        failure = self.failure(cell)
        return failure is not None and str(failure.get("id")) != before.get(cell.name)


def cells_of(manifest: Manifest) -> list[Cell]:
    """Every cell that a sweep was asked for, sorted by alpha and seed."""
    return sorted(Cell(float(one["alpha"]), int(one["seed"])) for one in manifest.provenance.get("cells", []))


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = read_json(path)
    except AuditorError:  # damaged: the work it tells of is looked at again
        return None
    return content if isinstance(content, dict) else None
