"""Everything that an audit ablates: every unit alone, and the nested sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.ablation import ExactEngine, PairEffects
from auditor.ablation.readers import output_norms
from auditor.api.ablation_settings import AblationSettings
from auditor.api.audit_plan import NestedSets, nested_sets
from auditor.api.audit_settings import AuditSettings
from auditor.api.bench import Bench
from auditor.api.engines import Agreement
from auditor.api.forward import Execution
from auditor.api.joint import Joint, measure_groups
from auditor.api.measure_units import measure_units
from auditor.api.run import Run
from auditor.api.selection import INDEX, curve_score, resolve, scored_by
from auditor.data import LabelledData
from auditor.errors import ModelError, unknown_name
from auditor.models.trace import evaluating
from auditor.progress import Reporter
from auditor.store.blocks import BlockCache

PER_IMAGE, BLOCKS, KEPT_BLOCKS = "per_image", "blocks", "kept_blocks"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What the ablations of an audit did.

    Attributes
    ----------
    labels : ndarray of int64, shape (N,)
        Classes of the images of the score split.
    intact : ndarray of int32, shape (N,)
        Predictions of the intact network.
    units : PairEffects, shape (U, N)
        Every unit alone, in the order of the run's unit table.
    score : ndarray of float64, shape (U,)
        Selectivity that orders the units, larger first; NaN where undefined.
    covariates : pandas.DataFrame
        What the random sets are matched on, and what is held fixed in partial correlations.
    silenced : NestedSets
    silenced_effects : PairEffects, shape (G, N)
        Of ``silenced.groups()``.
    kept : NestedSets or None
    kept_effects : PairEffects or None
    checks : dict of str to Agreement
        The engine against others.
    engine : str
    fallbacks : dict of str to str
    """

    labels: NDArray[np.int64]
    intact: NDArray[np.int32]
    units: PairEffects
    score: Floats
    covariates: pd.DataFrame
    silenced: NestedSets
    silenced_effects: PairEffects
    kept: NestedSets | None
    kept_effects: PairEffects | None
    checks: dict[str, Agreement]
    engine: str
    fallbacks: dict[str, str]

    def set_effects(self, sets: NestedSets, effects: PairEffects, measure: str) -> tuple[Floats, ...]:
        """Effects of nested sets as chosen (P, N), least (P, N) and random (D, P, N): loss, or lost accuracy."""
        if measure == "loss":
            return sets.split(effects.loss_change.astype(np.float64))
        right = (self.intact == self.labels).astype(np.float64)
        return sets.split(right - (effects.prediction == self.labels))


def ablation_settings(settings: AuditSettings, run: Run) -> AblationSettings:
    """Settings of the ablations of an audit; the default ranking is resolved for the run.

    Raises
    ------
    UnknownNameError
        If the run has no such ranking.
    """
    wanted = AblationSettings(
        top_selective=1, by=settings.by, random_sets=settings.draws, curve_over=settings.select_over, q=settings.q,
        confidence=settings.confidence, seed=settings.seed, limit=settings.limit, all_units=True, edit=settings.edit,
        engine=settings.engine, dtype=settings.dtype, memory=settings.memory, check=settings.check,
    )  # fmt: skip
    found = resolve(wanted, run.layers)[0]
    rankings = [str(name) for name in run.selectivity if f"{str(name).removesuffix('_excess')}_q" in run.selectivity]
    if found.column not in rankings:
        raise unknown_name(
            "ranking", settings.by, ["excess", *rankings], fix="Rank by a metric of the run; `--metric NAME` adds one."
        )
    return found


