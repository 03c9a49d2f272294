"""How pairs of an image and a unit are put into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def in_batches(where: Tensor, size: Callable[[], int]) -> Iterator[tuple[Tensor, int | None]]:
    """Split (image, unit) pairs into batches: of one image where that fills them, else of several.

    Parameters
    ----------
    where : Tensor of int, shape (M, 2)
        Ascending in the image.
    size : callable
        The most pairs in a batch; asked before each.

    Yields
    ------
    part : Tensor, shape (P, 2)
    single : int or None
        The image, if all pairs have the same.
    """
    if len(where) == 0:
        return
    images, counts = (values.tolist() for values in where[:, 0].unique_consecutive(return_counts=True))
    start, n_held = 0, 0
    held: list[Tensor] = []
    for image, count in zip(images, counts, strict=True):
        own = where[start : start + count]
        start += count
        limit = size()
        if 2 * count > limit:
            yield from ((part, image) for part in own.chunk(-(-count // limit)))
            continue
        if held and n_held + count > limit:
            yield torch.cat(held), None
            held, n_held = [], 0
        held.append(own)
        n_held += count
    if held:
        yield torch.cat(held), None
