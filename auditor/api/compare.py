"""The verb ``compare``: two or more runs side by side."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.run import Run, records
from auditor.data import SPLITS
from auditor.errors import OptionError, RunError
from auditor.stats.intervals import paired_proportion_interval
from auditor.store.blocks import BlockCache
from auditor.store.files import write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Comparison:
    """Runs side by side; the first is what the others are compared with.

    Parameters
    ----------
    overall : pandas.DataFrame
        One row per run: accuracy and mean index with intervals, and their change from the first run.
    layers : pandas.DataFrame
        One row per run and site.
    """

    def __init__(self, overall: pd.DataFrame, layers: pd.DataFrame) -> None:
        self.overall = overall
        self.layers = layers

    def _repr_html_(self) -> str:
        return self.overall.to_html(index=False, float_format=lambda v: f"{v:.4f}", escape=True)

    def to_frame(self) -> pd.DataFrame:
        """Return the table with one row per run."""
        return self.overall

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"overall": records(self.overall), "layers": records(self.layers)}

    def plot(self) -> Figure:
        """Mean selectivity by layer and accuracy, run against run."""
        from auditor.report.comparison import comparison

        return comparison(self.layers, self.overall)

    def save(self, folder: Path) -> None:
        """Write tables, JSON and figure."""
        from auditor.report.style import save

        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / "overall.csv", self.overall)
        write_csv(folder / "layers.csv", self.layers)
        write_json(folder / "comparison.json", self.to_dict())
        save(self.plot(), folder / "comparison")


def compare(first: Run, *others: Run) -> Comparison:
    """Compare runs on the same data.

    Parameters
    ----------
    first : Run
        What the others are compared with.
    *others : Run
        At least one.

    Returns
    -------
    Comparison
        Changes of accuracy are paired by image (Bonett & Price 2012). Changes of the mean index are paired by
        bootstrap resample where the runs share them.

    Raises
    ------
    OptionError
        If there is nothing to compare with.
    RunError
        If the runs are of other data or splits.
    """
    if not others:
        raise OptionError("A comparison needs at least two runs.", got="one")
    data = first.manifest.identity["data"]
    for run in others:
        mine = run.manifest.identity["data"]
        for field in ("fingerprint", "split_fingerprint"):
            if mine[field] != data[field]:
                raise RunError(
                    f"{run.name} and {first.name} are of different images, so they cannot be compared.",
                    wanted=str(data[field]),
                    got=str(mine[field]),
                )
    runs = [first, *others]
    correct = [_correct(run) for run in runs]
    overall = pd.DataFrame(
        [_row(run) | _changes(first, run, correct[0], c) for run, c in zip(runs, correct, strict=True)]
    )
    layers = pd.concat([_layer_rows(run) for run in runs], ignore_index=True)
    return Comparison(overall, layers)


def _label(run: Run) -> str:
    tuned = run.manifest.identity.get("finetune")
    return "before" if tuned is None else f"alpha {tuned['plan']['alpha']:g}"


def _row(run: Run) -> dict[str, Any]:
    accuracy, network = run.summary["accuracy"] or {}, run.summary["network"]
    return {
        "run": _label(run),
        "name": run.name,
        "accuracy": accuracy.get("accuracy", np.nan),
        "accuracy_low": accuracy.get("low", np.nan),
        "accuracy_high": accuracy.get("high", np.nan),
        "mean_index": network["mean_index"],
        "mean_index_low": network["low"],
        "mean_index_high": network["high"],
        "null_mean": network["null_mean"],
        "dead": run.summary["dead"],
        "units": run.summary["units"],
    }


def _changes(
    first: Run, run: Run, before: NDArray[np.bool_] | None, after: NDArray[np.bool_] | None
) -> dict[str, float]:
    names = ("accuracy_change", "accuracy_change_low", "accuracy_change_high")
    if run is first:
        return dict.fromkeys((*names, "index_change", "index_change_low", "index_change_high"), np.nan)
    changes = dict.fromkeys(names, np.nan)
    if before is not None and after is not None:
        gained, lost = int((~before & after).sum()), int((before & ~after).sum())
        interval = paired_proportion_interval(gained, lost, len(before), run.confidence)
        changes = dict(zip(names, (float(v) for v in interval), strict=True))
    return changes | _index_change(first, run)


def _index_change(first: Run, run: Run) -> dict[str, float]:
    change = run.summary["network"]["mean_index"] - first.summary["network"]["mean_index"]
    a, b = _replicates(first), _replicates(run)
    shared = ("data", "selectivity", "seed")
    paired = all(first.manifest.identity[k] == run.manifest.identity[k] for k in shared)
    spread = np.std(b - a, ddof=1) if paired else np.hypot(np.std(a, ddof=1), np.std(b, ddof=1))
    half = NormalDist().inv_cdf((1 + run.confidence) / 2) * float(spread)
    return {"index_change": change, "index_change_low": change - half, "index_change_high": change + half}


def _replicates(run: Run) -> NDArray[np.float64]:
    """Bootstrap replicates of the network's mean index."""
    block = BlockCache(run.path / "moments").get("bootstrap")
    if block is None:
        raise RunError(f"{run.path} has no readable bootstrap replicates.", fix="Profile again.")
    defined = [values for values in block.values() if not np.isnan(values).all()]
    mean: NDArray[np.float64] = np.mean(defined, axis=0) if defined else np.full(2, np.nan)
    return mean


def _layer_rows(run: Run) -> pd.DataFrame:
    layers = run.layers
    return pd.DataFrame(
        {
            "run": _label(run),
            "site": layers["site"],
            "mean_index": layers["mean_index"],
            "low": layers["index_low"],
            "high": layers["index_high"],
            "null_mean": layers["index_null_mean"],
            "dead": layers["dead"],
            "n_units": layers["n_units"],
        }
    )


def _correct(run: Run) -> NDArray[np.bool_] | None:
    """Which images of the score split are classified correctly."""
    if run.summary["accuracy"] is None:
        return None
    with run.store() as store:
        rows = store.splits == SPLITS.index("score")
        result: NDArray[np.bool_] = store.logits[rows].argmax(1) == store.labels[rows]
    return result
