"""How much the input-unit gradient varies over images and over units, layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from auditor.api.forward import Execution
from auditor.api.geometry_networks import Network, by_layer, chosen_sites, part_folder
from auditor.api.geometry_responses import FloatArray, PixelImages
from auditor.api.geometry_settings import GeometrySettings
from auditor.progress import Reporter
from auditor.representations.gradients import input_unit_gradients, sample_units
from auditor.representations.variability import coefficient_of_variation
from auditor.stats.intervals import paired_mean_interval
from auditor.store.blocks import BlockCache
from auditor.units import Site


def measure_gradients(
    network: Network, settings: GeometrySettings, execution: Execution, reporter: Reporter
) -> pd.DataFrame:
    """Measure every layer.

    Returns
    -------
    DataFrame
        One row per site. ``norm`` is the mean over images and sampled units of ``||d a_u / d x||_2`` in responses per
        unit of pixel intensity, relative to nothing, so layers of other scale differ; its interval is over images.
        ``cv_images`` is the coefficient of variation over images, mean over units, and ``cv_units`` that over units,
        mean over images; their intervals are over images and units. ``n_silent`` of ``n_sampled`` units have no
        gradient on any image and are left out of ``cv_images``.
    """
    sites = chosen_sites(network.run, settings.layers)
    with part_folder(network, "gradients", settings, execution) as (folder, done):
        held: dict[str, FloatArray] = {}
        if not done:
            held = _norms(network, settings, sites, execution, BlockCache(folder / "blocks"), reporter)

        def measure(site: Site) -> pd.DataFrame:
            return pd.DataFrame([_row(held[site.name], network.run.confidence)])

        return by_layer(folder, sites, measure, reporter, f"Gradients of {network.name}", done=done)


def _norms(
    network: Network,
    settings: GeometrySettings,
    sites: list[Site],
    execution: Execution,
    blocks: BlockCache,
    reporter: Reporter,
) -> dict[str, FloatArray]:
    images = PixelImages(network.run, sites, execution)
    index, size = images.index(settings.gradient_images), execution.batch_size
    # By place in the network, so that a layer's units do not depend on which layers are asked for.
    place = {site.name: number for number, site in enumerate(network.run.sites)}
    units = {s.name: sample_units(s.n_units, settings.units, seed=settings.seed, site=place[s.name]) for s in sites}
    parts = []
    with reporter.task(f"Input-unit gradients of {network.name}", len(index), "images") as task:
        for start in range(0, len(index), size):
            key = f"norms-{size}-{start:06d}"
            stored = blocks.get(key)
            if stored is None:
                (batch,) = images.batches(index[start : start + size])
                stored = input_unit_gradients(
                    images.model.module, batch.images, sites, units, forward=images.model
                )  # fmt: skip
                assert stored is not None
                blocks.put(key, stored)
            parts.append(stored)
            task.advance(len(index[start : start + size]))
    return {site.name: np.concatenate([part[site.name] for part in parts]) for site in sites}


def _row(norms: FloatArray, confidence: float) -> dict[str, float]:
    mean = paired_mean_interval(norms.mean(axis=1, dtype=np.float64), confidence)
    row: dict[str, float] = {
        "n_images": len(norms),
        "n_sampled": norms.shape[1],
        "n_silent": int((norms == 0).all(axis=0).sum()),
        **dict(zip(("norm", "norm_low", "norm_high"), map(float, mean), strict=True)),
    }
    for name, axis in (("cv_images", 0), ("cv_units", 1)):
        found = coefficient_of_variation(norms, axis, confidence=confidence)
        row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
    return row
