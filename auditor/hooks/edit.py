"""Silence units while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.hooks.calls import on_calls
from auditor.units import Site


@contextmanager
def silence(model: nn.Module, sites: Sequence[Site], units: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Set whole units to zero for the length of the block.

    The activation is silenced, not the weights: with zeroed weights a bias or a batch-norm shift would still speak.

    Parameters
    ----------
    model : torch.nn.Module
        Model to edit.
    sites : sequence of Site
        The model's sites.
    units : mapping of str to sequence of int
        Site name to the indices of its units to silence; sites without units are left alone.

    Raises
    ------
    ModelError
        If a site is unknown or an index is out of range.
    """
    by_name = {site.name: site for site in sites}
    index: dict[str, Tensor] = {}
    for name, chosen in units.items():
        if name not in by_name:
            raise ModelError(f"The model has no site {name!r}.", wanted=f"one of {', '.join(by_name)}", got=repr(name))
        array = np.unique(np.asarray(chosen, dtype=np.int64))
        if array.size == 0:
            continue
        if array[0] < 0 or array[-1] >= by_name[name].n_units:
            raise ModelError(
                f"Site {name!r} has units 0 to {by_name[name].n_units - 1}.", got=f"{array[0]} to {array[-1]}"
            )
        index[name] = torch.from_numpy(array)

    def zero(site: Site, output: Tensor) -> Tensor:
        return output.index_fill(site.unit_axis, index[site.name].to(output.device), 0.0)

    with on_calls(model, [by_name[name] for name in index], zero):
        yield
