"""The geometry of one network or of a sweep's networks: tables, figures and what they say."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from auditor.api.frames import read_table, records
from auditor.api.geometry_settings import PARTS
from auditor.api.workspace import read_manifest
from auditor.errors import RunError, unknown_name
from auditor.manifest import Manifest
from auditor.store.files import read_json, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT = "geometry.json"


class Geometry:
    """Results in a folder.

    Parameters
    ----------
    path : Path
    manifest : Manifest, optional
        Default: read from the folder.
    """

    def __init__(self, path: str | Path, *, manifest: Manifest | None = None) -> None:
        self.path = Path(path)
        self.manifest = manifest or read_manifest(self.path)

    def __repr__(self) -> str:
        return f"Geometry({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda v: f"{v:.3f}", escape=True)

    @property
    def parts(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(part for part in PARTS if self.path.joinpath(f"{part}.csv").exists())

    @property
    def confidence(self) -> float:
        """Confidence of every interval, except those of single networks whose runs have another."""
        return float(self.manifest.identity["confidence"])

    @property
    def confidences(self) -> list[float]:
        """Confidence of the intervals of each network."""
        known = self.manifest.provenance.get("confidences")  # results of earlier versions do not say
        return list(map(float, known or [self.confidence] * len(self.selectivity)))

    def _table(self, part: str) -> pd.DataFrame:
        if part not in self.parts:
            raise RunError(f"{self.path} holds no {part}.", wanted=part, got=", ".join(self.parts))
        return read_table(self.path / f"{part}.csv")

    @cached_property
    def dimensionality(self) -> pd.DataFrame:
        """One row per network, layer, condition and corruption."""
        return self._table("dimensionality")

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """One row per network and layer: norm and variability of the input-unit gradient."""
        return self._table("gradients")

    @cached_property
    def rotation(self) -> pd.DataFrame:
        """One row per network and layer: axis-aligned and best rotated selectivity, each with its null."""
        return self._table("rotation")

    @cached_property
    def probes(self) -> pd.DataFrame:
        """One row per network and layer: accuracy of a linear probe."""
        return self._table("probes")

    @cached_property
    def similarity(self) -> pd.DataFrame:
        """One row per pair of networks and layer: distances."""
        return self._table("similarity")

    @cached_property
    def selectivity(self) -> pd.DataFrame:
        """One row per network: its mean index, and the means of other metrics that its run was profiled with."""
        return read_table(self.path / "selectivity.csv")

    @property
    def associations(self) -> pd.DataFrame:
        """Rank correlations with mean SI over the networks of a sweep; empty otherwise."""
        path = self.path / "associations.csv"
        return read_table(path) if path.exists() else pd.DataFrame()

    @property
    def outcomes(self) -> pd.DataFrame:
        """For each alpha of a sweep, whether selectivity is gone or rotated; empty otherwise."""
        path = self.path / "outcomes.csv"
        return read_table(path) if path.exists() else pd.DataFrame()

    def by_alpha(self, part: str) -> pd.DataFrame:
        """Means over seeds of one part by layer and alpha, with intervals over seeds and changes from alpha 0.

        `part` may also be ``selectivity``, which is of whole networks.

        Raises
        ------
        UnknownNameError, RunError
            If there is no such part, or no sweep was measured.
        """
        known = (*PARTS, "selectivity")
        if part not in known:
            raise unknown_name("part", part, known)
        path = self.path / f"{part}_by_alpha.csv"
        if not path.exists():
            raise RunError(f"{self.path} holds no {part} by alpha.", fix="Measure a sweep, with this part.")
        return read_table(path)

    @property
    def is_sweep(self) -> bool:
        """Whether networks of several alphas were measured."""
        return self.path.joinpath("selectivity_by_alpha.csv").exists()

    def to_frame(self) -> pd.DataFrame:
        """Return the table of the first part."""
        return self._table(self.parts[0])

    def summary(self) -> str:
        """Say in sentences what was found."""
        return "\n".join(read_json(self.path / RESULT)["sentences"])

    def to_dict(self) -> dict[str, Any]:
        """Everything found, as plain values (the document that ``--json`` prints)."""
        content: dict[str, Any] = read_json(self.path / RESULT)
        return content | {"geometry": str(self.path), "manifest": self.manifest.to_dict()}

    def write(self, sentences: list[str]) -> None:
        """Write ``geometry.json`` from the tables."""
        tables = {path.stem: records(read_table(path)) for path in sorted(self.path.glob("*.csv"))}
        write_json(self.path / RESULT, {"sentences": sentences, "tables": tables})

    def figures(self) -> dict[str, Figure]:
        """Every figure, by name."""
        from auditor.api.geometry_figures import figures_of

        return figures_of(self)

    def plot(self, name: str | None = None) -> Figure:
        """One figure; the first by default.

        Raises
        ------
        UnknownNameError
            If there is none of that name.
        """
        found = self.figures()
        if name is not None and name not in found:
            raise unknown_name("figure", name, found)
        return found[name or next(iter(found))]

    def save_figures(self) -> list[Path]:
        """Write every figure as PNG, SVG and PDF."""
        from auditor.report.style import save

        folder = self.path / "figures"
        return [path for name, figure in self.figures().items() for path in save(figure, folder / name, pdf=True)]
