"""A sweep on disk: its networks, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from auditor.api.frames import read_table, records
from auditor.api.run import Run
from auditor.api.sweep_board import KIND, Board, cells_of
from auditor.api.sweep_grid import Cell
from auditor.api.sweep_statistics import alphas_table, halvings
from auditor.api.sweep_tables import Member, layers_table, networks_table
from auditor.api.sweep_words import change_sentences, halving_sentence, seeds_sentence
from auditor.api.tuned import FineTuned
from auditor.api.workspace import MANIFEST, locked, read_manifest, run_folders, write_manifest
from auditor.errors import AuditorError, RunError, unknown_name
from auditor.manifest import Manifest
from auditor.store.files import read_json, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from auditor.causal.halving import Halving

RESULT = "sweep.json"
TABLES = ("networks.csv", "alphas.csv", "layers.csv")


@dataclass(frozen=True)
class Failed:
    """A network that could not be trained.

    Attributes
    ----------
    alpha : float
    seed : int
    error : str
    """

    alpha: float
    seed: int
    error: str


class Sweep:
    """Networks that were trained from one start by one plan and differ in alpha and seed.

    Parameters
    ----------
    path : Path
        The sweep's folder.
    parent : Run, optional
        Where training started; default: looked up beside the sweep, or where it was.
    """

    def __init__(self, path: str | Path, *, parent: Run | None = None) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        if self.manifest.kind != KIND:
            raise RunError(f"{self.path} is not a sweep.", got=self.manifest.kind, fix="`auditor runs` lists them.")
        self._parent = parent
        self._board = Board(self.path)

    @classmethod
    def open(cls, path: str | Path, *, runs: str | Path = "runs") -> Sweep:
        """Open a sweep by its path, or by its name within `runs`.

        Raises
        ------
        RunError, UnknownNameError
            If there is none.
        """
        for candidate in (Path(runs) / path, Path(path)):
            if candidate.joinpath(MANIFEST).exists():
                return cls(candidate)
        raise unknown_name("sweep", str(path), [folder.name for folder in sweep_folders(Path(runs))])

    @classmethod
    def latest(cls, runs: str | Path = "runs") -> Sweep:
        """Open the sweep that was begun, extended or finished last.

        Raises
        ------
        RunError
            If there is none.
        """
        folders = sweep_folders(Path(runs))
        if not folders:
            raise RunError(f"There is no sweep in {runs}.", fix="Run `auditor sweep --alphas -1,0,1` first.")
        return cls(folders[0])

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.alphas.to_html(index=False, float_format=lambda v: f"{v:.4f}", escape=True)

    @property
    def name(self) -> str:
        """Name of the sweep's folder."""
        return self.path.name

    @property
    def cells(self) -> list[Cell]:
        """Every alpha and seed that was asked for, sorted."""
        return cells_of(self.manifest)

    @property
    def parent(self) -> Run:
        """The run that every training started from.

        Raises
        ------
        RunError
            If it is gone or another one.
        """
        if self._parent is None:
            there = Path(self.manifest.provenance["parent"])
            wanted = self.manifest.identity["parent"]
            for folder in (self.path.parent / there.name, there):
                if folder.joinpath(MANIFEST).exists() and read_manifest(folder).digest() == wanted:
                    self._parent = Run(folder)
                    break
            else:
                raise RunError("The run that the sweep started from is gone or was made anew.", wanted=str(there))
        return self._parent

    @cached_property
    def members(self) -> list[Member]:
        """The finished networks, sorted by alpha and seed."""
        done = [cell for cell in self.cells if self._board.done(cell) is not None]
        data = None if self._parent is None else self._parent._data
        return [Member(cell.alpha, cell.seed, FineTuned(self._board.folder(cell), data=data)) for cell in done]

    @property
    def failed(self) -> list[Failed]:
        """Networks whose last training failed, with the error."""
        found = [(cell, self._board.failure(cell)) for cell in self.cells if self._board.done(cell) is None]
        unknown = "unknown: its record is damaged"
        return [Failed(cell.alpha, cell.seed, str(one.get("error", unknown))) for cell, one in found if one is not None]

    @property
    def missing(self) -> list[Cell]:
        """What was asked for and neither finished nor failed."""
        failed = {(one.alpha, one.seed) for one in self.failed}
        cells = [cell for cell in self.cells if self._board.done(cell) is None]
        return [cell for cell in cells if (cell.alpha, cell.seed) not in failed]

    @property
    def networks(self) -> pd.DataFrame:
        """One row per network; see docs/sweep.md for the columns of the tables."""
        return read_table(self.path / "networks.csv")

    @property
    def alphas(self) -> pd.DataFrame:
        """One row per alpha: means with intervals, the difference from alpha 0 and its test."""
        return read_table(self.path / "alphas.csv")

    @property
    def layers(self) -> pd.DataFrame:
        """One row per alpha and layer."""
        return read_table(self.path / "layers.csv")

    @property
    def confidence(self) -> float:
        """Confidence of every interval: that of the run that training started from."""
        return float(self.manifest.provenance["confidence"])

    def halving(self) -> dict[str, Halving]:
        """Where ``mean_index`` and ``excess`` are halved and what that costs."""
        return halvings(self.networks, confidence=self.confidence)

    def summary(self) -> str:
        """Say in sentences what was found, what failed and what is missing."""
        networks, alphas, failed, missing = self.networks, self.alphas, self.failed, self.missing
        lines = [
            f"{len(networks)} networks, {len(alphas)} alphas; accuracy on the score split, SI on the select split."
        ]
        if len(networks):
            found = halvings(networks, confidence=self.confidence)
            lines += [*change_sentences(alphas), *(halving_sentence(name, one) for name, one in found.items())]
        lines += filter(None, [seeds_sentence(alphas)])
        if missing:
            lines.append(f"Not finished yet: {'; '.join(map(str, missing))}.")
        lines += [f"Failed: alpha {one.alpha:g}, seed {one.seed}: {one.error.splitlines()[0]}" for one in failed]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """Return the table with one row per alpha."""
        return self.alphas

    def to_dict(self) -> dict[str, Any]:
        """Everything found, as plain values (the document that ``--json`` prints)."""
        found = self.halving().items() if len(self.networks) else []
        return {
            "sweep": str(self.path),
            "manifest": self.manifest.to_dict(),
            "networks": records(self.networks),
            "alphas": records(self.alphas),
            "layers": records(self.layers),
            "halving": {name: _plain(one.to_dict()) for name, one in found},
            "failed": [vars(one) for one in self.failed],
            "missing": [vars(one) for one in self.missing],
            "summary": self.summary().splitlines(),
        }

    def plot(self) -> Figure:
        """Accuracy against selectivity, one dot per network."""
        from auditor.report.sweep import accuracy_against_selectivity

        return accuracy_against_selectivity(self.networks, confidence=self.confidence)

    def plot_alphas(self) -> Figure:
        """Accuracy and selectivity against alpha."""
        from auditor.report.sweep_alphas import against_alpha

        return against_alpha(self.alphas, self.networks, confidence=self.confidence)

    def plot_layers(self) -> Figure:
        """Selectivity by layer, one line per alpha."""
        from auditor.report.sweep_layers import layers_by_alpha

        return layers_by_alpha(self.layers, confidence=self.confidence)

    def save_figures(self) -> list[Path]:
        """Write every figure as PNG, SVG and PDF; none without networks."""
        from auditor.report.style import save

        if self.networks.empty:
            return []
        figures = {"accuracy_against_selectivity": self.plot, "against_alpha": self.plot_alphas,
                   "layers": self.plot_layers}  # fmt: skip
        folder = self.path / "figures"
        return [path for name, draw in figures.items() for path in save(draw(), folder / name, pdf=True)]

    def write(self, *, margin: float) -> None:
        """Write tables, figures and ``sweep.json`` for the networks that are there, unless that is done.

        Processes that end at the same time take turns; the tables are always of one set of networks.

        Parameters
        ----------
        margin : float
            Loss of accuracy that still counts as no cost.
        """
        with locked(self.path, wait=True):
            self.manifest = read_manifest(self.path)  # others may have added cells
            self.__dict__.pop("members", None)
            made = [self._board.done(Cell(member.alpha, member.seed)) or {} for member in self.members]
            state = {
                "networks": [one.get("digest") for one in made],
                "failed": [vars(one) for one in self.failed],
                "missing": [vars(one) for one in self.missing],
                "margin": margin,
                "confidence": self.confidence,
            }
            if self._written() == state and all(self.path.joinpath(name).exists() for name in TABLES):
                return
            networks = networks_table(self.members)
            # sweep.json goes first and comes last, so that it tells of whole tables only.
            self.path.joinpath(RESULT).unlink(missing_ok=True)
            write_csv(self.path / "networks.csv", networks)
            write_csv(self.path / "alphas.csv",
                      alphas_table(self.members, networks, margin=margin, confidence=self.confidence))  # fmt: skip
            write_csv(self.path / "layers.csv", layers_table(self.members, confidence=self.confidence))
            self.save_figures()
            self.manifest.complete = not state["failed"] and not state["missing"]
            write_manifest(self.path, self.manifest)
            write_json(self.path / RESULT, {**self.to_dict(), "state": state})

    def _written(self) -> Any:
        """What the tables in the folder were made from."""
        try:
            return read_json(self.path / RESULT).get("state")
        except (AuditorError, AttributeError):
            return None


def sweep_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a sweep, the one that was changed last first; damaged ones are passed over."""
    found = []
    for folder in run_folders(root):
        try:
            if read_manifest(folder).kind == KIND:
                found.append(folder)
        except AuditorError:
            continue
    return found


def _plain(value: Any) -> Any:
    """None in the place of NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and value != value else value
