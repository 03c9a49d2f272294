"""What ``auditor robustness`` found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from auditor.api.frames import records
from auditor.api.robustness_measure import Survival
from auditor.api.robustness_networks import Network
from auditor.api.robustness_settings import RobustnessSettings
from auditor.api.robustness_sweep import alpha_table, association_table, matched_table
from auditor.api.robustness_tables import (
    attack_table,
    corruption_table,
    jacobian_table,
    masking_table,
    measures,
    overall_table,
    type_table,
)
from auditor.api.robustness_words import summary_lines
from auditor.api.workspace import MANIFEST, read_manifest
from auditor.errors import AuditorError, RunError
from auditor.manifest import Manifest
from auditor.store.files import read_json, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLES = ("overall", "corruptions", "by_type", "attacks", "masking", "jacobian", "alphas", "association", "matched")
_TEXT = ("network", "corruption", "group", "severities", "attack", "masking", "check", "outcome", "detail", "measure",
         "over")  # fmt: skip


class Robustness:
    """Accuracy under corruptions and attacks, of one network or of those of a sweep.

    Parameters
    ----------
    path : Path
        Folder of the results.

    Attributes
    ----------
    overall : pandas.DataFrame
        One row per network: mean selectivity, clean and mean corruption accuracy, relative accuracy, mCE where there is
        a reference, outcome of the masking checks.
    corruptions : pandas.DataFrame
        One row per network, type and severity.
    by_type : pandas.DataFrame
        One row per network and type.
    attacks : pandas.DataFrame
        One row per network, attack, epsilon (in 255ths) and number of steps.
    masking : pandas.DataFrame
        One row per network and check.
    jacobian : pandas.DataFrame
        One row per network.
    alphas, association, matched : pandas.DataFrame
        Of a sweep: by alpha over seeds, against mean selectivity over networks, and against controls of the same clean
        accuracy. Empty for a single run.
    """

    overall: pd.DataFrame
    corruptions: pd.DataFrame
    by_type: pd.DataFrame
    attacks: pd.DataFrame
    masking: pd.DataFrame
    jacobian: pd.DataFrame
    alphas: pd.DataFrame
    association: pd.DataFrame
    matched: pd.DataFrame

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name not in TABLES:
            raise AttributeError(name)
        table = self._read(name)
        self.__dict__[name] = table
        return table

    def __repr__(self) -> str:
        return f"Robustness({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.overall.to_html(index=False, float_format=lambda v: f"{v:.3f}", escape=True)

    @cached_property
    def manifest(self) -> Manifest:
        """Identity and provenance."""
        return read_manifest(self.path)

    @cached_property
    def notes(self) -> dict[str, Any]:
        """Number of images, size of the pixels, settings."""
        content: dict[str, Any] = read_json(self.path / "notes.json")
        return content

    @property
    def is_sweep(self) -> bool:
        """Whether it is of the networks of a sweep."""
        return bool(self.notes["sweep"])

    def is_whole(self) -> bool:
        """Whether every table and the notes can be read; what cannot is written again."""
        try:
            return bool(self.notes) and all(getattr(self, name) is not None for name in TABLES)
        except AuditorError:
            return False

    @staticmethod
    def read_networks(path: Path) -> list[str] | None:
        """Keys of the networks that an earlier call measured; None if there was none."""
        if not path.joinpath(MANIFEST).exists():
            return None
        found = read_manifest(path).provenance.get("networks")
        return None if found is None else list(found)

    def to_frame(self) -> pd.DataFrame:
        """Return the table with one row per network."""
        return self.overall

    def to_dict(self) -> dict[str, Any]:
        """Everything found, as plain values (the document that ``--json`` prints)."""
        return {
            "path": str(self.path),
            "manifest": self.manifest.to_dict(),
            "notes": self.notes,
            "summary": self.summary(),
            **{name: records(getattr(self, name)) for name in TABLES},
        }

    def summary(self) -> str:
        """What was found, in sentences."""
        return "\n".join(summary_lines(self))

    def plot(self, kind: str | None = None) -> Figure:
        """Draw one figure: one of :meth:`figures`, by default the first.

        Raises
        ------
        RunError
            If there is no such figure.
        """
        from auditor.api.robustness_figures import draw, figures

        names = figures(self)
        if (kind or "") not in ("", *names) or not names:
            raise RunError(
                f"There is no figure {kind!r} of these results.", wanted=" or ".join(names) or "corruptions or attacks"
            )
        return draw(self, kind or names[0])

    def figures(self) -> list[str]:
        """Names of the figures that these results have."""
        from auditor.api.robustness_figures import figures

        return figures(self)

    def save_figures(self) -> list[Path]:
        """Write every figure as PNG, SVG and PDF."""
        from auditor.report.style import save

        return [
            path for name in self.figures() for path in save(self.plot(name), self.path / "figures" / name, pdf=True)
        ]

    def _read(self, name: str) -> pd.DataFrame:
        path = self.path / f"{name}.csv"
        try:
            if not path.read_text(encoding="utf-8").strip():
                return pd.DataFrame()
            header = pd.read_csv(path, nrows=0).columns
            text = {column: str for column in header if column in _TEXT}
            numbers = {column: ["", "nan"] for column in header if column not in text}
            return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=numbers)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}", fix="Repeat `auditor robustness`.") from error


def save_tables(
    folder: Path,
    found: Sequence[tuple[Network, Survival]],
    reference: Survival | None,
    settings: RobustnessSettings,
    *,
    notes: dict[str, Any],
) -> None:
    """Write every table and the notes."""
    level = settings.confidence
    networks = [network for network, _ in found]
    tables = {
        "overall": overall_table(found, reference, settings),
        "corruptions": corruption_table(found, level),
        "by_type": type_table(found, reference, level),
        "attacks": attack_table(found, level),
        "masking": masking_table(found, settings),
    }
    if found[0][1].jacobian is not None:
        tables["jacobian"] = jacobian_table(found, level)
    if notes["sweep"]:
        values = {network.name: measures(survival, settings) for network, survival in found}
        tables |= {
            "alphas": alpha_table(networks, values, level),
            "association": association_table(networks, values, level),
            "matched": matched_table(networks, values, level),
        }
    for name in TABLES:
        write_csv(folder / f"{name}.csv", tables.get(name, pd.DataFrame()))
    write_json(folder / "notes.json", json.loads(json.dumps(notes)))
