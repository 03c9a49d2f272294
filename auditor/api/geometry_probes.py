"""What a linear classifier reads out of each layer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from auditor.api.forward import Execution
from auditor.api.geometry_networks import Network, by_layer, chosen_sites, part_folder
from auditor.api.geometry_responses import CleanResponses
from auditor.api.geometry_settings import GeometrySettings
from auditor.progress import Reporter
from auditor.representations.probes import linear_probe
from auditor.units import Site

FOLDS = 3
FIXED = 0.1
"""Inverse strength of the penalty where a class has too few images for cross-validation."""


def measure_probes(
    network: Network, settings: GeometrySettings, execution: Execution, reporter: Reporter
) -> pd.DataFrame:
    """Fit a linear probe of every layer on the select split and test it on the score split.

    Returns
    -------
    DataFrame
        One row per site: ``accuracy`` with its interval over the test images, ``chance``, the penalty ``C``.
    """
    sites = chosen_sites(network.run, settings.layers)
    with (
        part_folder(network, "probes", settings, execution) as (folder, done),
        CleanResponses(network.run, sites, execution) as clean,
    ):

        def measure(site: Site) -> pd.DataFrame:
            train, test = (clean.images(split, settings.probe_images) for split in ("select", "score"))
            labels = clean.labels(train)
            enough = np.unique(labels, return_counts=True)[1].min() >= FOLDS
            found = linear_probe(
                clean.responses(site.name, train), labels,
                clean.responses(site.name, test), clean.labels(test),
                C=None if enough else FIXED, folds=FOLDS, seed=settings.seed, confidence=network.run.confidence,
            )  # fmt: skip
            values = found.to_dict()
            names = ("accuracy", "low", "high", "chance", "C", "n_train", "n_test", "converged")
            return pd.DataFrame([{name: values[name] for name in names}])

        return by_layer(folder, sites, measure, reporter, f"Linear probes of {network.name}", done=done)
