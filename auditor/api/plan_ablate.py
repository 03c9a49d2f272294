"""What an ablation will take, from some units and sets that are really silenced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from auditor.ablation.sets import LEAST_GROUPS
from auditor.api.ablation_settings import AblationSettings
from auditor.api.bench import CHECK_IMAGES, KEPT_SHARE, Bench
from auditor.api.estimate_units import estimate_units
from auditor.api.forward import Execution
from auditor.api.joint import Plan, measure_groups
from auditor.api.measure_units import BLOCK, measure_block
from auditor.api.plan_clock import LEAST, NO_TIME, Part, Stopwatch, Timed, batch_of, seconds
from auditor.api.plan_counts import Counts
from auditor.api.run import Run
from auditor.api.score_images import ScoreImages
from auditor.api.selection import check_enough, curve_score, resolve, select_units
from auditor.data import LabelledData
from auditor.models.trace import evaluating
from auditor.store.blocks import BlockCache

PAIR_BYTES = 16
"""Of the effects of one unit on one image that are kept."""
_MOST_SITES, _ROUNDS = 10, 3
_SETS, _POINTS = 5, 8
_FIGURES = 0.6
"""Tables and figures of an ablation, as a share of everything but images and scores of a profile."""
_CHECKED = 3
"""Passes of the network that comparing one unit with Captum takes, for each image."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """What is silenced, and its sizes.

    Attributes
    ----------
    alone : dict of str to float
        Units that are measured alone, by site.
    n_blocks : int
        Blocks in which they are measured.
    n_groups : int
        Sets and points of curves, the intact network among them.
    set_operations, point_operations : int
        Of all sets and of all points, for one image.
    n_shared : int
        Intact passes that sets on the same sites share, and their checks, in each batch.
    """

    alone: dict[str, float]
    n_blocks: int
    n_groups: int
    set_operations: int
    point_operations: int
    n_shared: int


@dataclass(frozen=True)
class AblationCost:
    """Measured on this machine.

    Attributes
    ----------
    build : Timed
        Engine, its plans for all sites asked for, and the check against Captum.
    pair : dict of str to Timed
        One unit of a site on one image, by site.
    intact : Timed
        The engine's own pass over one image.
    sets, points : Timed
        One operation of sets and of points of curves.
    shared : Timed
        Of one image: one intact pass that sets share, with its check.
    estimate : Timed
        First-order estimates on one image.
    fixed : Timed
        Tables and figures.
    """

    build: Timed
    pair: dict[str, Timed]
    intact: Timed
    sets: Timed
    points: Timed
    shared: Timed
    estimate: Timed
    fixed: Timed


def choose(run: Run, settings: AblationSettings, *, exact: bool) -> tuple[pd.DataFrame, AblationSettings]:
    """Most selective units of a run; with `exact` those that ``auditor ablate`` takes, and its errors.

    Raises
    ------
    OptionError
        If there are fewer units.
    """
    units = run.selectivity
    settings, left_out = resolve(settings, run.layers)
    if exact:
        return select_units(units, settings, left_out=left_out), settings
    k = settings.top_selective
    check_enough(units, k)
    # Without significance, which so few shuffles cannot tell; units without a score come last.
    score = units[settings.column].where(~units["site"].isin(left_out) & ~units["dead"])
    return units.loc[score.sort_values(ascending=False, kind="stable").index[:k]], settings


def sizes(counts: Counts, bench: Bench, plan: Plan, rows: Rows, n_alone: int | None) -> Chosen:
    """Count what a plan silences; `n_alone` units, in proportion, instead of those at `rows`."""
    names = bench.units["site"].astype(str).to_numpy()
    share = 1.0 if n_alone is None else n_alone / len(rows)
    alone = {str(site): n * share for site, n in pd.Series(names[rows]).value_counts(sort=False).items()}
    keys = [tuple(sorted(set(names[group].tolist()))) for group in plan.groups]
    times = pd.Series(keys).value_counts().to_dict()
    work = [counts.after(key) if key and times[key] >= LEAST_GROUPS else counts.forward for key in keys]
    n_sets = 2 + len(plan.sets.sets)
    total = len(rows) if n_alone is None else n_alone
    return Chosen(
        alone, -(-total // BLOCK), len(keys), sum(work[:n_sets]), sum(work[n_sets:]),
        sum(key != () and n >= LEAST_GROUPS for key, n in times.items()),
    )  # fmt: skip


def measure_ablation(
    run: Run, data: LabelledData, counts: Counts, settings: AblationSettings, execution: Execution, *,
    exact: bool, n_alone: int | None, fixed: Timed, budget: float, folder: Path,
) -> tuple[Chosen, AblationCost]:  # fmt: skip
    """Silence some units at several depths, and some of the sets, on a few images.

    Parameters
    ----------
    run : Run
        Whose units are ranked.
    data : LabelledData
        A few of its images.
    counts : Counts
    settings : AblationSettings
    execution : Execution
    exact : bool
        Choose units as ``auditor ablate`` does; else by their score alone.
    n_alone : int, optional
        As many units alone instead.
    fixed : Timed
        Of the profile.
    budget : float
        Seconds, about.
    folder : Path
    """
    chosen, settings = choose(run, settings, exact=exact)
    bench, built = _build(run, data, settings, execution)
    with evaluating(bench.module), torch.no_grad():
        score = curve_score(bench.units, run.layers, settings)
        importance = score if settings.all_units else None  # any order: only how many units is what counts
        plan = Plan.make(bench.units, chosen, score, settings, importance=importance)
        rows = np.arange(len(bench.units)) if settings.all_units else chosen.index.to_numpy().astype(np.int64)
        intact = _intact(bench, counts.forward, budget=budget / 10)
        found = sizes(counts, bench, plan, rows, n_alone)
        plans, pair = _pairs(bench, counts, found, rows, intact, budget=budget / 2)
        sets, points, shared = _sets(bench, data, counts, plan, execution, intact, budget / 2, folder)
    check = intact.times(_CHECKED * settings.check * CHECK_IMAGES)
    estimate = _estimate(bench, folder) if settings.all_units else NO_TIME
    build = Timed.of([built]).plus(plans, check)
    return found, AblationCost(build, pair, intact, sets, points, shared, estimate, fixed.times(_FIGURES))


def _build(run: Run, data: LabelledData, settings: AblationSettings, execution: Execution) -> tuple[Bench, float]:
    made: list[Bench] = []
    taken = seconds(lambda: made.append(Bench.build(run, data, settings, execution)))
    return made[0], taken


def _intact(bench: Bench, operations: int, *, budget: float) -> Timed:
    """Seconds of one image through the engine's model, in a batch as large as the time allows."""
    n, rates = 2, [float("inf")]
    while n <= 64:
        images = bench.engine.prepare(bench.images.first(n))
        rates = [seconds(lambda given=images: bench.engine.model(given)) / len(images) for _ in range(3)]  # type: ignore[misc]
        if (4 * min(rates) * n > budget and n * operations >= LEAST) or len(images) < n:
            break
        n *= 4
    return Timed.of(rates)


