"""Silence sets of units together: the selected set, its controls, and the points of the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.ablation import Curve, PairEffects, curve_counts, curve_orders, pair_effects, set_logits
from auditor.api.ablation_settings import AblationSettings
from auditor.api.bench import Bench
from auditor.api.pieces import Arrays, joined_pieces, measure_pieces
from auditor.api.score_images import Part
from auditor.causal import MatchedSets, matched_sets
from auditor.distributed import current
from auditor.distributed.reporters import together
from auditor.progress import Reporter
from auditor.store.blocks import BlockCache

EVEN_POINTS = 4
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Everything that is silenced, decided before the first image is scored.

    Attributes
    ----------
    chosen : pandas.DataFrame
        Rows of the unit table: the most selective units.
    sets : MatchedSets
    curves : list of Curve
    counts : list of int
        Numbers of silenced, or kept, units at which a curve is evaluated.
    """

    chosen: pd.DataFrame
    sets: MatchedSets
    curves: list[Curve]
    counts: list[int]

    @classmethod
    def make(
        cls,
        units: pd.DataFrame,
        chosen: pd.DataFrame,
        score: NDArray[np.float64],
        settings: AblationSettings,
        *,
        importance: NDArray[np.float64] | None = None,
    ) -> Plan:
        """Draw the controls and the orders: by `score`, and by `importance` if it is known for all units."""
        codes = pd.factorize(units["site"])[0].astype(np.int64)
        alive = (~units["dead"] & units["mean"].notna()).to_numpy()
        sets = matched_sets(
            chosen.index.to_numpy(), codes, units["mean"].fillna(0.0).to_numpy(), alive,
            n_sets=settings.random_sets, seed=settings.seed,
        )  # fmt: skip
        within = settings.curve_over == "layers"
        curves: list[Curve] = []
        for kind in ("silence", "keep") if settings.keep_only else ("silence",):
            curves += curve_orders(
                score, codes, n_random=settings.random_orders, within_layers=within, seed=settings.seed, kind=kind
            )
            if importance is not None:
                curves += curve_orders(
                    importance, codes, n_random=0, within_layers=within, seed=settings.seed,
                    label="most important first", kind=kind,
                )  # fmt: skip
        return cls(chosen, sets, curves, curve_counts(len(units), settings.curve_points, even=EVEN_POINTS))

    @property
    def points(self) -> list[tuple[Curve, int]]:
        """Every curve at every count; where all units are kept nothing happens."""
        n = max(self.counts)
        return [(c, count) for c in self.curves for count in self.counts if c.kind == "silence" or count < n]

    @property
    def groups(self) -> list[Rows]:
        """Intact network, selected set, random sets, then every point of every curve."""
        return [
            np.empty(0, dtype=np.int64),
            self.chosen.index.to_numpy().astype(np.int64),
            *self.sets.sets,
            *(curve.silenced(count) for curve, count in self.points),
        ]


@dataclass(frozen=True)
class Joint:
    """Effects of every group of a plan on every image.

    Attributes
    ----------
    effects : PairEffects
        Shape (groups, N); the first group is the intact network.
    loss : ndarray of float64, shape (N,)
        Cross-entropy of the intact network, in nats.
    """

    effects: PairEffects
    loss: NDArray[np.float64]


def measure_joint(bench: Bench, plan: Plan | None, batch_size: int, cache: BlockCache, reporter: Reporter) -> Joint:
    """Ablate every group of a plan on every image; the plan is the main rank's, others pass None."""
    return measure_groups(bench, _shared_groups(plan, cache), batch_size, cache, reporter)


def measure_groups(
    bench: Bench, groups: Sequence[Rows], batch_size: int, cache: BlockCache, reporter: Reporter
) -> Joint:
    """Ablate groups of units on every image; each batch of images is one block that is kept.

    Parameters
    ----------
    bench : Bench
    groups : sequence of ndarray of int64
        Rows of the unit table; the first is empty: the intact network.
    batch_size : int
    cache : BlockCache
    reporter : Reporter
    """
    jobs = [bench.jobs(rows) for rows in groups]
    total = len(groups) * len(bench.images)
    with together(reporter, "Ablating together", total, "ablated images") as task:

        def measure(part: Part) -> Arrays:
            effects: list[Arrays] = []
            donors = None if part.donors is None else bench.engine.prepare(part.donors)
            images = bench.engine.prepare(part.images)
            logits = set_logits(bench.engine, images, jobs, bench.edit, donors=donors, noise=bench.noise(part))
            intact = next(logits)
            # The effect of doing nothing, for the intact network's own predictions.
            effects.append({k: v.cpu().numpy() for k, v in pair_effects(intact, intact, part.labels).items()})
            task.advance(len(part.rows))
            for found in logits:
                effects.append({k: v.cpu().numpy() for k, v in pair_effects(intact, found, part.labels).items()})
                task.advance(len(part.rows))
            own = -intact.double().log_softmax(1).gather(1, part.labels[:, None])[:, 0]
            block = {name: np.stack([effect[name] for effect in effects]) for name in effects[0]}
            return {**block, "loss": own.cpu().numpy()}

        keys = measure_pieces(bench.images, batch_size, cache, "joint", measure, task, steps=len(groups))
    whole = joined_pieces(cache, keys)
    return Joint(PairEffects.from_arrays(whole), whole["loss"])


def _shared_groups(plan: Plan | None, cache: BlockCache) -> list[Rows]:
    """Groups of the main rank's plan: through a file, since they may hold every unit many times."""
    world, key = current(), "groups"
    if plan is not None:
        groups = plan.groups
        if world.several:
            cache.put(key, {"rows": np.concatenate(groups), "ends": np.cumsum([len(rows) for rows in groups])})
    world.barrier(key)
    if plan is not None:
        return groups
    stored = cache.require(key)
    return np.split(stored["rows"], stored["ends"][:-1])
