"""Measure units one by one, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from auditor.ablation import PairEffects, class_effects, effect_table, first_order, rank_agreement, unit_attributions
from auditor.ablation.edits import EditContext
from auditor.ablation.replay import record, unit_maps
from auditor.api.bench import Bench, unit_blocks
from auditor.api.engines import ablate_effects
from auditor.progress import Reporter, Task
from auditor.stats.intervals import paired_mean_interval
from auditor.store.blocks import BlockCache
from auditor.units import Site

BLOCK = 128
_FIELDS = ("target_logit_drop", "loss_change", "kl", "prediction")
Rows = NDArray[np.int64]


def blocks_of(bench: Bench, rows: Rows) -> list[Rows]:
    """Blocks of units, in the network's order; each is measured on all images and then kept."""
    ordered = np.sort(rows)
    return list(unit_blocks(ordered, bench.units["site"].iloc[ordered].astype(str).tolist(), BLOCK))


def measure_units(bench: Bench, rows: Rows, cache: BlockCache, reporter: Reporter) -> list[str]:
    """Ablate every unit of `rows` on every image and keep its effects on each image.

    Parameters
    ----------
    bench : Bench
    rows : ndarray of int64
        Rows of the unit table.
    cache : BlockCache
        Takes one block after the other, with the arrays of :class:`PairEffects` and ``row``; blocks that are there
        are not measured again.

    Returns
    -------
    list of str
        Keys of the blocks.
    """
    blocks = blocks_of(bench, rows)
    keys = [f"units-{number:06d}" for number in range(len(blocks))]
    with reporter.task("Ablating", len(rows), "units") as task:
        for key, block in zip(keys, blocks, strict=True):
            if cache.get(key) is None:
                cache.put(key, {"row": block, **measure_block(bench, block, task=task).to_arrays()})
            else:
                task.advance(len(block))
    return keys


def measure_block(bench: Bench, rows: Rows, images: Rows | None = None, task: Task | None = None) -> PairEffects:
    """Effects of units, in the order of `rows`, on images of the split (default: all)."""
    jobs = bench.jobs(rows)
    # Jobs hold units by site: where each of their units is in `rows`.
    names = bench.units["site"].to_numpy()[rows]
    places = [np.flatnonzero(names == job.site.name) for job in jobs]
    n_images = len(bench.images) if images is None else len(images)
    size = bench.engine.images_per_batch([job.site for job in jobs], len(rows))
    advance: Callable[[float], None] | None = None
    if task is not None:
        advance = lambda pairs: task.advance(pairs / n_images)  # noqa: E731
    kinds = dict.fromkeys(_FIELDS[:3], np.float32) | {"prediction": np.int32}
    found = {name: np.empty((len(rows), n_images), dtype=kind) for name, kind in kinds.items()}
    start = 0
    for part in bench.images.parts(size, images):
        here = slice(start, start + len(part.rows))
        start = here.stop
        effects = ablate_effects(
            bench.engine, part.images, part.labels, jobs, bench.edit,
            donors=part.donors, noise=bench.noise(part), advance=advance,
        )  # fmt: skip
        for place, own in zip(places, effects, strict=True):
            for name in _FIELDS:
                found[name][place, here] = own[name]
    return PairEffects.from_arrays(found)


def table_of_units(
    cache: BlockCache,
    keys: list[str],
    intact_prediction: Rows,
    labels: Rows,
    preferred: NDArray[np.int64],
    *,
    n_classes: int,
    confidence: float,
) -> pd.DataFrame:
    """Effects of all measured units with intervals over images; the index is the row of the unit table.

    Parameters
    ----------
    preferred : ndarray of int64
        Preferred class of every unit of the unit table.
    """
    parts = []
    for key in keys:
        block = cache.get(key)
        assert block is not None
        table = effect_table(
            PairEffects.from_arrays(block), intact_prediction, labels, preferred[block["row"]],
            n_classes=n_classes, confidence=confidence,
        )  # fmt: skip
        parts.append(table.set_index(pd.Index(block["row"])))
    return pd.concat(parts)


