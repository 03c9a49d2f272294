"""Measure units one by one, block by block."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from auditor.ablation import PairEffects, class_effects, effect_table, rank_agreement
from auditor.api.bench import Bench, unit_blocks
from auditor.api.engines import ablate_effects
from auditor.api.pieces import Arrays
from auditor.distributed import current
from auditor.distributed.reporters import together
from auditor.progress import Reporter, Task
from auditor.store.blocks import BlockCache

BLOCK = 128
PIECES, LEAST_IMAGES = 256, 16
"""Into how many pieces the work is cut for several ranks, and how many images each has at least."""
_FIELDS = ("target_logit_drop", "loss_change", "kl", "prediction")
Rows = NDArray[np.int64]


def blocks_of(bench: Bench, rows: Rows) -> list[Rows]:
    """Blocks of units, in the network's order; each is measured on all images and then kept."""
    ordered = np.sort(rows)
    return list(unit_blocks(ordered, bench.units["site"].iloc[ordered].astype(str).tolist(), BLOCK))


def measure_units(bench: Bench, rows: Rows, cache: BlockCache, reporter: Reporter) -> list[str]:
    """Ablate every unit of `rows` on every image and keep its effects on each image; all ranks do it together.

    Parameters
    ----------
    bench : Bench
    rows : ndarray of int64
        Rows of the unit table, the same on all ranks.
    cache : BlockCache
        Takes one block after the other, with the arrays of :class:`PairEffects` and ``row``; blocks that are there
        are not measured again. Sites without replay are noted there as ``fallbacks``.

    Returns
    -------
    list of str
        Keys of the blocks.
    """
    world, every = current(), np.arange(len(bench.images), dtype=np.int64)
    blocks = blocks_of(bench, rows)
    keys = [f"units-{number:06d}" for number in range(len(blocks))]
    folders = [cache.folder / "pieces" / key for key in keys]
    with together(reporter, "Ablating", len(rows), "units") as task:
        missing = []
        for number in world.take("blocks", len(blocks)):
            block = cache.get(keys[number])
            if block is None:
                missing.append(number)
            else:
                _note_fallbacks(bench, block)
                task.advance(len(blocks[number]))
        missing = sorted(number for one in world.gather("missing blocks", missing) for number in one)
        pieces = cut(len(blocks), len(every))
        if world.several and pieces > 1:
            at_hand = [blocks[number] for number in missing], [folders[number] for number in missing]
            measure_parts(bench, at_hand[0], every, at_hand[1], cut=pieces, task=task)
        for taken in world.take("missing blocks", len(missing)):
            number = missing[taken]
            found = measure_rest(bench, blocks[number], every, folders[number], task)
            cache.put(keys[number], {"row": blocks[number], **found})
            shutil.rmtree(folders[number], ignore_errors=True)
    if world.main:
        shutil.rmtree(cache.folder / "pieces", ignore_errors=True)
    _share_fallbacks(bench)
    return keys


