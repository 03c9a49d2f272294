"""The verb ``compare``: two or more runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.frames import records
from auditor.api.run import Run
from auditor.api.selection import INDEX, signed_metrics
from auditor.api.skips import SKIPPED, read_skipped
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
        One row per run: accuracy and mean index with intervals, and their change from the first run. Where runs have
        layers with signed units, the means of what stands in for the index there, with intervals and null.
    layers : pandas.DataFrame
        One row per run and site.
    confidence : float or mapping of str to float
        Of the intervals, or of those of each run, by its label.
    """

    def __init__(
        self, overall: pd.DataFrame, layers: pd.DataFrame, *, confidence: float | Mapping[str, float] = 0.95
    ) -> None:
        self.overall = overall
        self.layers = layers
        self.confidence = confidence

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
        from auditor.registry import registry
        from auditor.report.comparison import comparison

        known = [name for name in registry().metrics() if f"mean_{name}" in self.layers]
        labels = {name: registry().metric(name).label for name in known if name != INDEX}
        return comparison(self.layers, self.overall, signed=labels, confidence=self.confidence)

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
        If the runs are of other data or splits, or left out different images.
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
    left_out = [{one.id for one in read_skipped(run.path / SKIPPED)} for run in runs]
    for run, ids in zip(runs, left_out, strict=True):
        if ids != left_out[0]:
            raise RunError(
                f"{run.name} and {first.name} left out different images that could not be read, so they cannot be "
                "compared.",
                wanted=f"the {len(left_out[0])} images that {first.name} left out",
                got=f"{len(ids)}; {', '.join(sorted(ids ^ left_out[0])[:5])} in one but not the other",
                fix="Profile both again with the same files.",
            )
    correct = [correct_images(run) for run in runs]
    labels = _labels(runs)
    overall = pd.DataFrame(
        [
            _row(run, label) | _changes(first, run, correct[0], c)
            for run, label, c in zip(runs, labels, correct, strict=True)
        ]
    )
    layers = pd.concat([_layer_rows(run, label) for run, label in zip(runs, labels, strict=True)], ignore_index=True)
    levels = {label: run.confidence for run, label in zip(runs, labels, strict=True)}
    return Comparison(overall, layers, confidence=levels)


def _labels(runs: Sequence[Run]) -> list[str]:
    """What training did to each run, or its name where that does not tell it from another."""
    tuned = [run.manifest.identity.get("finetune") for run in runs]
    labels = ["before" if plan is None else f"alpha {plan['plan']['alpha']:g}" for plan in tuned]
    return [run.name if labels.count(label) > 1 else label for run, label in zip(runs, labels, strict=True)]


def _row(run: Run, label: str) -> dict[str, Any]:
    accuracy, network = run.summary["accuracy"] or {}, run.summary["network"]
    return {
        "run": label,
        "name": run.name,
        "accuracy": accuracy.get("accuracy", np.nan),
        "accuracy_low": accuracy.get("low", np.nan),
        "accuracy_high": accuracy.get("high", np.nan),
        "mean_index": _number(network["mean_index"]),
        "mean_index_low": _number(network["low"]),
        "mean_index_high": _number(network["high"]),
        "null_mean": _number(network["null_mean"]),
        "dead": run.summary["dead"],
        "units": run.summary["units"],
        **{
            (f"mean_{name}" if key == "mean" else f"{name}_{key}"): _number(found[key])
            for name, found in network.get("signed", {}).items()
            if isinstance(found, dict)
            for key in ("mean", "low", "high", "null_mean")
        },
    }


def _number(value: float | None) -> float:
    """Undo JSON's null for what is undefined."""
    return np.nan if value is None else value


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
    before, after = (_number(each.summary["network"]["mean_index"]) for each in (first, run))
    change = after - before
    if np.isnan(change):
        return dict.fromkeys(("index_change", "index_change_low", "index_change_high"), np.nan)
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


def _layer_rows(run: Run, label: str) -> pd.DataFrame:
    layers = run.layers
    return pd.DataFrame(
        {
            "run": label,
            "site": layers["site"],
            "mean_index": layers["mean_index"],
            "low": layers["index_low"],
            "high": layers["index_high"],
            "null_mean": layers["index_null_mean"],
            "dead": layers["dead"],
            "n_units": layers["n_units"],
            **{
                column: layers[column]
                for name in signed_metrics(layers)
                for column in (f"mean_{name}", f"{name}_low", f"{name}_high", f"{name}_null_mean")
            },
        }
    )


def correct_images(run: Run) -> NDArray[np.bool_] | None:
    """Which images of the split that accuracy is of are classified correctly."""
    if run.summary["accuracy"] is None:
        return None
    with run.store() as store:
        rows = store.splits == SPLITS.index(run.summary["accuracy"]["split"])
        result: NDArray[np.bool_] = store.logits[rows].argmax(1) == store.labels[rows]
    return result
