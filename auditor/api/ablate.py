"""The verb ``ablate``: what the network loses without its most selective units, against matched random ones."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.ablation_result import Ablation
from auditor.api.ablation_settings import AblationSettings
from auditor.api.ablation_tables import write_tables
from auditor.api.agreement import check_agreement
from auditor.api.bench import Bench
from auditor.api.estimate_units import attribute_units, estimate_units
from auditor.api.forward import Execution
from auditor.api.heads import CHOICES
from auditor.api.important import check_count, find_important
from auditor.api.joint import Plan, measure_joint
from auditor.api.measure_units import measure_units, table_of_classes, table_of_units
from auditor.api.profiling import MAX_CELLS
from auditor.api.run import Run
from auditor.api.selection import curve_score, preferred_classes, resolve, select_units
from auditor.api.workspace import claim, locked, slug, write_manifest
from auditor.distributed import current
from auditor.distributed.reporters import of_rank
from auditor.errors import DataError, ModelError
from auditor.manifest import Manifest, provenance
from auditor.models.trace import evaluating
from auditor.progress import QUIET, Reporter
from auditor.store.blocks import BlockCache
from auditor.store.files import write_csv

BATCH = 64
SAMPLED = 50
"""Random units that are measured beside those that a first-order estimate picks: only they tell how well it ranks."""


def ablate(
    run: Run,
    *,
    top_selective: int = 100,
    by: str = "excess",
    all_units: bool = False,
    screen: int | None = None,
    top_important: int | None = None,
    delta: float = 0.05,
    edit: str = "zero",
    methods: tuple[str, ...] = (),
    random_sets: int = 100,
    random_orders: int = 5,
    curve_points: int = 8,
    curve_over: str = "layers",
    keep_only: bool = False,
    q: float = 0.05,
    limit: int | None = None,
    seed: int = 0,
    engine: str = "exact",
    dtype: str = "float32",
    memory: float | None = None,
    check: int = 4,
    device: str = "auto",
    batch_size: int = BATCH,
    workers: int | None = None,
    reporter: Reporter = QUIET,
) -> Ablation:
    """Silence the most selective units, one by one and together, and compare with matched random units.

    Units are chosen on the select split and scored on the score split.

    Parameters
    ----------
    run : Run
    top_selective, by, all_units, screen, top_important, delta, edit, methods, random_sets, random_orders, \
