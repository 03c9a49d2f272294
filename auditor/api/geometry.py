"""The verb ``geometry``: dimensionality, input-unit gradients, and whether selectivity is gone or only rotated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from auditor.api.forward import Execution
from auditor.api.geometry_alphas import AVERAGED, associations, distances_by_alpha, over_seeds
from auditor.api.geometry_dimensionality import measure_dimensionality
from auditor.api.geometry_gradients import measure_gradients
from auditor.api.geometry_networks import FOLDER, Network, chosen_sites, networks_of
from auditor.api.geometry_outcomes import SECOND, dead_table, outcomes_by_alpha, selectivity_table
from auditor.api.geometry_probes import measure_probes
from auditor.api.geometry_result import Geometry
from auditor.api.geometry_rotation import check_classes, measure_rotation
from auditor.api.geometry_settings import PARTS, SHUFFLES, SHUFFLES_OF_SEVERAL, GeometrySettings
from auditor.api.geometry_similarity import FROM_CONTROL, measure_similarity, pairs_of
from auditor.api.geometry_words import sentences_of
from auditor.api.run import Run
from auditor.api.workspace import claim, locked, write_manifest
from auditor.errors import DataError
from auditor.manifest import Manifest, provenance
from auditor.progress import QUIET, Reporter
from auditor.store.files import write_csv

if TYPE_CHECKING:
    from auditor.api.sweep import Sweep

__all__ = ["Geometry", "geometry"]

BATCH = 64
_MEASURES: dict[str, Callable[[Network, GeometrySettings, Execution, Reporter], pd.DataFrame]] = {
    "dimensionality": measure_dimensionality,
    "gradients": measure_gradients,
    "rotation": measure_rotation,
    "probes": measure_probes,
}


def geometry(
    what: Run | Sweep,
    *,
    parts: Sequence[str] | None = None,
    n_images: int = GeometrySettings.n_images,
    corruptions: Sequence[str] | None = None,
    severity: int = GeometrySettings.severity,
    epsilon: float = GeometrySettings.epsilon,
    attack_steps: int = GeometrySettings.attack_steps,
    layers: str | Sequence[str] | None = None,
    others: Sequence[Run] = (),
    units: int = GeometrySettings.units,
    gradient_images: int = GeometrySettings.gradient_images,
    starts: int = GeometrySettings.starts,
    shuffles: int | None = None,
    probe_images: int = GeometrySettings.probe_images,
    similarity_images: int = GeometrySettings.similarity_images,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = BATCH,
    workers: int | None = None,
    reporter: Reporter = QUIET,
) -> Geometry:
    """Measure the geometry of a network's layers, or of all networks of a sweep.

    Parameters
    ----------
    what : Run or Sweep
    parts : sequence of str, optional
        Of ``dimensionality``, ``gradients``, ``rotation``, ``probes`` and ``similarity``. Default: all; similarity only
        with a sweep or `others`.
    layers : str or sequence of str, optional
        Patterns of site names. Default: all sites of the run.
    others : sequence of Run
        Other runs of the same data, measured beside `what`.
    n_images, corruptions, severity, epsilon, attack_steps, units, gradient_images, starts, shuffles, probe_images, \
