"""Find the most important units on few images: a race with a stated error probability."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.ablation import Race, race
from auditor.ablation.racing import race_rounds
from auditor.api.ablation_settings import AblationSettings
from auditor.api.bench import Bench, unit_blocks
from auditor.api.measure_units import cut, measure_parts, measure_rest
from auditor.api.pieces import Arrays, joined_pieces, measure_pieces
from auditor.api.score_images import Part
from auditor.distributed import current
from auditor.distributed.reporters import together
from auditor.errors import OptionError
from auditor.progress import NullTask, Reporter
from auditor.store.blocks import BlockCache

BLOCK = 128
INTACT = 32
Rows = NDArray[np.int64]


def check_count(settings: AblationSettings, n_units: int) -> None:
    """Raise an OptionError if more important units are asked for than there are."""
    k = settings.top_important
    if k is not None and k > n_units:
        raise OptionError(f"The run has {n_units} units.", wanted=f"--top-important 1 to {n_units}", got=str(k))


def find_important(bench: Bench, cache: BlockCache, reporter: Reporter) -> Race | None:
    """Race all units for the largest mean fall in the label's probability; all ranks do it together.

    The fall is bounded, [p - 1, p] with p the intact probability, so that the error probability needs no assumption.

    Returns
    -------
    Race or None
        None on ranks but the main one, which decides after each round who is still in question.
    """
    settings, n_units, n_images = bench.settings, len(bench.units), len(bench.images)
    k, world = settings.top_important, current()
    assert k is not None
    loss = _intact_loss(bench, cache)
    intact = np.exp(-loss)
    calls = 0

    def measure(units: Rows, images: Rows) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        key = f"race-{calls:04d}"
        stored = cache.get(key)
        if stored is None:
            if world.several:
                world.share("round", [calls, units.tolist()])
                _measure_together(bench, units, images, cache.folder / key)
            parts = [
                measure_rest(bench, block, images, folder)["loss_change"]
                for block, folder in _blocks(bench, units, cache.folder / key)
            ]
            change = np.concatenate(parts).astype(np.float64)
            stored = {"drop": intact[images] - np.exp(-(loss[images] + change))}
            cache.put(key, stored)
            shutil.rmtree(cache.folder / key, ignore_errors=True)
        return stored["drop"]

    with together(reporter, "Racing", n_units, "units") as task:
        if not world.main:
            rounds = race_rounds(n_images, seed=settings.seed)
            while (order := world.share("round")) is not None:
                number, units = order
                folder = cache.folder / f"race-{number:04d}"
                _measure_together(bench, np.array(units, dtype=np.int64), rounds[number - 1], folder)
            return None
        found = race(
            measure, n_units=n_units, n_images=n_images, k=k, bounds=(intact - 1, intact), delta=settings.delta,
            seed=settings.seed, advance=lambda pairs: task.advance(pairs / n_images),
        )  # fmt: skip
        world.share("round", None)
    return found


def _blocks(bench: Bench, units: Rows, folder: Path) -> list[tuple[Rows, Path]]:
    """Blocks of units, and where pieces of their effects are kept."""
    sites = bench.units["site"].iloc[units].astype(str).tolist()
    return [(block, folder / f"{n:06d}") for n, block in enumerate(unit_blocks(units, sites, BLOCK))]


def _measure_together(bench: Bench, units: Rows, images: Rows, folder: Path) -> None:
    """Measure a round, each rank its part."""
    blocks, folders = zip(*_blocks(bench, units, folder), strict=True)
    measure_parts(bench, blocks, images, folders, cut=cut(len(blocks), len(images)))


def _intact_loss(bench: Bench, cache: BlockCache) -> NDArray[np.float64]:
    """Cross-entropy of the intact network on every image, in nats, as the engine computes it."""

    def measure(part: Part) -> Arrays:
        with torch.no_grad():
            logits = bench.engine.model(bench.engine.prepare(part.images)).double()
        return {"loss": -logits.log_softmax(1).gather(1, part.labels[:, None])[:, 0].cpu().numpy()}

    keys = measure_pieces(bench.images, INTACT, cache, "intact", measure, NullTask())
    loss: NDArray[np.float64] = joined_pieces(cache, keys)["loss"]
    return loss
