"""How far regularized networks are from the networks of alpha 0, against how far those are from one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from auditor.api.forward import Execution
from auditor.api.geometry_networks import Network, by_layer, chosen_sites, part_folder
from auditor.api.geometry_responses import CleanResponses
from auditor.api.geometry_settings import GeometrySettings
from auditor.errors import RunError
from auditor.progress import Reporter
from auditor.representations.similarity import distances
from auditor.units import Site

FROM_CONTROL, SEEDS, GIVEN = "from alpha 0", "seed to seed", "other run"


@dataclass(frozen=True)
class Pair:
    """Two networks; the first is the reference of the measures that are not symmetric.

    Attributes
    ----------
    first, second : Network
    relation : str
        ``from alpha 0``: the network of alpha 0, and another of the same seed. ``seed to seed``: two networks of alpha
        0. ``other run``: where there is neither, the first network with each of the others.
    """

    first: Network
    second: Network
    relation: str


def pairs_of(networks: Sequence[Network]) -> list[Pair]:
    """Pairs that are compared.

    Raises
    ------
    RunError
        If there is only one network.
    """
    if len(networks) < 2:
        raise RunError(
            "Similarity is between networks, and there is only one.",
            fix="Measure a sweep (--sweep DIR), or name other runs of the same data (--with RUN).",
        )
    controls = {network.seed: network for network in networks if network.alpha == 0}
    found = [Pair(*two, SEEDS) for two in combinations(controls.values(), 2)]
    found += [Pair(controls[n.seed], n, FROM_CONTROL) for n in networks if n.alpha and n.seed in controls]
    return found or [Pair(networks[0], other, GIVEN) for other in networks[1:]]


def measure_similarity(
    pair: Pair, settings: GeometrySettings, execution: Execution, reporter: Reporter
) -> pd.DataFrame:
    """Compare two networks layer by layer on the same images of the score split.

    Returns
    -------
    DataFrame
        One row per site that both have, with the distances of
        :func:`auditor.representations.similarity.distances`.

    Raises
    ------
    RunError
        If they have no site in common.
    """
    theirs = {site.name for site in chosen_sites(pair.second.run, settings.layers)}
    sites = [site for site in chosen_sites(pair.first.run, settings.layers) if site.name in theirs]
    if not sites:
        raise RunError(f"{pair.first.name} and {pair.second.name} have no layer of the same name.")
    other = pair.second.run.manifest.digest()
    with (
        part_folder(pair.first, "similarity", settings, execution, other=other) as (folder, done),
        CleanResponses(pair.first.run, sites, execution) as first,
        CleanResponses(pair.second.run, sites, execution) as second,
    ):

        def measure(site: Site) -> pd.DataFrame:
            index = first.images("score", settings.similarity_images)
            if not np.array_equal(index, second.images("score", settings.similarity_images)):
                raise RunError(f"{pair.first.name} and {pair.second.name} are not of the same images.")
            found = distances(first.responses(site.name, index), second.responses(site.name, index))
            return pd.DataFrame([{"n_images": len(index), **found}])

        what = f"{pair.first.name} and {pair.second.name}"
        table = by_layer(folder, sites, measure, reporter, f"Similarity of {what}", done=done)
    table.insert(0, "relation", pair.relation)
    table.insert(1, "reference", pair.first.name)
    for place, (name, value) in enumerate(pair.second.columns().items()):
        table.insert(2 + place, name, value)
    return table