similarity_images, seed
        See :class:`auditor.api.geometry_settings.GeometrySettings`.
    device, batch_size, workers
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    Geometry
        In ``geometry/`` of the run's or the sweep's folder. What is measured of each network is kept in the network's
        own run, part by part and layer by layer, and not measured again.

    Raises
    ------
    OptionError, UnknownNameError
        If something cannot be measured as asked.
    RunError
        If model or data are not those of a run, networks are of different images, or there is only one to compare.
    DataError
        If there are too few images.
    """
    began = time.monotonic()
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    networks = networks_of(what, others)
    several = len(networks) > 1
    wanted = tuple(part for part in PARTS if several or part != "similarity") if parts is None else tuple(parts)
    settings = GeometrySettings(
        parts=wanted,
        n_images=n_images,
        corruptions=None if corruptions is None else tuple(corruptions),
        severity=severity,
        epsilon=epsilon,
        attack_steps=attack_steps,
        layers=(layers,) if isinstance(layers, str) else tuple(layers or ()),
        units=units,
        gradient_images=gradient_images,
        starts=starts,
        shuffles=(SHUFFLES_OF_SEVERAL if several else SHUFFLES) if shuffles is None else shuffles,
        probe_images=probe_images,
        similarity_images=similarity_images,
        seed=seed,
    )
    _check(networks, settings)
    manifest = Manifest(
        kind=FOLDER,
        identity={
            "networks": [network.run.manifest.digest() for network in networks],
            "confidence": networks[0].run.confidence,
            **settings.to_dict(),
        },
        provenance=provenance(
            execution=execution.describe(),
            networks=[str(each.run.path) for each in networks],
            confidences=[each.run.confidence for each in networks],
        ),
    )
    folder = what.path / FOLDER / manifest.digest()[:8]
    with locked(folder):
        if claim(folder, manifest).state == "done":
            reporter.say(f"Geometry: {folder} was finished before with these settings; showing it.")
            return Geometry(folder)
        reporter.say(f"Geometry of {what.path.name}: {', '.join(settings.parts)}; {_count(networks)}.")
        tables = {
            part: pd.concat(
                [_named(network, _MEASURES[part](network, settings, execution, reporter)) for network in networks],
                ignore_index=True,
            )
            for part in settings.parts
            if part in _MEASURES
        }
        if "similarity" in settings.parts:
            pairs = pairs_of(networks)
            tables["similarity"] = pd.concat(
                [measure_similarity(pair, settings, execution, reporter) for pair in pairs], ignore_index=True
            )
        _write(folder, tables, networks)
        result = Geometry(folder, manifest=manifest)
        result.write(sentences_of(result))
        result.save_figures()
        manifest.complete = True
        manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
        write_manifest(folder, manifest)
    return result


def _check(networks: Sequence[Network], settings: GeometrySettings) -> None:
    """Refuse what cannot be measured before anything is."""
    for network in networks:
        chosen_sites(network.run, settings.layers)
        counts = network.run.manifest.identity["data"]["n_per_split"]
        for split in ("select", "score") if {"rotation", "probes"} & set(settings.parts) else ("score",):
            if counts[split] < 10:
                raise DataError(
                    f"The {split} split of {network.name} has too few images.",
                    wanted="10 at least",
                    got=str(counts[split]),
                    fix="Profile with a larger share for it (--fractions).",
                )
    if "similarity" in settings.parts:
        pairs_of(networks)
    if "rotation" in settings.parts:
        check_classes(networks[0], settings)  # the others have the same images


def _count(networks: Sequence[Network]) -> str:
    return "one network" if len(networks) == 1 else f"{len(networks)} networks"


def _named(network: Network, table: pd.DataFrame) -> pd.DataFrame:
    for place, (name, value) in enumerate(network.columns().items()):
        table.insert(place, name, value)
    return table


def _write(folder: Path, tables: dict[str, pd.DataFrame], networks: Sequence[Network]) -> None:
    """Write the tables, and for networks of several alphas those by alpha."""
    confidence = networks[0].run.confidence
    for part, table in tables.items():
        write_csv(folder / f"{part}.csv", table)
    selectivity = selectivity_table(networks)
    write_csv(folder / "selectivity.csv", selectivity)
    write_csv(folder / "dead.csv", dead_table(networks))
    if selectivity["alpha"].nunique() < 2:
        return
    metrics = [name for name in selectivity if str(name).removeprefix("mean_") in ("index", "excess", *SECOND)]
    by_alpha = over_seeds(selectivity.assign(layers="all"), ["layers"], [*map(str, metrics), "dead"], confidence)
    write_csv(folder / "selectivity_by_alpha.csv", by_alpha)
    for part, (keys, columns) in AVERAGED.items():
        if part in tables:
            write_csv(folder / f"{part}_by_alpha.csv", over_seeds(tables[part], keys, columns, confidence))
    if "similarity" in tables and (tables["similarity"]["relation"] == FROM_CONTROL).any():
        write_csv(folder / "similarity_by_alpha.csv", distances_by_alpha(tables["similarity"], confidence))
    found = associations(tables, networks, confidence)
    if not found.empty:
        write_csv(folder / "associations.csv", found)
    if "rotation" in tables:
        write_csv(folder / "outcomes.csv", outcomes_by_alpha(tables["rotation"], selectivity, confidence))
