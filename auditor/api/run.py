"""A finished run: its tables, figures and the verbs that build on it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from auditor.api.forward import Execution
from auditor.api.frames import read_table, records
from auditor.api.models import Prepared, reload
from auditor.api.selection import INDEX, main_metric, rank_units, scored_by, signed_metrics
from auditor.api.skips import SKIPPED, read_skipped
from auditor.api.storing import open_store
from auditor.api.workspace import find_run, read_manifest
from auditor.data import LabelledData, load_data
from auditor.errors import RunError
from auditor.manifest import Manifest
from auditor.models.preprocessing import Preprocessing
from auditor.progress import QUIET, Reporter
from auditor.stats.moments import ClassMoments
from auditor.store.blocks import BlockCache
from auditor.store.files import read_json
from auditor.units import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from auditor.api.ablation_result import Ablation
    from auditor.api.audit_result import Audit
    from auditor.api.finetune import FineTuned
    from auditor.api.geometry import Geometry
    from auditor.api.robustness import Robustness
    from auditor.api.sweep import Sweep
    from auditor.store.reader import StoreReader
    from auditor.store.shards import ShardedReader

TOP_TUNING = 12


class Run:
    """A profile on disk.

    Parameters
    ----------
    path : Path
        The run's folder.
    manifest : Manifest, optional
        Default: read from the folder.
    model, data : optional
        What is still in memory; built again when needed otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        manifest: Manifest | None = None,
        model: Prepared | None = None,
        data: LabelledData | None = None,
    ) -> None:
        self.path = Path(path)
        self.manifest = manifest or read_manifest(self.path)
        self._model = model
        self._data = data

    @classmethod
    def open(cls, name: str | None = None, *, runs: str | Path = "runs", original: bool = False) -> Run:
        """Open a run by name or path; without a name the latest finished one.

        With `original`, networks that were fine-tuned here are passed over in the search for the latest.

        Raises
        ------
        RunError, UnknownNameError
            If there is none, or it is unfinished.
        """
        run = cls(find_run(name, Path(runs), original=original))
        if run.manifest.kind != "profile":
            raise RunError(f"{run.path} is not a profile.", got=run.manifest.kind)
        if not run.manifest.complete:
            raise RunError(f"{run.path} is unfinished.", fix="Repeat the command that began it; it goes on by itself.")
        if "finetune" in run.manifest.identity:
            from auditor.api.finetune import FineTuned

            return FineTuned(run.path, manifest=run.manifest)
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.layers.to_html(index=False, float_format=lambda v: f"{v:.3f}", escape=True)

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.path.name

    @property
    def complete(self) -> bool:
        """Whether the run is finished; one of several shards is not, as long as others are missing."""
        return self.manifest.complete

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return tuple(self.manifest.provenance["classes"])

    @property
    def confidence(self) -> float:
        """Confidence of the run's intervals."""
        return float(self.manifest.identity["selectivity"]["confidence"])

    @cached_property
    def sites(self) -> list[Site]:
        """The run's sites, in network order."""
        return [Site.from_dict(site) for site in self.manifest.identity["sites"]]

    @cached_property
    def selectivity(self) -> pd.DataFrame:
        """One row per unit; see README for the columns."""
        return read_table(self.path / "units.csv")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per site: mean index with interval, null, dead and significant units."""
        return read_table(self.path / "layers.csv")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Network mean index, accuracy on the score split, counts."""
        content: dict[str, Any] = read_json(self.path / "summary.json")
        return content

    def to_frame(self) -> pd.DataFrame:
        """Return the unit table."""
        return self.selectivity

    def to_dict(self) -> dict[str, Any]:
        """Everything the run found, as plain values (the document that ``--json`` prints)."""
        return {
            "run": str(self.path),
            "manifest": self.manifest.to_dict(),
            "summary": self.summary,
            "layers": records(self.layers),
            "units": records(self.selectivity),
        }

    def moments(self, split: str = "select") -> dict[str, ClassMoments]:
        """Class moments by site name, for ``select`` or ``score``."""
        block = BlockCache(self.path / "moments").get(split)
        if block is None:
            raise RunError(f"{self.path} has no readable moments of the {split} split.", fix="Profile again.")
        by_site: dict[str, dict[str, Any]] = {}
        for key, value in block.items():
            site, _, field = key.rpartition("|")
            by_site.setdefault(site, {})[field] = value
        return {site: ClassMoments.from_state(state) for site, state in by_site.items()}

    def store(self) -> StoreReader | ShardedReader:
        """Open the stored responses for reading; use it as a context manager."""
        return open_store(self.path)

    def tuning(self, top: int = TOP_TUNING) -> pd.DataFrame:
        """Class means with standard errors of the `top` units of highest excess, in long form."""
        metric = main_metric(self.layers)
        prefers = "preferred" if metric == INDEX else f"{metric}_preferred"
        ranked = rank_units(self.selectivity, self.layers, metric).head(top)
        moments = self.moments("select")
        parts = []
        for row in ranked.to_dict("records"):
            site, unit = moments[row["site"]], int(row["unit"])
            parts.append(
                pd.DataFrame(
                    {
                        "unit_id": row["unit_id"],
                        "class_name": list(self.classes),
                        "mean": site.mean[:, unit],
                        "se": np.sqrt(site.variance[:, unit] / np.maximum(site.count, 1)),
                        "preferred": [c == row[prefers] for c in self.classes],
                        **{column: row[column] for column in (metric, f"{metric}_low", f"{metric}_high")},
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def plot(self, metric: str | None = None) -> Figure:
        """Selectivity by layer against the label-shuffle null.

        Parameters
        ----------
        metric : str, optional
            Default: the index, with d' and AUC in its place for the layers that hold signed units.
        """
        from auditor.registry import registry
        from auditor.report.selectivity import selectivity_by_layer, selectivity_panels

        signed = signed_metrics(self.layers)
        if metric is None and signed:
            scored = {site: (by,) if by == INDEX else signed for site, by in scored_by(self.layers).items()}
            names = [name for name in (INDEX, *signed) if any(name in mine for mine in scored.values())]
            labels = {name: registry().metric(name).label for name in names}
            return selectivity_panels(self.selectivity, labels=labels, scored_by=scored)
        name = metric or INDEX
        return selectivity_by_layer(self.selectivity, metric=name, metric_label=registry().metric(name).label)

    def plot_tuning(self, top: int = TOP_TUNING) -> Figure:
        """Class tuning of the most selective units."""
        from auditor.registry import registry
        from auditor.report.tuning import class_tuning

        metric = main_metric(self.layers)
        return class_tuning(
            self.tuning(top),
            n_images=int(self.selectivity["n_images"].iloc[0]),
            metric=metric,
            metric_label=metric if metric == INDEX else registry().metric(metric).label,
            confidence=self.confidence,
        )

    def save_figures(self) -> list[Path]:
        """Write every figure of the run as PNG and SVG."""
        from auditor.report.style import save

        folder = self.path / "figures"
        metrics = list(self.manifest.identity["selectivity"]["metrics"])
        saved: list[Path] = []
        if signed_metrics(self.layers):
            saved += save(self.plot(), folder / "selectivity")
            metrics.remove(INDEX)
        saved += [path for metric in metrics for path in save(self.plot(metric), folder / f"selectivity_{metric}")]
        return saved + list(save(self.plot_tuning(), folder / "class_tuning"))

    def data(self) -> LabelledData:
        """Load the run's data, check that they are the same and leave out the images that the run could not read.

        Raises
        ------
        RunError
            If they were given from Python, or have changed since.
        """
        if self._data is None:
            source = self.manifest.provenance.get("data")
            if source is None:
                raise RunError(
                    "The run's data were given from Python and cannot be loaded again here.",
                    fix="Work with the run in the session that has the data.",
                )
            data = load_data(source["text"], fractions=tuple(source["fractions"]), root=source.get("root"))
            if source["limit"] is not None:
                data = data.limited(source["limit"])
            self._data = data
        found, wanted = self._data.summary(), self.manifest.identity["data"]
        for field in ("fingerprint", "split_fingerprint"):
            if found[field] != wanted[field]:
                raise RunError(
                    "The data are not those of the run: images were added, removed or relabelled.",
                    wanted=str(wanted[field]),
                    got=str(found[field]),
                    fix="Profile again.",
                )
        return self._data.without(read_skipped(self.path / SKIPPED))

    def model(self, execution: Execution) -> Prepared:
        """Build the run's model again, unless it is in memory.

        Raises
        ------
        RunError
            If it cannot be built, or its weights have changed.
        """
        if self._model is None:
            weights_file = self.manifest.provenance.get("weights_file")
            self._model = reload(
                self.manifest.identity["model"],
                Preprocessing.from_dict(self.manifest.identity["preprocessing"]),
                None if weights_file is None else Path(weights_file),
                folder=self.path,
                execution=execution,
            )
        return self._model

    def ablate(self, top_selective: int = 100, *, reporter: Reporter = QUIET, **options: Any) -> Ablation:
        """Importance of the most selective units; see :func:`auditor.ablate`."""
        from auditor.api.ablate import ablate

        return ablate(self, top_selective=top_selective, reporter=reporter, **options)

    def audit(self, *, reporter: Reporter = QUIET, **options: Any) -> Audit:
        """Verdicts on whether selective units are causally important; see :func:`auditor.audit`."""
        from auditor.api.audit import audit

        return audit(self, reporter=reporter, **options)

    def finetune(self, alpha: float, *, reporter: Reporter = QUIET, **options: Any) -> FineTuned:
        """Train on with the regularizer; see :func:`auditor.finetune`."""
        from auditor.api.finetune import finetune

        return finetune(self, alpha=alpha, reporter=reporter, **options)

    def sweep(self, alphas: Sequence[float], *, reporter: Reporter = QUIET, **options: Any) -> Sweep:
        """Fine-tune with many alphas and seeds; see :func:`auditor.sweep`."""
        from auditor.api.sweep import sweep

        return sweep(self, alphas=alphas, reporter=reporter, **options)

    def robustness(self, *, reporter: Reporter = QUIET, **options: Any) -> Robustness:
        """Accuracy under natural corruptions and attacks; see :func:`auditor.robustness`."""
        from auditor.api.robustness import robustness

        return robustness(self, reporter=reporter, **options)

    def geometry(self, *, reporter: Reporter = QUIET, **options: Any) -> Geometry:
        """Dimensionality, gradients and rotated selectivity; see :func:`auditor.geometry`."""
        from auditor.api.geometry import geometry

        return geometry(self, reporter=reporter, **options)