def table_of_classes(
    cache: BlockCache, keys: list[str], rows: Rows, intact_prediction: Rows, labels: Rows, bench: Bench
) -> pd.DataFrame:
    """Effects of some measured units on each class, in long form; see :func:`auditor.ablation.class_effects`."""
    parts = []
    for key in keys:
        block = cache.get(key)
        assert block is not None
        inside = np.isin(block["row"], rows)
        if inside.any():
            own = PairEffects.from_arrays({name: block[name][inside] for name in _FIELDS})
            table = class_effects(
                own, intact_prediction, labels, bench.run.classes, confidence=bench.settings.confidence
            )
            names = bench.units["unit_id"].to_numpy()[block["row"][inside]]
            table.insert(0, "unit_id", names[table.pop("row").to_numpy()])
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def estimate_units(bench: Bench, cache: BlockCache, reporter: Reporter) -> pd.DataFrame:
    """First-order estimates for every unit of the run, from one backward pass per image.

    Returns
    -------
    pandas.DataFrame
        ``estimated_loss_change`` and ``estimated_logit_drop`` with intervals over images; one row per unit of the run.
    """
    every = np.arange(len(bench.units), dtype=np.int64)
    jobs = {job.site.name: job for job in bench.jobs(every)}
    sites = [job.site for job in jobs.values()]
    stored = cache.get("estimates")
    if stored is None:
        # All maps and their slopes are held at once.
        per_image = 24 * sum(int(np.prod(site.shape)) for site in sites) + 1
        size = int(max(1, min(64, bench.memory // 2 // per_image)))
        sums: dict[str, list[NDArray[np.float32]]] = {"loss": [], "logit": []}
        with reporter.task("Estimating", len(bench.images), "images") as task:
            for part in bench.images.parts(size):
                noise = bench.noise(part)
                donors = None
                if part.donors is not None:
                    calls = {job.call for job in jobs.values()}
                    with torch.no_grad():
                        donors = record(bench.module, part.donors, calls)[1]

                def delta(site: Site, maps, donors=donors, noise=noise):  # type: ignore[no-untyped-def]
                    job = jobs[site.name]
                    given = None if donors is None else unit_maps(donors[job.call], site.unit_axis, job.units)
                    drawn = None if noise is None else (lambda: noise(site))
                    return bench.edit.apply(maps, EditContext(job.mean, job.std, given, drawn)) - maps

                found = first_order(bench.module, part.images, part.labels, sites, delta=delta)
                sums["loss"].append(np.concatenate([found[s.name].loss_change.numpy().T for s in sites]))
                sums["logit"].append(np.concatenate([found[s.name].target_logit_drop.numpy().T for s in sites]))
                task.advance(len(part.rows))
        stored = {name: np.concatenate(values, axis=1) for name, values in sums.items()}
        cache.put("estimates", stored)
    columns: dict[str, NDArray[np.float64]] = {}
    for name, values in (("estimated_loss_change", stored["loss"]), ("estimated_logit_drop", stored["logit"])):
        interval = paired_mean_interval(values, bench.settings.confidence)
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return pd.DataFrame(columns, index=every)


def attribute_units(
    bench: Bench, rows: Rows, methods: tuple[str, ...], cache: BlockCache, reporter: Reporter
) -> pd.DataFrame:
    """Captum's attributions of the label's logit to units, with intervals over images; indexed by `rows`."""
    ordered = np.sort(rows)
    columns: dict[str, NDArray[np.float64]] = {}
    jobs = bench.jobs(ordered)
    total = len(methods) * len(jobs) * len(bench.images)
    with reporter.task("Attributing", total, "images") as task:
        for method in methods:
            parts = []
            for number, job in enumerate(jobs):
                key = f"{method}-{number:04d}"
                stored = cache.get(key)
                if stored is None:
                    found = []
                    for part in bench.images.parts(16):
                        own = unit_attributions(bench.module, part.images, part.labels, job.site, method=method)
                        found.append(own[:, job.units.cpu()].T.numpy())
                        task.advance(len(part.rows))
                    stored = {"values": np.concatenate(found, axis=1)}
                    cache.put(key, stored)
                else:
                    task.advance(len(bench.images))
                parts.append(stored["values"])
            interval = paired_mean_interval(np.concatenate(parts), bench.settings.confidence)
            columns |= dict(zip((method, f"{method}_low", f"{method}_high"), interval, strict=True))
    return pd.DataFrame(columns, index=ordered)


def agreements(
    table: pd.DataFrame, pairs: list[tuple[str, str]], confidence: float, seed: int
) -> dict[str, dict[str, object]]:
    """Spearman correlations over units between columns, with bootstrap intervals."""
    found: dict[str, dict[str, object]] = {}
    for estimate, exact in pairs:
        ranks = rank_agreement(table[estimate].to_numpy(), table[exact].to_numpy(), confidence=confidence, seed=seed)
        found[f"{estimate} ~ {exact}"] = {
            name: None if isinstance(value, float) and value != value else value for name, value in vars(ranks).items()
        }
    return found
