"""One pass of the data through the model: every pixel is read once, every response is reduced inside its hook."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.api.forward import Execution, Transform, batches
from auditor.api.settings import StoreSettings
from auditor.api.skips import SKIPPED, Skips
from auditor.api.storing import shard_rows
from auditor.api.tally import PROFILED, Moments, Tally, read_back
from auditor.data import SPLITS, LabelledData, Skipped
from auditor.errors import DataError, RunError
from auditor.hooks import capture
from auditor.models.trace import evaluating
from auditor.progress import Reporter, Task
from auditor.stats.moments import ClassMoments
from auditor.store.reader import StoreReader
from auditor.store.space import check_memory, estimate_bytes, format_bytes, free_bytes
from auditor.store.writer import StoreWriter
from auditor.units import Site

SHOWN = 5


class Streamed(NamedTuple):
    """What came of a pass.

    Attributes
    ----------
    moments : dict
        Split, then site name, to class moments.
    responses : dict of str to (N, U) ndarray, or None
        Responses that are not stored, in the order of the store's rows.
    """

    moments: Moments
    responses: dict[str, NDArray[Any]] | None


class HeldResponses:
    """Responses in memory, as many rows as there is room for.

    Raises
    ------
    StoreError
        If they do not fit.
    """

    def __init__(self, units: Mapping[str, int], n_rows: int, dtype: str) -> None:
        check_memory(n_rows * sum(units.values()) * np.dtype(dtype).itemsize)
        self._rows = {name: np.empty((n_rows, width), dtype) for name, width in units.items()}
        self._filled = 0

    def add(self, responses: Mapping[str, NDArray[Any]]) -> None:
        """Add a batch."""
        stop = self._filled
        for name, values in responses.items():
            stop = self._filled + len(values)
            self._rows[name][self._filled : stop] = values
        self._filled = stop

    def take(self) -> dict[str, NDArray[Any]]:
        """Hand over what was added."""
        return {name: rows[: self._filled] for name, rows in self._rows.items()}


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
    *,
    storing: StoreSettings | None = None,
    part: slice | None = None,
    task: Task | None = None,
) -> Streamed:
    """Run the select and score splits through a model once, into the store and into class moments.

    Images that cannot be read are left out of both and listed in ``skipped.csv`` beside the store, which then holds
    fewer rows than it has room for.

    Parameters
    ----------
    module : torch.nn.Module
        Run in evaluation mode; its flags are put back.
    data : LabelledData
    sites : sequence of Site
    transform : callable
        From an image to the model's input.
    path : Path
        The store's file; an unfinished one goes on after its committed rows, unless the responses are not in it.
    digest : str
        Identity of the run, kept in the file.
    width : int
        Number of outputs.
    execution : Execution
    reporter : Reporter
    storing : StoreSettings, optional
        What is kept, and which shard of the images is meant.
    part : slice, optional
        Which images of the pass the shard holds; default: its equal share.
    task : Task, optional
        Open already, for work that others share; nothing is said then.

    Returns
    -------
    Streamed

    Raises
    ------
    DataError
        If an image, a response or a logit is not finite, too many images cannot be read, or all of a class.
    RunError
        If what an earlier process left does not fit together.
    """
    storing = storing or StoreSettings()
    whole_pass = order_of(data)
    order = shard_rows(whole_pass, storing) if part is None else whole_pass[part]
    if len(order) == 0:
        raise DataError("The shard has no images.", wanted=f"at most {len(data)} shards", got=str(storing.shard))
    stored, maps, held = layout(sites, len(order), storing)
    if held is not None:
        path.unlink(missing_ok=True)
    if not path.exists() and task is None:
        reporter.say(size_line(sites, len(order), width, maps, path, storing))
    code_of = np.full(len(data), -1, dtype=np.int8)
    for split in PROFILED:
        code_of[data.splits[split]] = SPLITS.index(split)
    # How many may be bad is asked of the whole pass where its parts are joined: they may all lie in one.
    n_asked = len(order) if part is None else len(whole_pass)
    skips = Skips(data, n_asked, path=path.with_name(SKIPPED), max_bad=execution.max_bad)
    moments = {s: {site.name: ClassMoments(len(data.classes), site.n_units) for site in sites} for s in PROFILED}
    with (
        # Not inference mode: what a module caches in it could not be trained with later.
        evaluating(module),
        torch.no_grad(),
        StoreWriter(
            path,
            sites=stored,
            n_rows=len(order),
            n_outputs=width,
            dtype=storing.dtype if stored else "float32",  # a file without responses has no type of theirs
            # Whole maps of a batch are large; one waits while the next is computed.
            queue_size=1 if maps else 4,
            attrs={"digest": digest, **({} if storing.shard is None else {"shard": storing.shard})},
            id_bytes=max(len(data.ids[i].encode()) for i in order),
            maps=maps,
        ) as store,
        nullcontext(task) if task is not None else reporter.task("Profiling", len(order), "images") as task,
        capture(module, sites, whole=getattr(torch, storing.dtype) if maps else None) as captured,
    ):
        tally = Tally(moments)
        if store.committed:
            with StoreReader(path) as earlier:
                read_back(earlier, tally, sites)
        if not store.complete:
            start = _next_image(order, data, skips.rows, path, store.committed, execution.batch_size)
            task.advance(start)
            for batch in batches(data, order[start:], transform, execution, skips=skips):
                logits = module(batch.images).float().cpu().numpy()
                responses = {name: r.cpu().numpy() for name, r in captured.take().items()}
                ids = [data.ids[i] for i in batch.index]
                _check_finite(batch.images, responses, logits, ids)
                labels, codes = data.labels[batch.index], code_of[batch.index]
                whole = {name: values.numpy() for name, values in captured.take_maps().items()}
                kept = responses if held is None else {}
                store.append(ids=ids, labels=labels, splits=codes, logits=logits, responses=kept, maps=whole)
                with np.errstate(over="ignore"):  # the store has refused what does not fit; without one, it is below
                    responses = {name: values.astype(storing.dtype, copy=False) for name, values in responses.items()}
                if held is not None:
                    _check_finite(batch.images, responses, logits, ids)
                    held.add(responses)
                tally.add(responses, labels, codes)
                task.advance(len(batch.index))
            store.finish()
        tally.finish()
    if part is None:
        skips.announce(reporter)
    if skips.all and storing.shard is None:
        check_classes(data, skips.all, moments)
    return Streamed(moments, None if held is None else held.take())


def order_of(data: LabelledData) -> NDArray[np.int64]:
    """The images of a pass, in their order."""
    return np.concatenate([data.splits[split] for split in PROFILED])


def size_line(
    sites: Sequence[Site],
    n_rows: int,
    width: int,
    maps: Mapping[str, tuple[int, ...]],
    path: Path,
    storing: StoreSettings,
) -> str:
    """Say how large the store will be, and how much room there is."""
    units = {site.name: site.n_units for site in sites}
    what = f"{n_rows:,} images x {sum(units.values()):,} units, {storing.dtype}" + (", with whole maps" if maps else "")
    size = estimate_bytes(n_rows=n_rows, sites=units, n_outputs=width, dtype=storing.dtype, maps=maps)
    if storing.keep == "none":
        return f"Responses: {format_bytes(size)} in memory, not stored ({what})."
    return f"Store: {format_bytes(size)} ({what}); {format_bytes(free_bytes(path))} are free."


def layout(
    sites: Sequence[Site], n_rows: int, storing: StoreSettings
) -> tuple[dict[str, int], dict[str, tuple[int, ...]], HeldResponses | None]:
    """Which responses and maps go into the file, and what holds the responses that do not."""
    units = {site.name: site.n_units for site in sites}
    if storing.keep == "none":
        return {}, {}, HeldResponses(units, n_rows, storing.dtype)
    return units, {site.name: site.shape for site in sites} if storing.keep == "full" else {}, None


def _next_image(
    order: NDArray[np.int64],
    data: LabelledData,
    skipped: Collection[int],
    path: Path,
    committed: int,
    batch_size: int,
) -> int:
    """Find the place in `order` after the committed rows.

    It is the beginning of a batch wherever that is possible, so that the images left meet in the same batches as if
    the work had never stopped.
    """
    if committed == 0:
        return 0
    kept = np.flatnonzero(~np.isin(order, list(skipped)))
    with StoreReader(path) as store:
        if store.ids[:committed] != tuple(data.ids[i] for i in order[kept[:committed]]):
            raise RunError(
                f"{path} and {path.with_name(SKIPPED)} do not fit together.",
                wanted="the images in their order, but for those that were skipped",
                fix="Profile again under another --name.",
            )
    start = int(kept[committed]) if committed < len(kept) else len(order)
    aligned = start // batch_size * batch_size
    return aligned if committed == np.searchsorted(kept, aligned) else start


def _check_finite(
    images: torch.Tensor, responses: dict[str, NDArray[np.float32]], logits: NDArray[np.float32], ids: Sequence[str]
) -> None:
    """Stop at the first place, in network order, where a number is NaN or infinite."""
    if all(np.isfinite(values).all() for values in (*responses.values(), logits)) and bool(images.isfinite().all()):
        return
    pictures = images.flatten(1).isfinite().all(1).cpu().numpy()
    places: dict[str, NDArray[np.bool_]] = {"The preprocessed images": pictures}
    for name, values in responses.items():
        places[f"The responses of layer {name!r}"] = ~np.any(~np.isfinite(values), axis=1)
    places["The logits"] = ~np.any(~np.isfinite(logits), axis=1)
    where, finite = next((where, finite) for where, finite in places.items() if not finite.all())
    bad = [name for name, good in zip(ids, finite, strict=True) if not good]
    shown = ", ".join(bad[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    raise DataError(
        f"{where} hold NaN or infinite values.",
        wanted="finite numbers",
        got=f"{len(bad)} of the {len(ids)} images of a batch: {shown}",
        fix="Check the preprocessing (std of 0?)."
        if where == "The preprocessed images"
        else "Check the model's weights and the precision it runs in; what comes before is finite.",
    )


def check_classes(data: LabelledData, skipped: Sequence[Skipped], moments: Moments) -> None:
    """Refuse to go on where a class has lost all its images.

    Raises
    ------
    DataError
        Naming the class.
    """
    for split in PROFILED:
        wanted = np.bincount(data.labels[data.splits[split]], minlength=len(data.classes))
        left = next(iter(moments[split].values())).count
        for label in np.flatnonzero((wanted > 0) & (left == 0)):
            raise DataError(
                f"None of the {wanted[label]} images of the class {data.classes[label]!r} in the {split} split can "
                "be read.",
                got=next(one.reason for one in skipped if one.split == split),
                fix="Repair or remove the files; they are listed in the run's skipped.csv.",
            )
