"""The verb ``sweep``: fine-tune with many alphas and seeds, and say what selectivity costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from auditor.api.agreement import check_agreement
from auditor.api.audit_settings import Margins
from auditor.api.forward import Execution
from auditor.api.heads import CHOICES
from auditor.api.run import Run
from auditor.api.sweep_board import KIND, Board
from auditor.api.sweep_grid import grid, identity, plans
from auditor.api.sweep_processes import spread
from auditor.api.sweep_ranks import share_out
from auditor.api.sweep_result import Failed, Sweep
from auditor.api.sweep_tables import Member
from auditor.api.sweep_work import work
from auditor.api.training_data import check_cache, check_classes
from auditor.api.tuning_settings import regularization
from auditor.api.workspace import check_name, slug
from auditor.distributed import current
from auditor.distributed.reporters import of_rank
from auditor.errors import ModelError, OptionError
from auditor.manifest import Manifest, provenance
from auditor.progress import QUIET, Reporter
from auditor.training import TrainingPlan, check_precision

__all__ = ["Failed", "Member", "Sweep", "sweep"]

MARGIN = Margins().inferiority


def sweep(
    run: Run,
    *,
    alphas: Iterable[float],
    seeds: int | Sequence[int] = 3,
    name: str | None = None,
    processes: int = 1,
    margin: float = MARGIN,
    reporter: Reporter = QUIET,
    **training: Any,
) -> Sweep:
    """Fine-tune a run's network with every alpha and every seed, and compare each alpha with alpha 0.

    Each network is a run of its own in ``<sweep>/networks``. What is finished is skipped; a training that was killed
    goes on where it was; one that fails is recorded, does not stop the others, and is tried again by the next call.
    Alphas and seeds that are given later join the sweep. The same call may be made by several processes, on one machine
    or on several that share the folder: each takes what is free. So do the ranks of a launcher (``torchrun``): each
    trains whole networks, as a process of its own does.

    Parameters
    ----------
    run : Run
        Where every training starts.
    alphas : iterable of float
        Weights in ``loss = CE - alpha * SI``; 0, the control, is added.
    seeds : int or sequence of int
        A count stands for 0, 1, 2, ...
    name : str, optional
        Name of the sweep's folder, beside the run's.
    processes : int
        Train so many networks at a time, each in a process of its own with its share of the threads. The order of
        sums depends on the number of threads, and with it the last digits of the numbers.
    margin : float
        Loss of accuracy that still counts as no cost.
    reporter : Reporter
    **training
        Options of :func:`auditor.finetune`, the same for all networks.

    Returns
    -------
    Sweep
        With the networks that could be trained; see :attr:`Sweep.failed` for the others.

    Raises
    ------
    OptionError, UnknownNameError, ModelError, DataError
        If no network could be trained so; nothing has been written then.
    RunError
        If the folder holds other work.
    StoreError
        If the disk is full. No network counts as failed for it, and the same call goes on where this one was stopped.
    """
    chosen = [float(alpha) for alpha in alphas]
    cells = grid(chosen, seeds)
    if processes < 1:
        raise OptionError("A sweep needs a process.", wanted="1 or more", got=str(processes))
    world, reporter = current(), of_rank(reporter)
    if processes > 1 and world.several:
        raise OptionError(
            "A sweep is divided among the processes of a launcher, or starts its own, not both.",
            wanted="processes=1",
            got=f"{processes} in each of {world.size} ranks",
        )
    if not 0 <= margin < 1:
        raise OptionError("The margin is a share of images.", wanted="such as 0.01", got=str(margin))
    if name is not None:
        check_name(name)
    planned = plans(cells, training)
    with world.first("data"):
        _check_trainable(run, planned[0], training, reporter if processes > 1 else QUIET)
    if processes > 1:
        _check_loadable(run)
    model, data = (run.manifest.identity[part] for part in ("model", "data"))
    manifest = Manifest(
        kind=KIND,
        identity=identity(run, planned[0], training),
        provenance=provenance(
            parent=str(run.path), model=model["spec"], data=data["name"], confidence=run.confidence, cells=[]
        ),
    )
    asked = {**manifest.identity, "cells": list(map(str, cells))}
    check_agreement(world, Manifest(KIND, asked))
    base = str(model["spec"]).split(":")[-1]
    path = run.path.parent / (name or f"sweep-{slug(base)}-{slug(data['name'])}-{manifest.digest()[:8]}")
    board = Board(path)
    if world.main:
        board.join(manifest, cells)
    # Before any rank begins: what fails from here on is no earlier failure.
    before: dict[str, str] = world.share("failures", board.failures(cells) if world.main else None)
    if 0.0 not in chosen:
        reporter.say("alpha 0 is added: it is what the others are compared with.")
    finished = sum(board.done(cell) is not None for cell in cells)
    reporter.say(
        f"Sweep: {path}, {len(cells)} networks" + (f", {finished} of them finished before." if finished else ".")
    )
    if world.several:
        share_out(run, board, cells, training, before=before, world=world, reporter=reporter)
    elif processes == 1:
        work(run, board, cells, training, before=before, reporter=reporter,
             begins=lambda cell: reporter.say(f"Network {cells.index(cell) + 1} of {len(cells)}: {cell}."))  # fmt: skip
    else:
        spread(run, board, cells, training, before=before, processes=processes, reporter=reporter)
    result = Sweep(path, parent=run)
    if world.main:
        result.write(margin=margin)
    world.barrier("sweep written")
    return result if world.main else Sweep(path, parent=run)


def _check_trainable(run: Run, plan: TrainingPlan, training: dict[str, Any], reporter: Reporter) -> None:
    """What no training could do without, said before the first one."""
    check_cache(training.get("cache_images", "auto"))
    data, limit = run.data(), training.get("limit")
    learned = data if limit is None else data.limited(limit)
    check_classes(learned.labels[learned.splits["train"]], data.classes, reporter)
    if run.summary["accuracy"] is None:
        raise ModelError(
            "The model's outputs are not the classes of the data, so it cannot be trained on them.",
            wanted=f"{len(run.classes)} outputs, one per class",
            fix=f"{CHOICES}, or profile one with one output per class (--weights none, --checkpoint FILE).",
        )
    regularization(run, plan, reporter)
    execution = Execution(**{name: training[name] for name in ("device", "workers", "max_bad") if name in training})
    check_precision(plan, execution.torch_device())


def _check_loadable(run: Run) -> None:
    """Processes of their own can only train what can be loaded again."""
    given = {
        "data": run.manifest.provenance.get("data") is None,
        "model": str(run.manifest.identity["model"]["spec"]).startswith("module:"),
    }
    if any(given.values()):
        raise OptionError(
            f"The run's {' and '.join(part for part, yes in given.items() if yes)} came from Python, so other "
            "processes cannot load the run.",
            fix="Sweep with processes=1.",
        )
