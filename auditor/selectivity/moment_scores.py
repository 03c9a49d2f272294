"""Score metrics of class moments: one stream of shuffles and one of resamples serve all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.base import FloatArray, IntArray, Metric
from auditor.selectivity.resample import bootstrap_moments, class_members, observed_moments, shuffled_moments
from auditor.selectivity.scores import LayerMean, UnitScores, layer_summary, null_summary, reach_chance
from auditor.stats.intervals import bootstrap_interval
from auditor.stats.moments import check_finite

UNIT_BLOCK = 1024


def score_moments(
    data: NDArray[np.floating],
    labels: IntArray,
    *,
    n_classes: int,
    metrics: Sequence[Metric],
    n_shuffles: int,
    n_boot: int,
    confidence: float,
    seed: int,
) -> list[UnitScores]:
    """Score the units of one site by metrics that all need variances, or all do not; in the order of `metrics`."""
    runs = [_Run(metric, n_shuffles, n_boot, confidence) for metric in metrics]
    members = class_members(labels, n_classes)
    for start in range(0, data.shape[1], UNIT_BLOCK):
        block = np.asarray(data[:, start : start + UNIT_BLOCK], dtype=np.float64)
        check_finite(block)
        _score_block(runs, block, labels, members, n_shuffles=n_shuffles, n_boot=n_boot, seed=seed)
    return [run.result() for run in runs]


class _Run:
    """One metric on its way through the blocks of units."""

    def __init__(self, metric: Metric, n_shuffles: int, n_boot: int, confidence: float) -> None:
        self.metric, self.confidence = metric, confidence
        self.n_shuffles = n_shuffles if metric.has_null else 0
        self.null_layer, self.boot_layer = LayerMean(self.n_shuffles), LayerMean(n_boot)
        self.blocks: list[dict[str, NDArray[Any]]] = []

    def begin(self, data: FloatArray, mean: FloatArray, variance: FloatArray, count: IntArray) -> NDArray[np.bool_]:
        """Score a block as observed; return which units are defined."""
        value, preferred = self.metric.score(mean, variance, count)
        unusable = (data == 0).all(axis=0)
        preferred = np.where(unusable, -1, preferred)
        if not self.metric.signed:
            unusable = unusable | (data < 0).any(axis=0)
        value = np.where(unusable, np.nan, value)
        self.blocks.append({"value": value, "preferred": preferred})
        self.value, self.preferred = value, preferred
        return ~np.isnan(value)

    def choose(self, units: IntArray) -> None:
        """Say which of the columns of the shuffles and resamples are this metric's, as their indices in the block."""
        mine = ~np.isnan(self.value[units])
        self.columns: IntArray | slice = slice(None) if mine.all() else np.flatnonzero(mine)
        self.units = units[mine]
        self.value, self.preferred = self.value[self.units], self.preferred[self.units]

    def values(self, mean: FloatArray, variance: FloatArray, count: IntArray) -> FloatArray:
        return self.metric.values(self._mine(mean), self._mine(variance), count)

    def values_and_at(self, mean: FloatArray, variance: FloatArray, count: IntArray) -> tuple[FloatArray, FloatArray]:
        return self.metric.values_and_at(self._mine(mean), self._mine(variance), count, self.preferred)

    def _mine(self, moments: FloatArray) -> FloatArray:
        return moments[..., self.columns] if moments.size else moments

    def finish(self, null: FloatArray, free: FloatArray, fixed: FloatArray) -> None:
        """Summarise the draws of a block."""
        if len(null):
            self.null_layer.add(null)
        if len(free):
            self.boot_layer.add(free)
        found = null_summary(self.value, null)
        low, high = self._interval(free, fixed)
        low, high = reach_chance(low, high, found["p"], self.metric.chance, self.confidence)
        block = self.blocks[-1]
        for name, values in {**found, "low": low, "high": high}.items():
            full = np.full(len(block["value"]), np.nan)
            full[self.units] = values
            block[name] = full

    def _interval(self, free: FloatArray, fixed: FloatArray) -> tuple[FloatArray, FloatArray]:
        if free.size == 0:
            return np.full(len(self.value), np.nan), np.full(len(self.value), np.nan)
        if self.metric.has_fixed_class:
            ends = bootstrap_interval(fixed, self.value, self.confidence, method="percentile")
        else:
            ends = bootstrap_interval(free, self.value, self.confidence, method="bc")
        # A skewed bootstrap can miss the value it started from; an error bar must not.
        low, high = np.fmin(ends.low, self.value), np.fmax(ends.high, self.value)
        return np.clip(low, *self.metric.bounds), np.clip(high, *self.metric.bounds)

    def result(self) -> UnitScores:
        joined: dict[str, Any] = {
            name: np.concatenate([block[name] for block in self.blocks]) for name in self.blocks[0]
        }
        means = self.null_layer.means, self.boot_layer.means
        return UnitScores(
            **joined,
            layer_mean=layer_summary(self.metric, joined["value"], *means, self.confidence),
            layer_boot=self.boot_layer.replicates,
            n_shuffles=self.n_shuffles,
        )


def _score_block(
    runs: list[_Run],
    data: FloatArray,
    labels: IntArray,
    members: list[IntArray],
    *,
    n_shuffles: int,
    n_boot: int,
    seed: int,
) -> None:
    count = np.array([len(rows) for rows in members])
    observed = observed_moments(data, members)
    units = np.flatnonzero(np.any([run.begin(data, *observed, count) for run in runs], axis=0))
    for run in runs:
        run.choose(units)
    columns = data[:, units]
    needs = runs[0].metric.needs_variance
    shapes = [(n_shuffles if run.metric.has_null else 0, len(run.units)) for run in runs]
    nulls = [np.empty(shape) for shape in shapes]
    free, fixed = ([np.empty((n_boot, len(run.units))) for run in runs] for _ in range(2))
    done = 0
    if len(units) and any(len(null) for null in nulls):
        for mean, variance in shuffled_moments(
            columns, labels, len(members), n=n_shuffles, variance=needs, seed=seed, single=True
        ):
            rows = slice(done, done + len(mean))
            for run, null in zip(runs, nulls, strict=True):
                if len(null):
                    null[rows] = run.values(mean, variance, count)
            done += len(mean)
    done = 0
    if len(units) and n_boot:
        for mean, variance in bootstrap_moments(columns, members, n=n_boot, variance=needs, seed=seed, single=True):
            rows = slice(done, done + len(mean))
            for run, anew, held in zip(runs, free, fixed, strict=True):
                if run.metric.has_fixed_class:
                    anew[rows], held[rows] = run.values_and_at(mean, variance, count)
                else:
                    anew[rows] = run.values(mean, variance, count)
            done += len(mean)
    for run, null, anew, held in zip(runs, nulls, free, fixed, strict=True):
        run.finish(null, anew, held)
