"""Scores of sites as files, so that several processes can divide them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.selectivity.scores import UnitScores
from auditor.store.blocks import BlockCache

_GROUPS = ("layer_mean", "extras")


def put_scores(cache: BlockCache, site: str, scores: Sequence[UnitScores]) -> None:
    """Write what several metrics found at a site."""
    arrays: dict[str, NDArray[Any]] = {"n": np.array(len(scores))}
    for number, one in enumerate(scores):
        for field in fields(UnitScores):
            value = getattr(one, field.name)
            if field.name in _GROUPS:
                arrays |= {f"{number}|{field.name}|{name}": np.asarray(part) for name, part in value.items()}
            elif value is not None:
                arrays[f"{number}|{field.name}"] = np.asarray(value)
    cache.put(site, arrays)


def get_scores(cache: BlockCache, site: str) -> list[UnitScores] | None:
    """Inverse of :func:`put_scores`; None if there is nothing, or it is damaged."""
    arrays = cache.get(site)
    return None if arrays is None else [_scores(arrays, f"{number}|") for number in range(int(arrays["n"]))]


def _scores(arrays: dict[str, NDArray[Any]], prefix: str) -> UnitScores:
    mine = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    groups: dict[str, dict[str, Any]] = {
        group: {name.split("|", 1)[1]: value for name, value in mine.items() if name.startswith(f"{group}|")}
        for group in _GROUPS
    }
    groups["layer_mean"] = {name: float(value) for name, value in groups["layer_mean"].items()}
    whole: dict[str, Any] = {name: value for name, value in mine.items() if "|" not in name}
    return UnitScores(**{**whole, **groups, "n_shuffles": int(whole["n_shuffles"])})
