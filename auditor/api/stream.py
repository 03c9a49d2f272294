"""One pass of the data through the model: every pixel is read once, every response is reduced inside its hook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.api.forward import Execution, Transform, batches
from auditor.data import SPLITS, LabelledData
from auditor.hooks import capture
from auditor.models.trace import evaluating
from auditor.progress import Reporter
from auditor.stats.moments import ClassMoments
from auditor.store.reader import StoreReader
from auditor.store.writer import StoreWriter
from auditor.units import Site

PROFILED = ("select", "score")


def stream(
    module: nn.Module,
    data: LabelledData,
    sites: Sequence[Site],
    transform: Transform,
    path: Path,
    digest: str,
    width: int,
    execution: Execution,
    reporter: Reporter,
) -> dict[str, dict[str, ClassMoments]]:
    """Run the select and score splits through a model once, into the store and into class moments.

    Parameters
    ----------
    module : torch.nn.Module
        Run in evaluation mode; its flags are put back.
    data : LabelledData
    sites : sequence of Site
    transform : callable
        From an image to the model's input.
    path : Path
        The store's file; an unfinished one goes on after its committed rows.
    digest : str
        Identity of the run, kept in the file.
    width : int
        Number of outputs.
    execution : Execution
    reporter : Reporter

    Returns
    -------
    dict
        Split, then site name, to class moments.
    """
    order = np.concatenate([data.splits[split] for split in PROFILED])
    codes = np.concatenate([np.full(len(data.splits[s]), SPLITS.index(s), dtype=np.int8) for s in PROFILED])
    moments = {s: {site.name: ClassMoments(len(data.classes), site.n_units) for site in sites} for s in PROFILED}
    with (
        # Not inference mode: what a module caches in it could not be trained with later.
        evaluating(module),
        torch.no_grad(),
        StoreWriter(
            path,
            sites={site.name: site.n_units for site in sites},
            n_rows=len(order),
            n_outputs=width,
            attrs={"digest": digest},
            id_bytes=max(len(data.ids[i].encode()) for i in order),
        ) as store,
        reporter.task("Profiling", len(order), "images") as task,
        capture(module, sites) as captured,
    ):
        resumed = done = store.committed
        if not store.complete:
            task.advance(done)
            for batch in batches(data, order[done:], transform, execution):
                logits = module(batch.images).float().cpu().numpy()
                responses = {name: r.cpu().numpy() for name, r in captured.take().items()}
                rows = slice(done, done + len(batch.index))
                done = rows.stop
                store.append(
                    ids=[data.ids[i] for i in batch.index],
                    labels=data.labels[batch.index],
                    splits=codes[rows],
                    logits=logits,
                    responses=responses,
                )
                _update(moments, responses, data.labels[batch.index], codes[rows])
                task.advance(len(batch.index))
            store.finish()
    if resumed:
        _read_back(path, moments, sites, resumed)
    return moments


def _update(
    moments: dict[str, dict[str, ClassMoments]],
    responses: dict[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    codes: NDArray[np.int8],
) -> None:
    for split in PROFILED:
        mine = codes == SPLITS.index(split)
        if mine.any():
            for name, values in responses.items():
                moments[split][name].update(values[mine], labels[mine])


def _read_back(
    path: Path, moments: dict[str, dict[str, ClassMoments]], sites: Sequence[Site], rows: int, step: int = 4096
) -> None:
    """Add rows that an earlier process wrote; all others were counted while they were in memory."""
    with StoreReader(path) as store:
        labels, codes = store.labels, store.splits
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            for site in sites:
                _update(moments, {site.name: store.responses(site.name, part)}, labels[part], codes[part])
