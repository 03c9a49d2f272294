"""How many dimensions each layer's responses fill, for clean, corrupted and attacked images and for what changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.forward import Execution
from auditor.api.geometry_networks import Network, by_layer, chosen_sites, part_folder
from auditor.api.geometry_responses import (
    ADVERSARIAL,
    CLEAN,
    CORRUPTED,
    CleanResponses,
    Condition,
    FloatArray,
    perturbed_responses,
)
from auditor.api.geometry_settings import GeometrySettings
from auditor.errors import DataError
from auditor.progress import Reporter
from auditor.representations.dimensionality import Spectrum, SpectrumAccumulator
from auditor.representations.incremental import IncrementalSpectrum, spectrum_accumulator
from auditor.representations.intervals import RATIOS, SHARES, Dimensionality, dimensionality_interval, jackknife
from auditor.stats.intervals import paired_mean_interval
from auditor.store.blocks import BlockCache
from auditor.units import Site

WHOLE = "clean, whole split"
MEASURES = (*(f"components_{100 * share:g}" for share in SHARES), *RATIOS)
GROUPS = 20
# Each group of the jackknife has a covariance matrix of its own.
MOST_UNITS_IN_GROUPS = 1024
_STEP = 2048


def measure_dimensionality(
    network: Network, settings: GeometrySettings, execution: Execution, reporter: Reporter
) -> pd.DataFrame:
    """Measure every layer under every condition.

    Returns
    -------
    DataFrame
        One row per site, ``condition`` and ``corruption`` (``none``, a corruption's name, or ``all`` for the mean over
        corruptions). Conditions are ``clean``, ``corrupted`` and ``adversarial`` on the same images; the same with
        `` - clean`` for the differences from the clean responses, image by image; and ``clean, whole split`` for all
        images of the score split, from the store. Each measure has an interval over images, and
        ``participation_ratio_change`` is its paired difference from the clean condition.
    """
    sites = chosen_sites(network.run, settings.layers)
    with (
        part_folder(network, "dimensionality", settings, execution) as (folder, done),
        CleanResponses(network.run, sites, execution) as clean,
    ):
        held: dict[Condition, dict[str, FloatArray]] = {}
        if not done:
            blocks = BlockCache(folder / "blocks")
            held = perturbed_responses(network.run, settings, sites, execution, blocks, reporter)

        def measure(site: Site) -> pd.DataFrame:
            by_condition = {condition: found[site.name] for condition, found in held.items()}
            rows = _conditions(by_condition, settings.seed, network.run.confidence)
            rows.append(_whole_split(clean, site, settings, network.run.confidence))
            return pd.DataFrame(rows)

        return by_layer(folder, sites, measure, reporter, f"Dimensionality of {network.name}", done=done)


def _conditions(
    responses: dict[Condition, FloatArray], seed: int, confidence: float
) -> list[dict[str, Any]]:  # fmt: skip
    clean = responses[Condition(CLEAN)]
    own = _measure(clean, seed, confidence)
    rows = [_row(CLEAN, "none", len(clean), [own])]
    natural = {c.corruption: values for c, values in responses.items() if c.name == CORRUPTED}
    for suffix, base, against in (("", 0.0, own), (" - clean", clean, None)):
        found = {name: _measure(values - base, seed, confidence) for name, values in natural.items()}
        rows += [_row(CORRUPTED + suffix, name, len(clean), [one], against) for name, one in found.items()]
        if found:
            rows.append(_row(CORRUPTED + suffix, "all", len(clean), list(found.values()), against))
        if Condition(ADVERSARIAL) in responses:
            attacked = _measure(responses[Condition(ADVERSARIAL)] - base, seed, confidence)
            rows.append(_row(ADVERSARIAL + suffix, "none", len(clean), [attacked], against))
    return rows


def _measure(values: FloatArray, seed: int, confidence: float) -> Dimensionality:
    groups = min(GROUPS, len(values) // 2)
    return dimensionality_interval(values, n_groups=groups, confidence=confidence, seed=seed)


def _row(
    condition: str, corruption: str, n: int, found: Sequence[Dimensionality], clean: Dimensionality | None = None
) -> dict[str, Any]:
    """Measures of one condition; of several corruptions on the same images, their mean."""
    row: dict[str, Any] = {"condition": condition, "corruption": corruption, "n_images": n}
    estimate = np.mean([one.estimate for one in found], axis=0)
    values = np.mean([one.pseudovalues for one in found], axis=0)
    half = _half(values, found[0].confidence)
    for place, name in enumerate(MEASURES):
        ends = max(estimate[place] - half[place], 0.0), estimate[place] + half[place]
        row |= {name: estimate[place], f"{name}_low": ends[0], f"{name}_high": ends[1]}
    change = dict.fromkeys(("", "_low", "_high"), np.nan)
    if clean is not None:
        place = MEASURES.index("participation_ratio")
        apart = estimate[place] - clean.estimate[place]
        half = _half((values - clean.pseudovalues), clean.confidence)
        change = {"": apart, "_low": apart - half[place], "_high": apart + half[place]}
    return row | {f"participation_ratio_change{end}": value for end, value in change.items()}


def _half(pseudovalues: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    found = paired_mean_interval(pseudovalues.T, confidence)
    return (found.high - found.low) / 2


def _whole_split(clean: CleanResponses, site: Site, settings: GeometrySettings, confidence: float) -> dict[str, Any]:
    """Clean responses of all images of the score split, block by block: they need not fit in memory."""
    # What no store holds would be held in memory as a whole.
    most = len(clean.data.splits["score"]) if clean.stored else settings.n_images
    index = clean.images("score", most)
    parts = [index[start : start + _STEP] for start in range(0, len(index), _STEP)]
    if site.n_units > MOST_UNITS_IN_GROUPS:
        whole = spectrum_accumulator(site.n_units)
        for part in parts:
            whole.update(clean.responses(site.name, part))
        return _without_interval(whole)
    n_groups = min(GROUPS, len(index) // 2)
    places = np.random.default_rng([settings.seed, 20]).permutation(len(index)) % n_groups
    groups = [SpectrumAccumulator(site.n_units) for _ in range(n_groups)]
    for number, part in enumerate(parts):
        values, place = clean.responses(site.name, part), places[number * _STEP :][: len(part)]
        for each, group in enumerate(groups):
            group.update(values[place == each])
    return _row(WHOLE, "none", len(index), [jackknife(groups, confidence=confidence)])


def _without_interval(whole: SpectrumAccumulator | IncrementalSpectrum) -> dict[str, Any]:
    found = whole.spectrum()
    values = [
        *(_components(found, share) for share in SHARES),
        found.participation_ratio(),
        found.participation_ratio(corrected=True),
    ]
    row: dict[str, Any] = {"condition": WHOLE, "corruption": "none", "n_images": found.n}
    for name, value in zip(MEASURES, values, strict=True):
        row |= {name: value, f"{name}_low": np.nan, f"{name}_high": np.nan}
    return row | {f"participation_ratio_change{end}": np.nan for end in ("", "_low", "_high")}


def _components(found: Spectrum, share: float) -> float:
    try:
        return float(found.components(share))
    except DataError:  # a spectrum that was cut off before
        return float("nan")
