"""The highest class selectivity that an orthonormal rotation of each layer finds, beside that of its own axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.api.forward import Execution
from auditor.api.geometry_networks import Network, by_layer, chosen_sites, part_folder
from auditor.api.geometry_responses import CleanResponses, FloatArray
from auditor.api.geometry_settings import GeometrySettings
from auditor.errors import DataError
from auditor.progress import Reporter
from auditor.representations.rotation import FEWEST, best_rotation
from auditor.units import Site

VALUES = ("aligned", "rotated", "difference")


def measure_rotation(
    network: Network, settings: GeometrySettings, execution: Execution, reporter: Reporter
) -> pd.DataFrame:
    """Search the best rotation of every layer.

    Images of the select and of the score split are taken together and divided anew: half are searched on, a quarter
    chooses the start, the rest scores; see :func:`auditor.representations.rotation.best_rotation`.

    Returns
    -------
    DataFrame
        One row per site: the mean class selectivity index on the units' axes (``aligned``), on the best rotated ones
        (``rotated``) and their ``difference``, each with an interval over images; ``null_mean``, the mean of `rotated`
        under shuffled labels, ``null_highest`` and ``p``; and ``random``, the mean over rotations that are not
        optimised. All are missing for a layer whose units are all dead.
    """
    sites = chosen_sites(network.run, settings.layers)
    with (
        part_folder(network, "rotation", settings, execution) as (folder, done),
        CleanResponses(network.run, sites, execution) as clean,
    ):

        def measure(site: Site) -> pd.DataFrame:
            index = np.concatenate([clean.images(split, settings.n_images) for split in ("select", "score")])
            values, labels = clean.responses(site.name, index), clean.labels(index)
            return pd.DataFrame([_row(values, labels, settings, network.run.confidence)])

        return by_layer(folder, sites, measure, reporter, f"Rotations of {network.name}", done=done)


def check_classes(network: Network, settings: GeometrySettings) -> None:
    """Raise a DataError unless there are enough images of each class to search a rotation."""
    data = network.run.data().limited(settings.n_images)
    rows = np.concatenate([data.splits["select"], data.splits["score"]])
    present, counts = np.unique(data.labels[rows], return_counts=True)
    if len(present) < 2 or counts.min() < FEWEST:
        raise DataError(
            f"{network.name} has too few images of a class to search a rotation.",
            wanted=f"{FEWEST} of each of two classes or more",
            got=f"{len(present)} classes, the smallest with {counts.min()} images",
            fix="Measure more images, or leave the rotation out with --parts.",
        )


def _row(
    responses: FloatArray, labels: NDArray[np.int64], settings: GeometrySettings, confidence: float
) -> dict[str, float]:
    row: dict[str, float] = {"n_images": len(labels)}
    ends = [f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")]
    if not responses.any():
        rest = ("null_mean", "null_highest", "p", "random", "n_directions", "variance_kept")
        return row | dict.fromkeys((*ends, *rest), np.nan)
    found = best_rotation(
        responses, labels, n_starts=settings.starts, n_permutations=settings.shuffles or 0,
        confidence=confidence, seed=settings.seed,
    )  # fmt: skip
    intervals = (found.axis_aligned, found.rotated, found.difference)
    row |= dict(zip(ends, (float(value) for interval in intervals for value in interval), strict=True))
    return row | {
        "null_mean": found.null_mean,
        "null_highest": float(found.null.max()) if len(found.null) else np.nan,
        "p": found.p,
        "random": float(found.random.mean()),
        "n_directions": found.n_directions,
        "variance_kept": found.variance_kept,
    }