curve_points, curve_over, keep_only, q, limit, seed, engine, dtype, memory, check
        See :class:`auditor.api.ablation_settings.AblationSettings`.
    device, batch_size, workers
        See :class:`auditor.api.forward.Execution`; `batch_size` is for sets that are silenced together.
    reporter : Reporter

    Returns
    -------
    Ablation

    Raises
    ------
    OptionError, UnknownNameError
        If the units cannot be chosen as asked, or there is no such edit, engine or method.
    RunError
        If model or data are not those of the run.
    ModelError
        If the model's outputs are not the data's classes.
    DataError
        If the run has no score split.
    """
    began = time.monotonic()
    world, reporter = current(), of_rank(reporter)
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    settings = AblationSettings(
        top_selective=top_selective,
        by=by,
        random_sets=random_sets,
        random_orders=random_orders,
        curve_points=curve_points,
        curve_over=curve_over,
        q=q,
        confidence=run.confidence,
        seed=seed,
        limit=limit,
        keep_only=keep_only,
        all_units=all_units,
        screen=screen,
        top_important=top_important,
        delta=delta,
        edit=edit,
        methods=tuple(methods),
        engine=engine,
        dtype=dtype,
        memory=memory,
        check=check,
    )
    require_scores(run)
    settings, left_out = resolve(settings, run.layers)
    chosen = select_units(run.selectivity, settings, left_out=left_out)
    check_count(settings, len(run.selectivity))
    manifest = Manifest(
        kind="ablate",
        identity={"run": run.manifest.digest(), "batch_size": batch_size, **settings.to_dict()},
        provenance=provenance(execution=execution.describe()),
    )
    check_agreement(world, manifest)
    what = f"all-{slug(settings.by)}" if all_units else f"top{top_selective}-{slug(settings.by)}"
    folder = run.path / "ablations" / f"{what}-{manifest.digest()[:8]}"
    with locked(folder) if world.main else nullcontext():
        if world.share("claimed", claim(folder, manifest).state if world.main else None) == "done":
            reporter.say(f"Ablation: {folder} was finished before with these settings; showing it.")
            if world.main:
                _clear(BlockCache(folder / "blocks"))  # it may have been killed in the middle of this
            return Ablation(folder, run)
        data = run.data() if limit is None else run.data().limited(limit)
        reporter.say(
            f"Ablation of {run.name}: {len(chosen)} units chosen on the select split "
            f"({run.selectivity['n_images'].iloc[0]} images), scored on the score split "
            f"({len(data.splits['score'])} images)."
        )
        bench = Bench.build(run, data, settings, execution)
        with evaluating(bench.module):
            _measure(bench, chosen, left_out, Ablation(folder, run, manifest=manifest), execution, reporter)
        if world.main:
            manifest.complete = True
            manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
            result = Ablation(folder, run, manifest=manifest)
            result.save_figures()
            write_manifest(folder, manifest)
            _clear(BlockCache(folder / "blocks"))
        world.barrier("ablated")
    return result if world.main else Ablation(folder, run)


def _clear(blocks: BlockCache) -> None:
    blocks.clear()
    for path in blocks.folder.glob("race-*"):  # of rounds that were interrupted while they were cleared away
        shutil.rmtree(path, ignore_errors=True)


def require_scores(run: Run) -> None:
    """Raise an error unless ablations of the run can be scored.

    Raises
    ------
    ModelError
        If the model's outputs are not the data's classes.
    DataError
        If the run has no score split.
    """
    if run.summary["accuracy"] is None:
        raise ModelError(
            "The model's outputs are not the classes of the data, so ablation cannot be scored.",
            wanted=f"{len(run.classes)} outputs, one per class",
            fix=f"{CHOICES}, or profile a checkpoint trained on these classes (--checkpoint FILE).",
        )
    if run.manifest.identity["data"]["n_per_split"]["score"] == 0:
        raise DataError(
            "The run has no score split, so what it chose cannot be tested on images that did not choose it.",
            fix="Profile with a share for the score split (--fractions 0,0.5,0.5); every class then needs 2 images.",
        )


def _measure(
    bench: Bench,
    chosen: pd.DataFrame,
    left_out: tuple[str, ...],
    result: Ablation,
    execution: Execution,
    reporter: Reporter,
) -> None:
    """Do everything that was asked for, in resumable blocks, and write the tables.

    The ranks measure together; the main rank alone decides what is measured, and makes the tables.
    """
    settings, run, world = bench.settings, bench.run, current()
    blocks, images = BlockCache(result.path / "blocks"), BlockCache(result.path / "per_image")
    selected = chosen.index.to_numpy().astype(np.int64)
    every = np.arange(len(bench.units), dtype=np.int64)
    rows = every if settings.all_units else selected
    checks = bench.check(rows, settings.check) if world.main else {}
    for name, agreement in checks.items():
        reporter.say(agreement_line(name, agreement.to_dict()))
    estimates = None
    if settings.screen is not None or settings.all_units:
        estimates = estimate_units(bench, blocks, reporter)
    sampled = np.empty(0, dtype=np.int64)
    if estimates is not None and settings.screen is not None and not settings.all_units:
        size = estimates["estimated_loss_change"].abs().to_numpy()
        largest = np.argsort(-size, kind="stable")[: settings.screen]
        rng = np.random.default_rng([settings.seed, 44])
        sampled = rng.choice(every, size=min(SAMPLED, len(every)), replace=False)
        rows = np.unique(np.concatenate([rows, largest, sampled]))
    race = find_important(bench, blocks, reporter) if settings.top_important is not None else None
    if race is not None:
        rows = np.unique(np.concatenate([rows, race.chosen]))
    rows = np.array(world.share("rows", rows.tolist()), dtype=np.int64)
    keys = measure_units(bench, rows, images, reporter)
    for site, why in bench.engine.fallbacks.items():
        reporter.say(f"{site} was ablated by running the whole network: {why}.")
    plan = None
    if world.main:
        score = curve_score(bench.units, run.layers, settings)
        importance = _importance(images, keys, len(every)) if settings.all_units else None
        plan = Plan.make(bench.units, chosen, score, settings, importance=importance)
    joint = measure_joint(bench, plan, execution.batch_size, blocks, reporter)
    attributed = None
    if settings.methods:
        attributed = attribute_units(bench, np.sort(rows), settings.methods, blocks, reporter)
    if plan is None:
        return
    names = preferred_classes(bench.units, settings)
    preferred = pd.Index(run.classes).get_indexer(pd.Index(names)).astype(np.int64)
    table = table_of_units(
        images, keys, joint.effects.prediction[0].astype(np.int64), bench.images.labels, preferred,
        n_classes=len(run.classes), confidence=settings.confidence,
    )  # fmt: skip
    if len(chosen) * len(run.classes) <= MAX_CELLS:
        by_class = table_of_classes(
            images, keys, chosen.index.to_numpy(), joint.effects.prediction[0].astype(np.int64), bench.images.labels,
            bench,
        )  # fmt: skip
        write_csv(result.path / "classes.csv", by_class)
    for more in (attributed, estimates):
        if more is not None:
            table = table.join(more)
    write_tables(
        result.path, bench, plan, joint, table,
        names=names, sampled=sampled, left_out=left_out, checks=checks, race=race,
    )  # fmt: skip


def _importance(cache: BlockCache, keys: list[str], n_units: int) -> NDArray[np.float64]:
    importance = np.full(n_units, np.nan)
    for key in keys:
        block = cache.require(key)
        importance[block["row"]] = block["loss_change"].mean(1, dtype=np.float64)
    return importance


def agreement_line(name: str, found: dict[str, object]) -> str:
    """Say how far two engines are apart."""
    effect = float(found["effect"])  # type: ignore[arg-type]
    share = float(found["difference"]) / effect if effect else 0.0  # type: ignore[arg-type]
    line = (
        f"{found['engine']} against {'Captum' if name == 'captum' else name} on {found['n_units']} random units and "
        f"{found['n_images']} images: logits differ by at most {found['difference']:.1e}, {share:.1e} of the largest "
        f"effect ({effect:.2g}); loss by {found['loss_difference']:.1e} of {found['loss_effect']:.2g} nats"
    )
    rank = found["rank_correlation"]
    return line + (f"; rank correlation of units {rank:.3f}." if rank is not None else ".")
