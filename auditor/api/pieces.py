"""Work that is done a few images at a time: kept piece by piece, and divided among the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.api.score_images import Part, ScoreImages
from auditor.distributed import current
from auditor.progress import Task
from auditor.store.blocks import BlockCache

Arrays = dict[str, NDArray[Any]]


def shrinking(n: int, ranks: int) -> list[range]:
    """Divide 0 to n - 1 into stretches that get shorter, so that the ranks which take them in turn end together.

    Each is half of what would be a fair share of the rest. A single process takes everything at once.
    """
    found: list[range] = []
    start = 0
    while start < n:
        length = n if ranks == 1 else max(1, (n - start) // (2 * ranks))
        found.append(range(start, start + length))
        start += length
    return found


def measure_pieces(
    images: ScoreImages,
    size: int,
    cache: BlockCache,
    name: str,
    measure: Callable[[Part], Arrays],
    task: Task,
    *,
    steps: float = 1.0,
) -> list[str]:
    """Measure something on all images, a batch at a time, and keep each batch's arrays as a block.

    All ranks call it, and each takes what others have not taken.

    Parameters
    ----------
    images : ScoreImages
    size : int
        Images of a batch, the same on all ranks.
    cache : BlockCache
        Blocks that are there are not measured again.
    name : str
        Begins the blocks' keys.
    measure : callable
        From a batch to arrays; advances `task` itself.
    task : Task
    steps : float
        How far an image that needs no measuring moves the bar.

    Returns
    -------
    list of str
        Keys of the blocks, in the order of the images; all are there when the call ends.
    """
    world, n = current(), len(images)
    pieces = [np.arange(start, min(start + size, n), dtype=np.int64) for start in range(0, n, size)]
    keys = [f"{name}-{number:06d}" for number in range(len(pieces))]
    stretches = shrinking(len(pieces), world.size)
    for number in world.take(name, len(stretches)):
        stretch = stretches[number]
        missing = [piece for piece in stretch if cache.get(keys[piece]) is None]
        task.advance(steps * sum(len(pieces[piece]) for piece in set(stretch).difference(missing)))
        if missing:
            # Only the last batch of all is short, so what is missing falls into the same batches again.
            rows = np.concatenate([pieces[piece] for piece in missing])
            for piece, part in zip(missing, images.parts(size, rows), strict=True):
                cache.put(keys[piece], measure(part))
    world.barrier(name)
    return keys


def joined_pieces(cache: BlockCache, keys: Iterable[str]) -> Arrays:
    """Join the arrays of blocks along their last axis, which holds the images."""
    parts = []
    for key in keys:
        block = cache.require(key)
        parts.append(block)
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