def _pairs(
    bench: Bench, counts: Counts, found: Chosen, rows: Rows, intact: Timed, *, budget: float
) -> tuple[Timed, dict[str, Timed]]:
    """Seconds to make all sites' plans, and of one pair at each site: measured at some, between them by operations."""
    names = bench.units["site"].astype(str).to_numpy()[rows]
    after = {site: counts.after([site]) for site in found.alone}
    order = sorted(found.alone, key=after.__getitem__)
    most = int(np.clip(budget / (30 * intact.seconds + 1e-9), 2, _MOST_SITES))
    picked = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, most).round().astype(int))]
    rng = np.random.default_rng(0)
    every = rng.permutation(len(bench.images))
    making: list[float] = []
    measured: dict[str, Timed] = {}
    for site in picked:
        making.append(seconds(lambda site=site: bench.engine.images_per_batch([bench.sites[site]], BLOCK)))  # type: ignore[misc]
        units = np.sort(rng.permutation(rows[names == site])[:BLOCK])

        def block(n: int, units: Rows = units) -> float:
            return seconds(lambda: measure_block(bench, units, np.sort(every[:n])))

        work = max(after[site], counts.forward // 50) * len(units)
        least = batch_of(0.0, 1.0, work, least=4, most=len(every))
        measured[site] = _slope(block, least, len(every), intact, len(units), budget=budget / len(picked))
    at = [after[site] for site in picked]
    pair = {
        site: Timed(*(float(np.interp(after[site], at, [measured[p][i] for p in picked])) for i in range(3)))
        for site in order
    }
    return Timed.of(making).times(len(order)), pair


def _slope(block: Callable[[int], float], n: int, most: int, intact: Timed, n_units: int, *, budget: float) -> Timed:
    """Seconds of one pair: what more images take, so that what a block takes whatever its images is left out."""
    block(1)
    first, n = block(1), min(n, most)
    while (taken := block(n)) < budget / _ROUNDS and n < most:
        n = min(most, 4 * n)
    each = [taken] + ([block(n) for _ in range(_ROUNDS - 1)] if taken < budget else [])
    more = [(one - first) / max(1, n - 1) if n > 1 else one for one in each]
    # Each image also goes through the intact network once; no pair is free.
    return Timed.of([max(one - intact.seconds, 0.02 * one, 0.0) / n_units for one in more])


def _sets(
    bench: Bench, data: LabelledData, counts: Counts, plan: Plan, execution: Execution, intact: Timed,
    budget: float, folder: Path,
) -> tuple[Timed, Timed, Timed]:  # fmt: skip
    """Seconds of one operation of sets and of points, and of what sets on the same sites share, for one image."""
    n_sets = 2 + len(plan.sets.sets)
    places = np.unique(np.linspace(n_sets, len(plan.groups) - 1, _POINTS).round().astype(int))
    groups = [*plan.groups[: 2 + _SETS], *(plan.groups[i] for i in places)]
    n = batch_of(budget, len(groups) * intact.seconds, counts.forward, least=2, most=execution.batch_size)
    few = data.limited(n)
    images = ScoreImages(few, run_transform(bench), execution, memory=bench.memory // KEPT_SHARE)
    clock = Stopwatch()
    n = len(few.splits["score"])
    measure_groups(replace(bench, images=images), groups, n, BlockCache(folder / "joint"), clock)
    rates = clock.span("Ablating together").rates()
    names = bench.units["site"].astype(str).to_numpy()
    keys = [tuple(sorted(set(names[group].tolist()))) for group in groups]
    work = [counts.after(key) if keys.count(key) >= LEAST_GROUPS and key else counts.forward for key in keys]
    # The first of those that share an intact pass makes it; that is counted apart.
    once = {keys.index(key) for key in keys if keys.count(key) >= LEAST_GROUPS}
    each = {i: rates[i] / max(1, work[i]) for i in range(1, len(keys)) if i not in once}
    sets = Timed.of([value for i, value in each.items() if i < 2 + _SETS])
    points = Timed.of([value for i, value in each.items() if i >= 2 + _SETS])
    shared = max(0.0, rates[1] - sets.seconds * work[1])
    return sets, points, Timed(shared, shared, shared)


def run_transform(bench: Bench):  # type: ignore[no-untyped-def]
    """How the bench's run prepares an image."""
    return bench.run.model(Execution(device=str(bench.device))).preprocessing.build()


def _estimate(bench: Bench, folder: Path) -> Timed:
    clock = Stopwatch()
    estimate_units(bench, BlockCache(folder / "estimates"), clock)
    return Timed.of(clock.span("Estimating").rates())


def ablation_parts(
    counts: Counts, found: Chosen, cost: AblationCost, n: int, *, start: Timed, read: Timed, batch_size: int,
    memory: int,
) -> list[Part]:  # fmt: skip
    """What the engine, single units, sets and tables take on `n` images of the score split."""
    job = "ablate"
    alone = NO_TIME
    for site, units in found.alone.items():
        alone = alone.plus(cost.pair[site].times(n * units))
    alone = alone.plus(cost.intact.times(n * found.n_blocks))
    pairs = sum(round(units) * counts.after([site]) for site, units in found.alone.items())
    n_units = round(sum(found.alone.values()))
    batches = -(-n // batch_size)
    together = (
        cost.sets.times(n * found.set_operations)
        .plus(cost.points.times(n * found.point_operations))
        .plus(cost.shared.times(min(n, batches * batch_size) * found.n_shared))
    )
    held = min(n * counts.image, memory // KEPT_SHARE)
    parts = [
        Part(job, "start, data and model", "-", start.plus(read.times(n)), memory=2 * counts.weights + held),
        Part(job, "engine, its plans and checks", "layers", cost.build),
        Part(
            job, f"{n_units:,} units alone", "units x images", alone, n * (pairs + counts.forward * found.n_blocks),
            PAIR_BYTES * n * n_units, memory, parallel=True,
        ),
        Part(
            job, f"{found.n_groups:,} sets together", "sets x images", together,
            n * (found.set_operations + found.point_operations), memory=PAIR_BYTES * n * found.n_groups,
            parallel=True,
        ),
        Part(job, "tables and figures", "units", cost.fixed),
    ]  # fmt: skip
    if cost.estimate != NO_TIME:
        parts.insert(
            2,
            Part(
                job, "first-order estimates", "images", cost.estimate.times(n), 3 * counts.forward * n,
                memory=8 * n * counts.n_units + memory // 2, parallel=True,
            ),
        )  # fmt: skip
    return parts