def measure(
    run: Run, data: LabelledData, settings: AuditSettings, execution: Execution, folder: Path, reporter: Reporter
) -> Measured:
    """Ablate; what was finished before is read again.

    Parameters
    ----------
    run : Run
    data : LabelledData
    settings : AuditSettings
    execution : Execution
    folder : Path
        Keeps the effects.
    reporter : Reporter
    """
    single = ablation_settings(settings, run)
    units = run.selectivity
    bench = Bench.build(run, data, single, execution)
    with evaluating(bench.module):
        covariates = _covariates(bench, settings)
        score = curve_score(units, run.layers, single)
        candidates = np.where(_significant(units, run.layers, single), score, np.nan)
        matched_on = covariates[list(settings.match)].to_numpy()
        wants = set(settings.hypotheses)
        silenced = nested_sets(units, candidates, score, matched_on, settings)
        kept = nested_sets(units, score, score, matched_on, settings, kept=True) if "sufficiency" in wants else None
        every = np.arange(len(units), dtype=np.int64)
        checks = bench.check(every, settings.check)
        cache = BlockCache(folder / PER_IMAGE)
        keys = measure_units(bench, every, cache, reporter)
        alone = _in_order(cache, keys)
        sets = _joint(bench, silenced if "necessity" in wants else None, execution, folder / BLOCKS, reporter)
        keeping = None if kept is None else _joint(bench, kept, execution, folder / KEPT_BLOCKS, reporter)
    return Measured(
        labels=bench.images.labels,
        intact=sets.effects.prediction[0],
        units=alone,
        score=score,
        covariates=covariates,
        silenced=silenced,
        silenced_effects=_without_intact(sets),
        kept=kept,
        kept_effects=None if keeping is None else _without_intact(keeping),
        checks=checks,
        engine=bench.engine.name,
        fallbacks=dict(bench.engine.fallbacks),
    )


def _joint(bench: Bench, sets: NestedSets | None, execution: Execution, folder: Path, reporter: Reporter) -> Joint:
    """Effects of the intact network and of every set."""
    groups = [np.empty(0, dtype=np.int64), *(() if sets is None else sets.groups())]
    return measure_groups(bench, groups, execution.batch_size, BlockCache(folder), reporter)


def _without_intact(joint: Joint) -> PairEffects:
    return PairEffects.from_arrays({name: values[1:] for name, values in joint.effects.to_arrays().items()})


def _in_order(cache: BlockCache, keys: list[str]) -> PairEffects:
    blocks = [block for key in keys if (block := cache.get(key)) is not None]
    order = np.argsort(np.concatenate([block["row"] for block in blocks]))
    joined = PairEffects.concatenate([PairEffects.from_arrays(block) for block in blocks], axis=0)
    return PairEffects.from_arrays({name: values[order] for name, values in joined.to_arrays().items()})


def _significant(units: pd.DataFrame, layers: pd.DataFrame, settings: AblationSettings) -> NDArray[np.bool_]:
    """Units that can be told from shuffled labels, each by the metric that its layer is judged by."""
    if settings.metric != INDEX or "scored_by" not in layers:
        return (units[f"{settings.metric}_q"] <= settings.q).to_numpy()
    found = np.zeros(len(units), dtype=bool)
    for metric in set(scored_by(layers).values()):
        mine = (units["site"].map(scored_by(layers)) == metric).to_numpy()
        found |= mine & (units[f"{metric}_q"] <= settings.q).to_numpy()
    return found


def _covariates(bench: Bench, settings: AuditSettings) -> pd.DataFrame:
    """What may confound selectivity and importance, per unit.

    Raises
    ------
    ModelError
        If the weights that read a layer are asked for and nothing reads its units directly.
    """
    units = bench.units
    found = units[["mean", "firing_rate"]].copy()
    if "output_norm" in settings.match:
        model = bench.engine.model if isinstance(bench.engine, ExactEngine) else bench.module
        norms = output_norms(model, list(bench.sites.values()), bench.engine.prepare(bench.images.first(2)))
        missing = [name for name, values in norms.items() if values is None]
        if missing:
            raise ModelError(
                f"The units of {missing[0]} are mixed before any layer reads them, so they have no output weights.",
                wanted="convolutions or linear layers that read the units themselves",
                fix="Match on mean and firing_rate, or choose other --layers.",
            )
        by_site = {name: values.cpu().numpy() for name, values in norms.items() if values is not None}
        found["output_norm"] = [by_site[site][unit] for site, unit in zip(units["site"], units["unit"], strict=True)]
    return found
