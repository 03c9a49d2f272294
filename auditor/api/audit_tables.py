"""Write what an audit found."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from auditor.ablation import accuracy_with_interval
from auditor.api.audit_measure import PER_IMAGE
from auditor.api.findings import Findings
from auditor.api.measure_units import table_of_units
from auditor.causal import Outcome, Verdict
from auditor.store.blocks import BlockCache
from auditor.store.files import replacing, write_csv, write_json

VERDICTS, RESULTS = "verdicts.json", "results.json"


def write_audit(folder: Path, findings: Findings, verdicts: Sequence[Verdict]) -> None:
    """Write tables (CSV, and Parquet where pyarrow is installed), verdicts and what they rest on."""
    measured, settings, run = findings.measured, findings.settings, findings.run
    findings.tables["units"] = unit_table(findings, folder)
    for name, table in findings.tables.items():
        write_csv(folder / f"{name}.csv", table)
        if find_spec("pyarrow") is not None:
            with replacing(folder / f"{name}.parquet") as file:
                table.to_parquet(file, index=False)
    accuracy, low, high = accuracy_with_interval(measured.intact == measured.labels, settings.confidence)
    write_json(folder / VERDICTS, [verdict.to_dict() for verdict in verdicts])
    write_json(
        folder / RESULTS,
        {
            "answer": answer(verdicts),
            "accuracy": {"estimate": accuracy, "low": low, "high": high},
            "n_images": len(measured.labels),
            "n_units": len(run.selectivity),
            "engine": {
                "name": measured.engine, "dtype": settings.dtype, "fallbacks": measured.fallbacks,
                "checks": {name: check.to_dict() for name, check in measured.checks.items()},
            },
        },
    )  # fmt: skip


def unit_table(findings: Findings, folder: Path) -> pd.DataFrame:
    """One row per unit: selectivity as in the run's table, and importance by every measure with intervals."""
    measured, run = findings.measured, findings.run
    cache = BlockCache(folder / PER_IMAGE)
    effects = table_of_units(
        cache, cache.keys(), measured.intact.astype(np.int64), measured.labels, findings.preferred,
        n_classes=len(run.classes), confidence=findings.settings.confidence,
    ).sort_index()  # fmt: skip
    worst = effects["worst_class"].to_numpy()
    effects["worst_class"] = [run.classes[code] if code >= 0 else None for code in worst]
    table = run.selectivity.reset_index(drop=True)
    chosen = np.zeros(len(table), dtype=bool)
    chosen[measured.silenced.chosen] = True
    own = pd.DataFrame({"score": measured.score, "chosen": chosen})
    return pd.concat([table, own, effects[[name for name in effects if name not in table]]], axis=1)


def answer(verdicts: Sequence[Verdict]) -> str:
    """One sentence on the question of the audit, from the verdicts on necessity and on correlation."""
    found = {verdict.key: verdict.outcome for verdict in verdicts}
    deciding = [found[key] for key in ("necessity", "correlation") if key in found]
    if not deciding:
        return "The hypotheses that bear on whether selective neurons are important were not tested."
    if all(outcome is Outcome.SUPPORTED for outcome in deciding):
        text = "Yes: in this network, on these data, the neurons that are easy to interpret are causally important"
    elif all(outcome is Outcome.REFUTED for outcome in deciding):
        text = "No: in this network, on these data, the neurons that are easy to interpret matter no more than others"
    elif Outcome.REFUTED in deciding and Outcome.SUPPORTED in deciding:
        text = "In part: as a set and one by one the neurons that are easy to interpret give different answers"
    elif Outcome.REFUTED in deciding:
        text = "Not in every sense that was declared: one of the claims is refuted and the other undecided"
    else:
        text = "Undecided: the data do not settle whether the neurons that are easy to interpret matter more"
    parts = "; ".join(f"{key} {found[key]}" for key in ("necessity", "correlation") if key in found)
    return f"{text} ({parts})."
