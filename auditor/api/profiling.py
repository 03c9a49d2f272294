"""From a model that is ready to a finished run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.ablation import accuracy_with_interval
from auditor.api.agreement import check_agreement
from auditor.api.forward import Execution, first_images
from auditor.api.models import Prepared
from auditor.api.profile_ranks import (
    check_ranks,
    clear,
    merged_moments,
    score_shared,
    stream_shards,
    user_shards,
)
from auditor.api.run import Run
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.api.shard_plan import ShardPlan
from auditor.api.skips import SKIPPED, Skips, read_skipped
from auditor.api.storing import (
    STORE,
    Held,
    Responses,
    join_skipped,
    missing_shards,
    open_store,
    shard_file,
    store_files,
)
from auditor.api.stream import Streamed, check_classes, layout, order_of, size_line, stream
from auditor.api.tables import Tables, score_sites
from auditor.api.tally import PROFILED, Moments
from auditor.api.workspace import claim, locked, mark_latest, slug, write_manifest
from auditor.data import SPLITS, LabelledData
from auditor.distributed import World, current
from auditor.distributed.reporters import of_rank
from auditor.errors import DataError, RunError
from auditor.manifest import Manifest, provenance
from auditor.models import n_outputs, probe_sites
from auditor.models.head import raw_outputs
from auditor.progress import QUIET, Reporter, Task
from auditor.stats.moments import ClassMoments
from auditor.store.blocks import BlockCache
from auditor.store.compress import compress as compress_store
from auditor.store.files import write_csv, write_json
from auditor.store.space import format_bytes
from auditor.units import Site

# Wide tables of class means stay readable up to here; beyond, they are in moments/ only.
MAX_CELLS = 1_000_000


def profile_prepared(
    prepared: Prepared,
    data: LabelledData,
    *,
    source: dict[str, Any] | None,
    layers: str | Sequence[str],
    settings: SelectivitySettings,
    storing: StoreSettings,
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
    world, reporter = current(), of_rank(reporter)
    check_ranks(world, storing)
    execution = execution.on(prepared.module)
    if len(data.splits["select"]) == 0:
        raise DataError("The select split is empty.", fix="Choose other --fractions.")
    if len(data.splits["score"]) == 0:
        reporter.say("There is no score split: units are scored, but no images are left to test claims on (ablation).")
    transform = prepared.preprocessing.build()
    reporter.say(f"Images: {data.name} ({data.origin}); {prepared.preprocessing.describe()}.")
    example = first_images(data, data.splits["select"], transform, execution)
    with raw_outputs(prepared.module):
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
            "store": storing.keep,
            "dtype": storing.dtype,
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
    check_agreement(world, manifest)
    path = (
        folder or runs / f"{slug(prepared.identity['spec'].split(':')[-1])}-{slug(data.name)}-{manifest.digest()[:8]}"
    )

    def begin() -> Run | None:
        """Take the folder; the run if it is finished already."""
        claimed = claim(path, manifest, beside=beside)
        if claimed.state == "done":
            reporter.say(f"Run: {path} was finished before with these settings; showing it.")
            _compress(path, storing, reporter)
            mark_latest(path)
            return Run(path, model=prepared, data=data)
        if prepared.head is not None:
            prepared.head.save(path, manifest.digest())
        reporter.say(f"Run: {path}" + (" (going on where it was stopped)." if claimed.state == "resume" else "."))
        return None

    def pass_through(
        file: Path, storing: StoreSettings = storing, part: slice | None = None, task: Task | None = None
    ) -> Streamed:
        """Stream the images, or a shard of them, through the model."""
        module, digest = prepared.module, manifest.digest()
        return stream(
            module, data, sites, transform, file, digest, width, execution, reporter,
            storing=storing, part=part, task=task,
        )  # fmt: skip

    if storing.shard is not None:
        with locked(path, wait=True):
            finished = begin()
        if finished is not None:
            return finished
        if ShardPlan.of(path) is not None:
            raise RunError(f"{path} was divided by the processes that began it.", fix="Go on without --shard.")
        missing_shards(path, storing)
        pass_through(shard_file(path, storing))
        missing, count = missing_shards(path)
        if missing:
            numbers = ", ".join(map(str, missing))
            reporter.say(f"Shard {storing.shard} is complete; of {count} shards these are not yet: {numbers}.")
            return Run(path, manifest=manifest, model=prepared, data=data)
    with locked(path, wait=storing.shard is not None) if world.main else nullcontext():
        finished = None
        if world.main:
            finished = begin() if storing.shard is None else _finished(path, prepared, data)
        if world.share("finished", finished is not None):
            return finished or Run(path, model=prepared, data=data)
        plan = _divide(path, data, sites, width, storing, execution, world, reporter)
        held = None
        if plan is not None:
            stream_shards(plan, pass_through, storing, world, reporter)
        if plan is not None or user_shards(path):
            moments = _joined(path, data, sites, execution, world, reporter)
        else:
            moments, held = pass_through(path / STORE)
        with open_store(path) as store:
            source_of = store if held is None else Held(store.labels, store.splits, store.logits, held)
            known = None
            if world.several:
                known = score_shared(
                    path, store, moments, sites, len(data.classes), settings, world, reporter, seed=seed
                )  # fmt: skip
            if world.main:
                manifest.provenance["skipped"] = [asdict(one) for one in read_skipped(path / SKIPPED)]
                tables = score_sites(
                    source_of, moments, sites, data.classes, settings,
                    seed=seed, reporter=QUIET if known else reporter, known=known,
                )  # fmt: skip
                accuracy = _accuracy(store, data, settings.confidence, mapped=prepared.mapped)
        if world.main:
            _compress(path, storing, reporter)
            head = None if prepared.head is None else {**prepared.head.report, "held_out": accuracy}
            _write(path, tables, moments, sites, data, accuracy, head)
            clear(path)
            manifest.complete = True
            manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
            run = Run(path, manifest=manifest, model=prepared, data=data)
            run.save_figures()
            write_manifest(path, manifest)
            mark_latest(path)
    world.barrier("profiled")
    return run if world.main else Run(path, model=prepared, data=data)


def _divide(
    path: Path,
    data: LabelledData,
    sites: Sequence[Site],
    width: int,
    storing: StoreSettings,
    execution: Execution,
    world: World,
    reporter: Reporter,
) -> ShardPlan | None:
    """Find or make the plan of shards of several processes; None if the run is made in another way."""
    bounds = None
    if world.main and storing.shard is None and not user_shards(path):
        plan, order = ShardPlan.of(path), order_of(data)
        if plan is None and world.several:
            plan = ShardPlan.begin(path, order, data, size=world.size, batch_size=execution.batch_size)
            _stored, maps, _held = layout(sites, 1, storing)
            reporter.say(size_line(sites, len(order), width, maps, path, storing))
            shards = "1 shard" if plan.count == 1 else f"{plan.count} shards"
            reporter.say(f"Processes: {world.size}, which share {shards} of the images.")
        if plan is not None:
            plan.adopt(order, data)
            bounds = plan.bounds
    bounds = world.share("bounds", bounds)
    return None if bounds is None else ShardPlan(path, tuple(bounds))


def _finished(path: Path, prepared: Prepared, data: LabelledData) -> Run | None:
    """The run, if another process finished it meanwhile."""
    run = Run(path, model=prepared, data=data)
    return run if run.manifest.complete else None


def _joined(
    path: Path, data: LabelledData, sites: Sequence[Site], execution: Execution, world: World, reporter: Reporter
) -> Moments:
    """Class moments from all shards.

    Raises
    ------
    RunError
        If some are missing.
    DataError
        If they passed over too many images together, or all of a class.
    """
    missing, count = missing_shards(path)
    if missing:
        raise RunError(
            f"{path} is made in {count} shards, and some are missing: {', '.join(map(str, missing))}.",
            fix=f"Profile them: --shard {missing[0]}/{count}.",
        )
    if world.main:
        join_skipped(path)
    world.barrier("skipped images")
    n_images = sum(len(data.splits[split]) for split in PROFILED)
    skips = Skips(data, n_images, path=path / SKIPPED, max_bad=execution.max_bad)
    if ShardPlan.of(path) is not None:
        skips.announce(reporter)
    moments = merged_moments(path, sites, len(data.classes))
    if skips.all:
        check_classes(data, skips.all, moments)
    return moments


def _compress(path: Path, storing: StoreSettings, reporter: Reporter) -> None:
    if storing.compression is None:
        return
    for file in store_files(path):
        before = file.stat().st_size
        compress_store(file, storing.compression)
        after = file.stat().st_size
        if after != before:
            reporter.say(f"Compressed {file}: {format_bytes(before)} to {format_bytes(after)}.")


def _accuracy(store: Responses, data: LabelledData, confidence: float, *, mapped: bool) -> dict[str, Any] | None:
    """Accuracy on the score split, or on select without one; None where outputs and classes do not correspond."""
    logits = store.logits
    if not mapped and logits.shape[1] != len(data.classes):
        return None
    correct, codes = logits.argmax(1) == store.labels, store.splits

    def within(rows: NDArray[np.bool_]) -> dict[str, Any]:
        estimate, low, high = accuracy_with_interval(correct[rows], confidence)
        return {"n_images": int(rows.sum()), "accuracy": estimate, "low": low, "high": high}

    split = next(split for split in reversed(PROFILED) if (codes == SPLITS.index(split)).any())
    return {"split": split, **within(codes == SPLITS.index(split)), "profiled": within(np.ones_like(correct))}


def _write(
    path: Path,
    tables: Tables,
    moments: dict[str, dict[str, ClassMoments]],
    sites: Sequence[Site],
    data: LabelledData,
    accuracy: dict[str, Any] | None,
    head: dict[str, Any] | None,
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
            **({} if head is None else {"head": head}),
            "units": len(tables.units),
            "dead": int(tables.units["dead"].sum()),
            "signed": int(tables.units["signed"].sum()),
            "significant": int(tables.layers["significant"].sum()),
            "sites": len(sites),
        },
    )
