"""Find the most important units on few images: a race with a stated error probability."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.ablation import Race, race
from auditor.api.ablation_settings import AblationSettings
from auditor.api.bench import Bench, unit_blocks
from auditor.api.measure_units import measure_block
from auditor.errors import OptionError
from auditor.progress import Reporter
from auditor.store.blocks import BlockCache

BLOCK = 128
Rows = NDArray[np.int64]


def check_count(settings: AblationSettings, n_units: int) -> None:
    """Raise an OptionError if more important units are asked for than there are."""
    k = settings.top_important
    if k is not None and k > n_units:
        raise OptionError(f"The run has {n_units} units.", wanted=f"--top-important 1 to {n_units}", got=str(k))


def find_important(bench: Bench, cache: BlockCache, reporter: Reporter) -> Race:
    """Race all units for the largest mean fall in the label's probability.

    The fall is bounded, [p - 1, p] with p the intact probability, so that the error probability needs no assumption.
    """
    settings, n_units, n_images = bench.settings, len(bench.units), len(bench.images)
    k = settings.top_important
    assert k is not None
    loss = _intact_loss(bench)
    intact = np.exp(-loss)
    calls = 0
    sites = bench.units["site"].astype(str)

    def measure(units: Rows, images: Rows) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        key = f"race-{calls:04d}"
        stored = cache.get(key)
        if stored is None:
            parts = [
                measure_block(bench, block, images).loss_change
                for block in unit_blocks(units, sites.iloc[units].tolist(), BLOCK)
            ]
            change = np.concatenate(parts).astype(np.float64)
            stored = {"drop": intact[images] - np.exp(-(loss[images] + change))}
            cache.put(key, stored)
        return stored["drop"]

    with reporter.task("Racing", n_units, "units") as task:
        return race(
            measure, n_units=n_units, n_images=n_images, k=k, bounds=(intact - 1, intact), delta=settings.delta,
            seed=settings.seed, advance=lambda pairs: task.advance(pairs / n_images),
        )  # fmt: skip


def _intact_loss(bench: Bench) -> NDArray[np.float64]:
    """Cross-entropy of the intact network on every image, in nats, as the engine computes it."""
    found = []
    with torch.no_grad():
        for part in bench.images.parts(32):
            logits = bench.engine.model(bench.engine.prepare(part.images)).double()
            found.append(-logits.log_softmax(1).gather(1, part.labels[:, None])[:, 0].cpu().numpy())
    return np.concatenate(found)
