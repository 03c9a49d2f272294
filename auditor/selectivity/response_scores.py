"""Score metrics that see all responses, in blocks of units of bounded memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray
from auditor.selectivity.ranks import Ties
from auditor.selectivity.responses import LabelledResponses, Measured, RankMetric, ResponseMetric
from auditor.selectivity.scores import LayerMean, UnitScores, layer_summary, null_summary, reach_chance
from auditor.stats.moments import check_finite

# Bytes of responses, order and ranks of the units that are sorted at a time.
BLOCK_BYTES = 96 * 2**20
BYTES_PER_RESPONSE = 64
# Units whose ties are gathered before labels are drawn for them: the curves of a draw serve all of them.
GATHERED = 4096
MAX_THREADS = 4


@dataclass
class _Part:
    """What one metric found in one block; arrays of the block's units."""

    measured: Measured
    dead: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    null: FloatArray


@dataclass
class _Run:
    """One metric on its way through the blocks of units."""

    metric: ResponseMetric
    layer: LayerMean
    waiting: list[_Part] = field(default_factory=list)
    columns: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    extras: list[dict[str, FloatArray]] = field(default_factory=list)
    per_class: list[FloatArray] = field(default_factory=list)
    n_shuffles: int = 0


def score_responses(
    data: NDArray[np.floating],
    labels: IntArray,
    *,
    n_classes: int,
    metrics: Sequence[ResponseMetric],
    n_shuffles: int,
    n_boot: int,
    confidence: float,
    seed: int,
) -> list[UnitScores]:
    """Score the units of one site in the order of `metrics`; the images are sorted once for all of them."""
    values = data if data.dtype in (np.float32, np.float64) else data.astype(np.float32)
    n_units = values.shape[1]
    size = int(np.clip(BLOCK_BYTES // (BYTES_PER_RESPONSE * len(labels)), 1, GATHERED))
    runs = [_Run(metric, LayerMean(0)) for metric in metrics]
    ranked = any(isinstance(metric, RankMetric) for metric in metrics)
    ties: list[Ties] = []
    gathered = 0
    for start in range(0, n_units, size):
        block = LabelledResponses(np.ascontiguousarray(values[:, start : start + size]), labels, n_classes)
        check_finite(block.responses.astype(np.float64, copy=False))
        for run in runs:
            _measure(run, block, n_shuffles=n_shuffles, confidence=confidence, seed=seed)
        if ranked:
            ties.append(block.ranks.ties)
        gathered += block.responses.shape[1]
        if gathered >= GATHERED or start + size >= n_units:
            if ranked:
                _draw_ranks(runs, Ties.join(ties), labels, n_classes, n_shuffles=n_shuffles, seed=seed)
            for run in runs:
                for part in run.waiting:
                    _finish(run, part, confidence)
                run.waiting = []
            ties, gathered = [], 0
    return [_result(run, n_boot, confidence) for run in runs]


def _measure(run: _Run, block: LabelledResponses, *, n_shuffles: int, confidence: float, seed: int) -> None:
    measured = run.metric.measure(block, confidence=confidence)
    dead = (block.responses == 0).all(axis=0)
    usable = ~dead & ~np.isnan(measured.value)
    if not run.metric.signed:
        usable &= (block.responses >= 0).all(axis=0)
    null = np.empty((0, len(dead)))
    if n_shuffles and _draws(run.metric, measured) and not isinstance(run.metric, RankMetric):
        null = run.metric.null(block, n=n_shuffles, seed=seed)
        if run.n_shuffles == 0:
            run.n_shuffles, run.layer = len(null), LayerMean(len(null))
        run.layer.add(np.where(usable, null, np.nan))
    run.waiting.append(_Part(measured, dead, usable, null))


def _draws(metric: ResponseMetric, measured: Measured) -> bool:
    return metric.has_null and measured.p is None


def _draw_ranks(
    runs: Sequence[_Run], ties: Ties, labels: IntArray, n_classes: int, *, n_shuffles: int, seed: int
) -> None:
    """Draw the nulls of ranks for all waiting blocks, metrics side by side: NumPy lets go of the interpreter's lock."""

    def draw(run: _Run) -> None:
        if not (n_shuffles and isinstance(run.metric, RankMetric) and _draws(run.metric, run.waiting[0].measured)):
            return
        null = run.metric.rank_null(ties, labels, n_classes, n=n_shuffles, seed=seed)
        run.n_shuffles = len(null)
        ends = np.cumsum([len(part.usable) for part in run.waiting])
        for part, draws in zip(run.waiting, np.split(null, ends[:-1], axis=1), strict=True):
            part.null = draws

    with ThreadPoolExecutor(max_workers=min(len(runs), MAX_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(draw, runs))


def _finish(run: _Run, part: _Part, confidence: float) -> None:
    measured, usable, bounds = part.measured, part.usable, run.metric.bounds
    missing = np.full(len(usable), np.nan)
    value = np.where(usable, measured.value, np.nan)
    found = null_summary(value, part.null)
    if measured.p is not None:
        null_mean = missing if measured.null_mean is None else measured.null_mean
        found |= {"null_mean": null_mean, "excess": value - null_mean, "p": measured.p}
    low = missing if measured.low is None else np.clip(np.minimum(measured.low, value), *bounds)
    high = missing if measured.high is None else np.clip(np.maximum(measured.high, value), *bounds)
    chance = run.metric.chance if measured.chance is None else measured.chance
    low, high = reach_chance(low, high, found["p"], chance, confidence)
    columns = {"value": value, "low": low, "high": high, **found}
    preferred = np.where(part.dead, -1, measured.preferred)
    run.columns.append({**{n: np.where(usable, a, np.nan) for n, a in columns.items()}, "preferred": preferred})
    run.extras.append({n: np.where(usable, a, np.nan) for n, a in measured.extras.items()})
    if measured.per_class is not None:
        run.per_class.append(np.where(usable, measured.per_class, np.nan))


def _result(run: _Run, n_boot: int, confidence: float) -> UnitScores:
    joined: dict[str, Any] = {name: np.concatenate([block[name] for block in run.columns]) for name in run.columns[0]}
    layer = layer_summary(run.metric, joined["value"], run.layer.means, np.empty(0), confidence)
    null_mean = joined["null_mean"]
    if len(run.layer.total) == 0 and not np.isnan(null_mean).all():
        layer["null_mean"] = float(np.nanmean(null_mean))
    return UnitScores(
        **joined,
        layer_mean=layer,
        layer_boot=np.full(n_boot, np.nan),
        extras={name: np.concatenate([block[name] for block in run.extras]) for name in run.extras[0]},
        per_class=np.concatenate(run.per_class, axis=1) if run.per_class else None,
        n_shuffles=run.n_shuffles,
    )
