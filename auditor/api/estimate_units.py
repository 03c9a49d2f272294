"""What units matter by estimates and attributions, which take a few passes for all units of a layer."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.ablation import first_order, unit_attributions
from auditor.ablation.edits import EditContext
from auditor.ablation.replay import record, unit_maps
from auditor.api.bench import Bench
from auditor.api.pieces import Arrays, joined_pieces, measure_pieces
from auditor.api.score_images import Part
from auditor.distributed import current
from auditor.distributed.reporters import together
from auditor.progress import Reporter
from auditor.stats.intervals import paired_mean_interval
from auditor.store.blocks import BlockCache
from auditor.units import Site

BATCH = 16
LEAST_BATCHES, MOST_PIECES = 16, 64
Rows = NDArray[np.int64]


def estimate_units(bench: Bench, cache: BlockCache, reporter: Reporter) -> pd.DataFrame | None:
    """First-order estimates for every unit of the run, from one backward pass per image; all ranks do it together.

    Returns
    -------
    pandas.DataFrame or None
        ``estimated_loss_change`` and ``estimated_logit_drop`` with intervals over images; one row per unit of the run.
        None on ranks but the main one.
    """
    every = np.arange(len(bench.units), dtype=np.int64)
    jobs = {job.site.name: job for job in bench.jobs(every)}
    sites = [job.site for job in jobs.values()]
    # All maps and their slopes are held at once.
    per_image = 24 * sum(int(np.prod(site.shape)) for site in sites) + 1
    size = int(max(1, min(64, bench.memory // 2 // per_image)))
    with together(reporter, "Estimating", len(bench.images), "images") as task:

        def measure(part: Part) -> Arrays:
            noise = bench.noise(part)
            donors = None
            if part.donors is not None:
                calls = {job.call for job in jobs.values()}
                with torch.no_grad():
                    donors = record(bench.module, part.donors, calls)[1]

            def delta(site: Site, maps: Tensor) -> Tensor:
                job = jobs[site.name]
                given = None if donors is None else unit_maps(donors[job.call], site.unit_axis, job.units)
                drawn = None if noise is None else partial(noise, site)
                return bench.edit.apply(maps, EditContext(job.mean, job.std, given, drawn)) - maps

            found = first_order(bench.module, part.images, part.labels, sites, delta=delta)
            task.advance(len(part.rows))
            return {
                "loss": np.concatenate([found[s.name].loss_change.numpy().T for s in sites]),
                "logit": np.concatenate([found[s.name].target_logit_drop.numpy().T for s in sites]),
            }

        keys = measure_pieces(bench.images, size, cache, f"estimates-{size}", measure, task)
    if not current().main:
        return None
    stored = joined_pieces(cache, keys)
    columns: dict[str, NDArray[np.float64]] = {}
    for name, values in (("estimated_loss_change", stored["loss"]), ("estimated_logit_drop", stored["logit"])):
        interval = paired_mean_interval(values, bench.settings.confidence)
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return pd.DataFrame(columns, index=every)


def attribute_units(
    bench: Bench, rows: Rows, methods: tuple[str, ...], cache: BlockCache, reporter: Reporter
) -> pd.DataFrame | None:
    """Captum's attributions of the label's logit to units, with intervals over images; all ranks do it together.

    Returns
    -------
    pandas.DataFrame or None
        Indexed by `rows`, sorted; None on ranks but the main one.
    """
    ordered, n = np.sort(rows), len(bench.images)
    jobs = bench.jobs(ordered)
    # Whole batches, so that images meet in the same ones however they are cut.
    step = BATCH * max(LEAST_BATCHES, -(-n // (MOST_PIECES * BATCH)))
    starts = range(0, n, step)
    keys = {
        method: [[f"{method}-{number:04d}-{start:06d}" for start in starts] for number in range(len(jobs))]
        for method in methods
    }
    work = [(m, number, place) for m in methods for number in range(len(jobs)) for place in range(len(starts))]
    with together(reporter, "Attributing", len(methods) * len(jobs) * n, "images") as task:
        for taken in current().take("attributions", len(work)):
            method, number, place = work[taken]
            images = np.arange(starts[place], min(starts[place] + step, n), dtype=np.int64)
            if cache.get(keys[method][number][place]) is not None:
                task.advance(len(images))
                continue
            job, found = jobs[number], []
            for part in bench.images.parts(BATCH, images):
                own = unit_attributions(bench.module, part.images, part.labels, job.site, method=method)
                found.append(own[:, job.units.cpu()].T.numpy())
                task.advance(len(part.rows))
            cache.put(keys[method][number][place], {"values": np.concatenate(found, axis=1)})
    if not current().main:
        return None
    columns: dict[str, NDArray[np.float64]] = {}
    for method in methods:
        values = np.concatenate([joined_pieces(cache, own)["values"] for own in keys[method]])
        interval = paired_mean_interval(values, bench.settings.confidence)
        columns |= dict(zip((method, f"{method}_low", f"{method}_high"), interval, strict=True))
    return pd.DataFrame(columns, index=ordered)