def cut(n_blocks: int, n_images: int) -> int:
    """Into how many pieces each of so many blocks is cut, so that several ranks have enough to share."""
    return min(-(-PIECES // max(n_blocks, 1)), max(1, n_images // LEAST_IMAGES))


def measure_parts(
    bench: Bench, blocks: Sequence[Rows], images: Rows, folders: Sequence[Path], *, cut: int, task: Task | None = None
) -> None:
    """Measure blocks of units on some images each time, whichever rank is free; :func:`measure_rest` joins that.

    Parameters
    ----------
    bench : Bench
    blocks : sequence of ndarray of int64
        In the network's order, which is that of cost: the later a site, the less of the network runs again.
    images : ndarray of int64
        Places in the split.
    folders : sequence of Path
        For each block, takes what is measured; what is there is not measured again.
    cut : int
        Pieces of each block, at most: a piece is made of whole batches.
    task : Task, optional
    """
    world = current()
    for taken in world.take("pieces", cut * len(blocks)):
        block, number = blocks[taken // cut], taken % cut
        # Whole batches, so that images meet in the same batches as without pieces.
        size = bench.engine.images_per_batch([job.site for job in bench.jobs(block)], len(block))
        n_batches = -(-len(images) // size)
        start, stop = (min(n_batches * edge // cut * size, len(images)) for edge in (number, number + 1))
        if start == stop:
            continue
        cache, key = BlockCache(folders[taken // cut]), f"{start}-{stop}"
        piece = cache.get(key)
        if piece is None:
            cache.put(key, _arrays(bench, block, measure_block(bench, block, images[start:stop], task)))
        elif task is not None:
            task.advance(len(block) * (stop - start) / len(bench.images))
    world.barrier("pieces")


def measure_rest(bench: Bench, block: Rows, images: Rows, folder: Path, task: Task | None = None) -> Arrays:
    """Effects of units on images: what pieces in `folder` hold is taken from there, all else is measured.

    Returns
    -------
    dict of str to ndarray
        Arrays of :class:`PairEffects`, shape (units, images), and ``fallbacks`` if there are any.
    """
    pieces = BlockCache(folder)
    there = np.zeros(len(images), dtype=bool)
    found: Arrays = {}
    for key in pieces.keys():  # noqa: SIM118
        piece = pieces.get(key)
        if piece is None:
            continue
        _note_fallbacks(bench, piece)
        start, _, stop = key.partition("-")
        here = slice(int(start), int(stop))
        there[here] = True
        _fill(found, piece, here, len(images))
    if not there.all():
        rest = np.flatnonzero(~there)
        _fill(found, measure_block(bench, block, images[rest], task).to_arrays(), rest, len(images))
    return _arrays(bench, block, PairEffects.from_arrays(found))


def _fill(whole: Arrays, part: Arrays, where: Any, n_images: int) -> None:
    for name in _FIELDS:
        if name not in whole:
            whole[name] = np.empty((len(part[name]), n_images), dtype=part[name].dtype)
        whole[name][:, where] = part[name]


def _arrays(bench: Bench, block: Rows, effects: PairEffects) -> Arrays:
    """Effects to be kept, and why some of their sites were not replayed: a later process would not know."""
    known = bench.engine.fallbacks
    names = dict.fromkeys(bench.units["site"].iloc[block].astype(str))
    fallbacks = [(name, known[name]) for name in names if name in known]
    return {**effects.to_arrays(), **({"fallbacks": np.array(fallbacks)} if fallbacks else {})}


def _note_fallbacks(bench: Bench, block: Arrays) -> None:
    bench.engine.fallbacks.update({str(name): str(why) for name, why in block.get("fallbacks", ())})


def _share_fallbacks(bench: Bench) -> None:
    """Tell all ranks what each has found."""
    world, known = current(), bench.engine.fallbacks
    if world.several:
        found = {name: why for one in world.gather("fallbacks", known) for name, why in one.items()}
        known.clear()
        known.update({name: found[name] for name in bench.sites if name in found})


def measure_block(bench: Bench, rows: Rows, images: Rows | None = None, task: Task | None = None) -> PairEffects:
    """Effects of units, in the order of `rows`, on images of the split (default: all)."""
    jobs = bench.jobs(rows)
    # Jobs hold units by site: where each of their units is in `rows`.
    names = bench.units["site"].to_numpy()[rows]
    places = [np.flatnonzero(names == job.site.name) for job in jobs]
    n_images, n_all = len(bench.images) if images is None else len(images), len(bench.images)
    size = bench.engine.images_per_batch([job.site for job in jobs], len(rows))
    advance: Callable[[float], None] | None = None
    if task is not None:
        advance = lambda pairs: task.advance(pairs / n_all)  # noqa: E731
    kinds = dict.fromkeys(_FIELDS[:3], np.float32) | {"prediction": np.int32}
    found = {name: np.empty((len(rows), n_images), dtype=kind) for name, kind in kinds.items()}
    start = 0
    for part in bench.images.parts(size, images):
        here = slice(start, start + len(part.rows))
        start = here.stop
        effects = ablate_effects(
            bench.engine, part.images, part.labels, jobs, bench.edit,
            donors=part.donors, noise=bench.noise(part), advance=advance,
        )  # fmt: skip
        for place, own in zip(places, effects, strict=True):
            for name in _FIELDS:
                found[name][place, here] = own[name]
    return PairEffects.from_arrays(found)


def table_of_units(
    cache: BlockCache,
    keys: list[str],
    intact_prediction: Rows,
    labels: Rows,
    preferred: NDArray[np.int64],
    *,
    n_classes: int,
    confidence: float,
) -> pd.DataFrame:
    """Effects of all measured units with intervals over images; the index is the row of the unit table.

    Parameters
    ----------
    preferred : ndarray of int64
        Preferred class of every unit of the unit table.
    """
    parts = []
    for key in keys:
        block = cache.require(key)
        table = effect_table(
            PairEffects.from_arrays(block), intact_prediction, labels, preferred[block["row"]],
            n_classes=n_classes, confidence=confidence,
        )  # fmt: skip
        parts.append(table.set_index(pd.Index(block["row"])))
    return pd.concat(parts)


def table_of_classes(
    cache: BlockCache, keys: list[str], rows: Rows, intact_prediction: Rows, labels: Rows, bench: Bench
) -> pd.DataFrame:
    """Effects of some measured units on each class, in long form; see :func:`auditor.ablation.class_effects`."""
    parts = []
    for key in keys:
        block = cache.require(key)
        inside = np.isin(block["row"], rows)
        if inside.any():
            own = PairEffects.from_arrays({name: block[name][inside] for name in _FIELDS})
            table = class_effects(
                own, intact_prediction, labels, bench.run.classes, confidence=bench.settings.confidence
            )
            names = bench.units["unit_id"].to_numpy()[block["row"][inside]]
            table.insert(0, "unit_id", names[table.pop("row").to_numpy()])
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def agreements(
    table: pd.DataFrame, pairs: list[tuple[str, str]], confidence: float, seed: int
) -> dict[str, dict[str, object]]:
    """Spearman correlations over units between columns, with bootstrap intervals."""
    found: dict[str, dict[str, object]] = {}
    for estimate, exact in pairs:
        ranks = rank_agreement(table[estimate].to_numpy(), table[exact].to_numpy(), confidence=confidence, seed=seed)
        found[f"{estimate} ~ {exact}"] = {
            name: None if isinstance(value, float) and value != value else value for name, value in vars(ranks).items()
        }
    return found
