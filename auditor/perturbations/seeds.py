"""One seed for each corrupted image."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

_MASK = (1 << 63) - 1


def corruption_seeds(seed: int, name: str, severity: int, rows: Iterable[int | str]) -> list[int]:
    """Seeds that depend on what is corrupted and how, never on what else is in the batch.

    Parameters
    ----------
    seed : int
        The run's.
    name : str
        Of the corruption.
    severity : int
        1 to 5.
    rows : iterable of int or str
        Ids of the images, or their places in the data set.

    Returns
    -------
    list of int
        One for each image, from 0 to 2**63 - 1: eight bytes of BLAKE2b, the same on every machine.
    """
    prefix = blake2b(f"{int(seed)}\0{name}\0{int(severity)}\0".encode(), digest_size=8)
    seeds = []
    for row in rows:
        digest = prefix.copy()
        digest.update(str(row).encode("utf-8", "surrogatepass"))
        seeds.append(int.from_bytes(digest.digest(), "little") & _MASK)
    return seeds
