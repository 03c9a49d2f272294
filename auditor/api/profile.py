"""The verb ``profile``: stream data through a model, keep every unit's response, score selectivity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from auditor.ablation import accuracy_with_interval
from auditor.api.forward import Execution, batches
from auditor.api.models import Prepared, prepare
from auditor.api.run import Run
from auditor.api.settings import SelectivitySettings
from auditor.api.stream import PROFILED, stream
from auditor.api.tables import Tables, score_sites
from auditor.api.workspace import check_name, claim, locked, mark_latest, slug, write_manifest
from auditor.data import DEFAULT_FRACTIONS, SPLITS, LabelledData, load_data
from auditor.errors import DataError
from auditor.manifest import Manifest, provenance
from auditor.models import n_outputs, probe_sites
from auditor.models.preprocessing import Preprocessing
from auditor.progress import QUIET, Reporter
from auditor.registry import registry
from auditor.stats.moments import ClassMoments
from auditor.store.blocks import BlockCache
from auditor.store.files import write_csv, write_json
from auditor.store.reader import StoreReader
from auditor.units import Site

STORE = "activations.h5"
# Wide tables of class means stay readable up to here; beyond, they are in moments/ only.
MAX_CELLS = 1_000_000


def profile(
    model: str | nn.Module = "resnet18",
    *,
    data: str | LabelledData = "digits",
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    layers: str | Sequence[str] = "activations",
    metrics: Sequence[str] = ("index",),
    shuffles: int = 1000,
    bootstraps: int = 1000,
    confidence: float = 0.95,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    batch_size: int = 128,
    workers: int | None = None,
    reporter: Reporter = QUIET,
) -> Run:
    """Stream a labelled data set through a model and score every unit's class selectivity.

    Units are scored on the select split; the score split is kept for the held-out index and for later commands. Equal
    settings find the run that is there: a finished one is shown, an interrupted one goes on.

    Parameters
    ----------
    model : str or torch.nn.Module
        ``resnet18``, ``timm:NAME``, ``torchvision:NAME``, ``pkg.module:factory``, or a module.
    data : str or LabelledData
        ``digits``, a folder of class folders, or a data set.
    weights : {"pretrained", "none", "digits"}, optional
        Default: ``digits`` with the embedded digits, else ``pretrained``.
    checkpoint : path, optional
        Weights file (safetensors or a state dict), instead of `weights`.
    preprocessing : Preprocessing, optional
        Default: the model's own evaluation transform.
    layers : str or sequence of str
        ``activations`` (every nonlinearity's output), ``blocks``, globs, ``re:...`` or ``type:...``.
    metrics : sequence of str
        Selectivity metrics; the class selectivity index is always among them.
    shuffles, bootstraps, confidence
        See :class:`auditor.api.settings.SelectivitySettings`.
    fractions : tuple of float
        Shares of the train, select and score splits.
    limit : int, optional
        At most so many images per split, stratified.
    seed : int
        Of weights made here, shuffles and resamples. The splits do not depend on it.
    name : str, optional
        Name of the run's folder; default from model, data and settings.
    runs : path
        Folder of runs.
    device, batch_size, workers
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    Run

    Raises
    ------
    AuditorError
        A subclass that says what is wrong with the input, before work is spent.
    """
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    settings = SelectivitySettings(tuple(metrics), shuffles, bootstraps, confidence)
    for metric in settings.metrics:
        registry().metric(metric)
    if name is not None:
        check_name(name)
    loaded = load_data(data, fractions=fractions) if isinstance(data, str) else data
    if limit is not None:
        loaded = loaded.limited(limit)
    prepared = prepare(
        model,
        loaded,
        weights=weights,
        checkpoint=checkpoint,
        preprocessing=preprocessing,
        layers=layers,
        seed=seed,
        execution=execution,
        reporter=reporter,
    )
    source = {"text": data, "fractions": list(fractions), "limit": limit} if isinstance(data, str) else None
    return profile_prepared(
        prepared,
        loaded,
        source=source,
        layers=layers,
        settings=settings,
        seed=seed,
        folder=None if name is None else Path(runs) / name,
        runs=Path(runs),
        execution=execution,
        reporter=reporter,
    )


def profile_prepared(
    prepared: Prepared,
    data: LabelledData,
    *,
    source: dict[str, Any] | None,
    layers: str | Sequence[str],
    settings: SelectivitySettings,
    seed: int,
    folder: Path | None,
    runs: Path,
    execution: Execution,
    reporter: Reporter,
    extra: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
    beside: Sequence[str] = (),
) -> Run:
    """Profile a model that is ready.

    `extra` joins the identity (a fine-tune's plan, say), `notes` the provenance; `beside` names what an earlier step
    left in the folder.
    """
    began = time.monotonic()
    execution = execution.on(prepared.module)
    for split in PROFILED:
        if len(data.splits[split]) == 0:
            raise DataError(f"The {split} split is empty.", fix="Choose other --fractions.")
    transform = prepared.preprocessing.build()
    reporter.say(f"Images: {data.name} ({data.origin}); {prepared.preprocessing.describe()}.")
    example = next(iter(batches(data, data.splits["select"][:2], transform, execution))).images
    sites = probe_sites(prepared.module, example, layers=layers)
    width = n_outputs(prepared.module, example)
    manifest = Manifest(
        kind="profile",
        identity={
            "model": prepared.identity,
            "preprocessing": prepared.preprocessing.to_dict(),
            "data": data.summary(),
            "layers": layers if isinstance(layers, str) else list(layers),
            "sites": [site.to_dict() for site in sites],
            "selectivity": settings.to_dict(),
            "dtype": "float32",
            "seed": seed,
            **(extra or {}),
        },
        provenance=provenance(
            execution=execution.describe(),
            weights_file=None if prepared.weights_file is None else str(prepared.weights_file),
            data=source,
            classes=list(data.classes),
            **(notes or {}),
        ),
    )
    path = (
        folder or runs / f"{slug(prepared.identity['spec'].split(':')[-1])}-{slug(data.name)}-{manifest.digest()[:8]}"
    )
    with locked(path):
        claimed = claim(path, manifest, beside=beside)
        if claimed.state == "done":
            reporter.say(f"Run: {path} was finished before with these settings; showing it.")
            mark_latest(path)
            return Run(path, model=prepared, data=data)
        reporter.say(f"Run: {path}" + (" (going on where it was stopped)" if claimed.state == "resume" else "."))
        moments = stream(
            prepared.module, data, sites, transform, path / STORE, manifest.digest(), width, execution, reporter
        )
        with StoreReader(path / STORE) as store:
            tables = score_sites(store, moments, sites, data.classes, settings, seed=seed, reporter=reporter)
            accuracy = _accuracy(store, data, settings.confidence)
        _write(path, tables, moments, sites, data, accuracy)
        manifest.complete = True
        manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
        run = Run(path, manifest=manifest, model=prepared, data=data)
        run.save_figures()
        write_manifest(path, manifest)
        mark_latest(path)
    return run


def _accuracy(store: StoreReader, data: LabelledData, confidence: float) -> dict[str, Any] | None:
    """Accuracy on the score split, or None where outputs and classes do not correspond."""
    logits = store.logits
    if logits.shape[1] != len(data.classes):
        return None
    rows = store.splits == SPLITS.index("score")
    estimate, low, high = accuracy_with_interval(logits[rows].argmax(1) == store.labels[rows], confidence)
    return {"split": "score", "n_images": int(rows.sum()), "accuracy": estimate, "low": low, "high": high}


def _write(
    path: Path,
    tables: Tables,
    moments: dict[str, dict[str, ClassMoments]],
    sites: Sequence[Site],
    data: LabelledData,
    accuracy: dict[str, Any] | None,
) -> None:
    write_csv(path / "units.csv", tables.units)
    write_csv(path / "layers.csv", tables.layers)
    cache = BlockCache(path / "moments")
    cache.put("bootstrap", tables.replicates)
    for split, by_site in moments.items():
        cache.put(split, {f"{site}|{k}": v for site, m in by_site.items() for k, v in m.state().items()})
    if len(tables.units) * len(data.classes) <= MAX_CELLS:
        means = np.concatenate([moments["select"][site.name].mean for site in sites], axis=1)
        wide = pd.DataFrame(means.T, columns=list(data.classes))
        wide.insert(0, "unit_id", tables.units["unit_id"], allow_duplicates=True)
        write_csv(path / "class_means.csv", wide)
    write_json(
        path / "summary.json",
        {
            "network": tables.network,
            "accuracy": accuracy,
            "units": len(tables.units),
            "dead": int(tables.units["dead"].sum()),
            "signed": int(tables.units["signed"].sum()),
            "significant": int(tables.layers["significant"].sum()),
            "sites": len(sites),
        },
    )
