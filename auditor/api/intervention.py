"""Networks that were fine-tuned with several alpha: what changing selectivity does to accuracy."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from auditor.api.compare import compare, correct_images
from auditor.api.findings import Part, shown
from auditor.api.run import Run
from auditor.api.sweep_board import NETWORKS
from auditor.api.workspace import read_manifest, run_folders
from auditor.causal import Outcome, PairedTest, Verdict, combine, harm, non_inferiority, reversal
from auditor.errors import AuditorError
from auditor.stats.intervals import Interval


@dataclass(frozen=True)
class Arm:
    """Runs of one alpha, by seed.

    Attributes
    ----------
    alpha : float
    runs : dict of int to Run
    """

    alpha: float
    runs: dict[int, Run]


def find_arms(run: Run) -> list[Arm]:
    """Finished networks that were fine-tuned from `run` by one plan and differ in alpha and seed, by alpha.

    They lie beside the run or in the sweeps beside it. Of several plans the one with most networks is taken; without a
    network of alpha 0 there are none.
    """
    plans: dict[str, dict[float, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    beside = run_folders(run.path.parent)
    for folder in [*beside, *(network for one in beside for network in run_folders(one / NETWORKS))]:
        try:
            manifest = read_manifest(folder)
        except AuditorError:  # not ours to judge here: `auditor runs` shows it
            continue
        tuned = manifest.identity.get("finetune")
        if not manifest.complete or not isinstance(tuned, dict) or tuned.get("parent") != run.manifest.digest():
            continue
        plan = dict(tuned["plan"])
        alpha, seed = float(plan.pop("alpha")), int(plan.pop("seed"))
        key = json.dumps([plan, {name: value for name, value in tuned.items() if name != "plan"}], sort_keys=True)
        plans[key][alpha].setdefault(seed, Run(folder, manifest=manifest))
    # A network that has no control of its own seed cannot be compared.
    paired = [
        {alpha: runs for alpha, runs in arms.items() if set(runs) & set(arms[0.0])}
        for arms in plans.values()
        if 0.0 in arms
    ]
    complete = [arms for arms in paired if len(arms) > 1]
    if not complete:
        return []
    best = max(complete, key=lambda arms: sum(map(len, arms.values())))
    return [Arm(alpha, best[alpha]) for alpha in sorted(best)]


def intervention(arms: Sequence[Arm], *, margin: float, alpha: float) -> tuple[Verdict, pd.DataFrame]:
    """Test that less selectivity costs nothing and more of it harms.

    Networks are paired with the control (alpha 0) of the same seed. With one seed the images are the sample, and the
    verdict holds for this pair of networks.
    """
    confidence = 1 - alpha
    control = next(arm for arm in arms if arm.alpha == 0)
    rows: list[dict[str, Any]] = []
    found: dict[str, list[tuple[Arm, PairedTest]]] = {"lower": [], "higher": []}
    for arm in arms:
        seeds = sorted(set(arm.runs) & set(control.runs))
        if arm.alpha == 0 or not seeds:
            continue
        test = harm if arm.alpha > 0 else non_inferiority
        images = None
        if len(seeds) == 1:
            images = correct_images(arm.runs[seeds[0]]), correct_images(control.runs[seeds[0]])
        accuracy = [[_accuracy(each.runs[seed]) for seed in seeds] for each in (arm, control)]
        result = test(*accuracy, margin=margin if arm.alpha < 0 else 0.0, confidence=confidence, alpha=alpha,
                      images=images)  # type: ignore[arg-type]  # fmt: skip
        changes = [compare(control.runs[seed], arm.runs[seed]).overall.iloc[1] for seed in seeds]
        index = [float(change["index_change"]) for change in changes]
        # One seed: the interval of the run; several: whether they agree is seen in the spread.
        low, high = (
            (float(changes[0]["index_change_low"]), float(changes[0]["index_change_high"]))
            if len(seeds) == 1
            else (min(index), max(index))
        )
        moved = high < 0 if arm.alpha < 0 else low > 0
        rows.append(
            {
                "alpha": arm.alpha, "n_seeds": len(seeds), "over": result.over,
                "accuracy_difference": result.difference, "low": result.low, "high": result.high, "p": result.p,
                "outcome": str(result.outcome), "index_change": float(np.mean(index)), "index_low": low,
                "index_high": high, "moved": moved,
            }
        )  # fmt: skip
        if moved:
            found["lower" if arm.alpha < 0 else "higher"].append((arm, result))
    table = pd.DataFrame(rows)
    return _verdict(found, table, margin, alpha), table


def _verdict(
    found: dict[str, list[tuple[Arm, PairedTest]]], table: pd.DataFrame, margin: float, alpha: float
) -> Verdict:
    parts, sentences = [], []
    for name, words in (("lower", "lowering selectivity"), ("higher", "raising selectivity")):
        if not found[name]:
            sentences.append(f"No network shows what {words} does")
            continue
        arm, test = max(found[name], key=lambda pair: abs(pair[0].alpha))
        interval = Interval(*(100 * np.asarray(v) for v in (test.difference, test.low, test.high)))
        sentences.append(f"{words} (alpha {arm.alpha:g}) changed accuracy by {shown(interval, '+.2f')} points")
        signed = interval if name == "lower" else Interval(-interval.estimate, -interval.high, -interval.low)
        limit = -100 * margin if name == "lower" else 0.0
        outcome = test.outcome
        parts.append(Part(outcome, signed, limit, "a change of accuracy" if name == "lower" else "a loss", p=test.p))
    missing = len(parts) < 2
    outcome = Outcome.INCONCLUSIVE if not parts else combine(part.outcome for part in parts)
    if missing and outcome is Outcome.SUPPORTED:
        outcome = Outcome.INCONCLUSIVE
    first = next((part for part in parts if part.outcome is outcome), parts[0] if parts else None)
    nan = float("nan")
    estimate, low, high = (nan, nan, nan) if first is None else (float(value) for value in first.interval)
    limits = ["Accuracy is that on the score split, selectivity that on the select split."]
    if len(table) and (table["over"] == "images").any():
        limits.append("One seed: the interval is over images and holds for these networks, not for others so trained.")
    if missing:
        limits.append("Networks whose selectivity was really lowered and really raised are needed for both halves.")
    text = "; ".join(sentences)
    return Verdict(
        key="intervention", title="Intervention in training",
        claim=f"Networks trained to be less selective lose at most {100 * margin:g} points of accuracy, and networks "
        "trained to be more selective lose some.",
        outcome=outcome, sentence=f"{text[0].upper()}{text[1:]} against alpha 0.", effect=estimate, low=low, high=high,
        unit="points of accuracy", margin=0.0 if first is None else first.margin, p=None if first is None else first.p,
        alpha=alpha, n=f"{len(table)} pairs of alpha with alpha 0, {int(table['n_seeds'].sum()) if len(table) else 0} "
        "pairs of networks",
        reversed_by="A network of each kind would have to exist." if first is None else reversal(
            first.outcome, estimate, low, high, margin=first.margin, unit="points of accuracy", p=first.p, alpha=alpha,
            what=first.what,
        ),
        limits=tuple(limits),
        needed="More seeds: five or more pairs of networks." if outcome is Outcome.INCONCLUSIVE else None,
        details={"arms": table.to_dict("records")},
    )  # fmt: skip


def _accuracy(run: Run) -> float:
    return float(run.summary["accuracy"]["accuracy"])
