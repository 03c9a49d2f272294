"""The result of an audit: verdicts, tables, figures, the report."""

from __future__ import annotations

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from auditor.api.audit_figures import Drawing, drawings
from auditor.api.audit_tables import RESULTS, VERDICTS
from auditor.api.forward import Execution
from auditor.api.frames import read_table, records
from auditor.api.run import Run
from auditor.api.workspace import read_manifest
from auditor.causal import Verdict
from auditor.errors import RunError, unknown_name
from auditor.manifest import Manifest
from auditor.progress import QUIET, Reporter
from auditor.store.files import read_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
AUDITS = "audits"


class Audit:
    """Verdicts on the hypotheses that were declared.

    Parameters
    ----------
    path : Path
        Folder of the results, inside the run's.
    run : Run
    manifest : Manifest, optional
        Default: read from the folder.
    """

    def __init__(self, path: Path, run: Run, *, manifest: Manifest | None = None) -> None:
        self.path = path
        self.run = run
        self.manifest = manifest or read_manifest(path)

    @classmethod
    def open(cls, run: Run, name: str | None = None) -> Audit:
        """Open an audit of a run by name; without a name the latest finished one.

        Raises
        ------
        RunError, UnknownNameError
            If there is none, or it is unfinished.
        """
        folders = sorted(
            (path.parent for path in run.path.glob(f"{AUDITS}/*/manifest.json")),
            key=lambda folder: folder.joinpath("manifest.json").stat().st_mtime,
        )
        names = [folder.name for folder in folders]
        if name is not None and name not in names:
            raise unknown_name("audit", name, names)
        found = [cls(folder, run) for folder in folders if name in (None, folder.name)]
        finished = [audit for audit in found if audit.manifest.complete]
        if not finished:
            raise RunError(
                f"{run.path} has no finished audit.", got=f"{len(found)} unfinished" if found else "none",
                fix=f"Run `auditor audit --run {run.name}`.",
            )  # fmt: skip
        return finished[-1]

    def __repr__(self) -> str:
        return f"Audit({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.answer)}</p>" + self.to_frame().to_html(index=False, escape=True)

    @property
    def declaration(self) -> dict[str, Any]:
        """What was declared before anything was ablated."""
        declared: dict[str, Any] = self.manifest.identity["declaration"]
        return declared

    @property
    def confidence(self) -> float:
        """Confidence of the audit's intervals; those of the run's selectivity have the run's."""
        return float(1 - self.declaration["alpha"])

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """One for each hypothesis."""
        return [Verdict.from_dict(values) for values in read_json(self.path / VERDICTS)]

    @cached_property
    def results(self) -> dict[str, Any]:
        """The answer, accuracy, and how the engine was checked."""
        content: dict[str, Any] = read_json(self.path / RESULTS)
        return content

    @property
    def answer(self) -> str:
        """One sentence on the question of the audit."""
        return str(self.results["answer"])

    @cached_property
    def units(self) -> pd.DataFrame:
        """One row per unit: selectivity, and importance by every measure."""
        return self.table("units")

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the tables, by file name without ending."""
        names = sorted(path.stem for path in self.path.glob("*.csv"))
        if name not in names:
            raise unknown_name("table", name, names)
        return read_table(self.path / f"{name}.csv")

    def to_frame(self) -> pd.DataFrame:
        """One row per verdict."""
        return pd.DataFrame(
            [
                {
                    "hypothesis": v.title, "outcome": str(v.outcome), "effect": v.effect, "low": v.low, "high": v.high,
                    "unit": v.unit, "margin": v.margin, "p": v.p, "sentence": v.sentence,
                }
                for v in self.verdicts
            ]
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything found, as plain values (the document that ``--json`` prints)."""
        return {
            "audit": str(self.path),
            "run": str(self.run.path),
            "report": str(self.run.path / REPORT),
            "manifest": self.manifest.to_dict(),
            "results": self.results,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "units": records(self.units),
        }

    def summary(self) -> str:
        """The answer, and every verdict in a sentence."""
        return "\n".join([self.answer, *(f"{v.title}: {v.outcome}. {v.sentence}" for v in self.verdicts)])

    def drawings(self) -> list[Drawing]:
        """Return the figures, ready to be drawn."""
        return list(drawings(self))

    def plot(self, name: str = "necessity") -> Figure:
        """Draw one of the figures.

        Raises
        ------
        UnknownNameError
            If there is none of that name.
        """
        found = {drawing.key: drawing for drawing in self.drawings()}
        if name not in found:
            raise unknown_name("figure", name, found)
        return found[name].draw()

    def save_figures(self) -> list[Path]:
        """Write every figure as PNG, SVG and PDF."""
        from auditor.report.style import save

        folder = self.path / "figures"
        return [path for each in self.drawings() for path in save(each.draw(), folder / each.key, pdf=True)]

    def write_report(self, *, execution: Execution | None = None, reporter: Reporter = QUIET) -> Path:
        """Write the run's ``report.html``: one file that needs no network.

        Parameters
        ----------
        execution : Execution, optional
            Of the passes that find what drives the notable units.
        reporter : Reporter
        """
        from auditor.api.audit_page import page
        from auditor.report.page import render

        path = self.run.path / REPORT
        reporter.say("Report: looking at the notable units.")
        write_text(path, render(page(self, execution or Execution())))
        return path
