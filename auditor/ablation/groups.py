"""Joint ablation: many units edited at once, at any number of sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.edits import Edit, Zero
from auditor.ablation.engine import Job, Noise, edit_context
from auditor.ablation.replay import record, unit_maps
from auditor.errors import ModelError
from auditor.hooks.calls import on_calls
from auditor.units import Site

Group = Sequence[Job]
"""Units of several sites, each site once; an empty group leaves the network intact."""


def group_logits(
    model: nn.Module,
    images: Tensor,
    groups: Sequence[Group],
    edit: Edit,
    *,
    donors: Tensor | None = None,
    noise: Noise | None = None,
    advance: Callable[[float], None] | None = None,
) -> Iterator[Tensor]:
    """Yield the logits with each group of units edited.

    The activation is edited, not the weights: with zeroed weights a bias or a batch-norm shift would still speak. Where
    a group has units at several sites, those at later sites are edited on top of what the earlier ones changed.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    images : Tensor, shape (B, C, H, W)
    groups : sequence of sequence of Job
    edit : Edit
    donors : Tensor, shape (B, C, H, W), optional
        Another image for each, if the edit asks for it; its responses are those of the intact network.
    noise : callable, optional
        If the edit asks for it; see :data:`auditor.ablation.engine.Noise`.
    advance : callable, optional
        Called with 1 after each group.

    Yields
    ------
    Tensor, shape (B, outputs)

    Raises
    ------
    ModelError
        If an index is out of range.
    """
    for group in groups:
        for job in group:
            if len(job.units) and not 0 <= int(job.units.min()) <= int(job.units.max()) < job.site.n_units:
                raise ModelError(
                    f"Site {job.site.name!r} has units 0 to {job.site.n_units - 1}.",
                    got=f"{int(job.units.min())} to {int(job.units.max())}",
                )
    given: dict[Any, Any] | None = None
    with torch.no_grad():
        if donors is not None:
            given = record(model, donors, {job.call for group in groups for job in group})[1]
        for group in groups:
            with on_calls(model, [job.site for job in group], _editing(group, edit, given, noise)):
                logits: Tensor = model(images.clone(memory_format=torch.preserve_format))
            yield logits
            if advance is not None:
                advance(1)


def _editing(
    group: Group, edit: Edit, donors: Mapping[Any, Any] | None, noise: Noise | None
) -> Callable[[Site, Tensor], Tensor]:
    jobs = {job.site.name: job for job in group}

    def action(site: Site, output: Tensor) -> Tensor:
        job = jobs[site.name]
        return edited(output, job, edit, donors, noise)

    return action


def edited(output: Tensor, job: Job, edit: Edit, donors: Mapping[Any, Any] | None, noise: Noise | None) -> Tensor:
    """Return a site's output with the job's units edited."""
    axis, units = job.site.unit_axis, job.units.to(output.device)
    if type(edit) is Zero:
        return output.index_fill(axis, units, 0)
    maps = unit_maps(output, axis, units)
    changed = edit.apply(maps, edit_context(job, donors, noise)).to(output.dtype)
    return output.index_copy(axis, units, changed.movedim(1, axis))
