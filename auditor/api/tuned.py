"""A fine-tuned network's own run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from auditor.api.compare import Comparison, compare
from auditor.api.frames import read_table, records
from auditor.api.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING = "training"
WEIGHTS = "weights.safetensors"


class FineTuned(Run):
    """A fine-tuned network's own run, with its training and the comparison with where it came from."""

    @property
    def parent(self) -> Path:
        """Folder of the run that training started from."""
        return Path(self.manifest.provenance["parent"])

    @property
    def plan(self) -> dict[str, Any]:
        """Settings of the training that were given or that every training has; others are the defaults."""
        plan: dict[str, Any] = self.manifest.identity["finetune"]["plan"]
        return plan

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch; ``batch_si`` is biased upward and no measure of success, ``val_si`` is one."""
        return read_table(self.path / TRAINING / "history.csv")

    @property
    def layer_history(self) -> pd.DataFrame:
        """One row per epoch and layer; empty where an earlier version, which did not keep it, trained the network."""
        path = self.path / TRAINING / "layers.csv"
        return read_table(path) if path.exists() else pd.DataFrame()

    @property
    def comparison(self) -> Comparison:
        """Before against after."""
        return compare(Run(self.parent), self)

    def plot_history(self) -> Figure:
        """Loss, selectivity with its floors, accuracy and dead units by epoch."""
        from auditor.registry import registry
        from auditor.report.training import training_history

        metrics, name = registry().training_metrics(), self.plan.get("metric", "index")
        label = metrics[name].label if name in metrics else name
        return training_history(self.history, self.layer_history, metric_label=label)

    def to_dict(self) -> dict[str, Any]:
        """Everything found, with the comparison (the document that ``--json`` prints)."""
        return {
            **super().to_dict(),
            "comparison": self.comparison.to_dict(),
            "history": records(self.history),
            "layer_history": records(self.layer_history),
        }
