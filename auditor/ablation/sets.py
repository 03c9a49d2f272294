"""Joint ablation that shares what the sets leave alone: layers that depend on none of their sites run once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.edits import Edit
from auditor.ablation.engine import Engine, Job, Noise
from auditor.ablation.exact import AGREES, ROUNDING, ExactEngine
from auditor.ablation.flow import map_tensors, tensors
from auditor.ablation.groups import Group, edited, group_logits
from auditor.ablation.replay import record
from auditor.hooks.intercept import Call, intercepted

LEAST_GROUPS = 4
"""Fewer sets on the same sites are not worth an intact pass of their own."""


def set_logits(
    engine: Engine,
    images: Tensor,
    groups: Sequence[Group],
    edit: Edit,
    *,
    donors: Tensor | None = None,
    noise: Noise | None = None,
    advance: Callable[[float], None] | None = None,
) -> Iterator[Tensor]:
    """Yield what :func:`auditor.ablation.groups.group_logits` yields, faster where an exact engine can.

    Sets with units at the same sites share one intact pass; each then runs what depends on those sites. The first of
    them is compared with the plain way; where they differ, all go the plain way.

    Parameters
    ----------
    engine : Engine
    images : Tensor, shape (B, C, H, W)
        As :meth:`Engine.prepare` returns them.
    groups, edit, donors, noise, advance
        See :func:`auditor.ablation.groups.group_logits`.

    Yields
    ------
    Tensor, shape (B, outputs)
    """
    by_sites: dict[tuple[str, ...], int] = {}
    for group in groups:
        names = _names(group)
        by_sites[names] = by_sites.get(names, 0) + 1
    shared: dict[tuple[str, ...], _Shared | None] = {}
    for group in groups:
        names = _names(group)
        plain = not isinstance(engine, ExactEngine) or not names or by_sites[names] < LEAST_GROUPS
        if donors is not None or noise is not None or plain:
            yield from group_logits(engine.model, images, [group], edit, donors=donors, noise=noise, advance=advance)
            continue
        assert isinstance(engine, ExactEngine)
        if names not in shared:
            found = _Shared(engine, group, images)
            shared[names] = found if found.agrees(group, edit, images) else None
        replay = shared[names]
        if replay is None:
            yield from group_logits(engine.model, images, [group], edit, advance=advance)
            continue
        with torch.no_grad():
            yield replay.logits(group, edit, images)
        if advance is not None:
            advance(1)


def _names(group: Group) -> tuple[str, ...]:
    return tuple(sorted(job.site.name for job in group))


class _Shared:
    """Intact outputs of the calls that depend on none of a group's sites."""

    def __init__(self, engine: ExactEngine, group: Group, images: Tensor) -> None:
        self._model = engine.model
        self._inner = engine.spared(job.site for job in group)
        with torch.no_grad():
            self._values = record(self._model, images, set(self._inner))[1]
        self._fragile: set[Call] | None = None
        """Calls whose output the model changes in place, so that each pass needs a copy; not known before the first."""

    def logits(self, group: Group, edit: Edit, images: Tensor) -> Tensor:
        """Logits with the group edited."""
        jobs: dict[Call, Job] = {job.call: job for job in group}
        copies: dict[Call, Any] = {}

        def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            if call in self._inner:
                counts.update(self._inner[call])
                if self._fragile is not None and call not in self._fragile:
                    return self._values[call]
                copies[call] = map_tensors(self._values[call], lambda t: t.clone(memory_format=torch.preserve_format))
                return copies[call]
            output = forward(*args, **kwargs)
            return edited(output, jobs[call], edit, None, None) if call in jobs else output

        with intercepted(self._model, {call[0] for call in (*self._inner, *jobs)}, visit) as counts:
            logits: Tensor = self._model(images.clone(memory_format=torch.preserve_format))
        if self._fragile is None:
            self._fragile = {call for call, value in copies.items() if any(t._version > 0 for t in tensors(value))}
        return logits

    def agrees(self, group: Group, edit: Edit, images: Tensor) -> bool:
        """Whether the group's logits are those of the plain way."""
        with torch.no_grad():
            try:
                found = [self.logits(group, edit, images) for _ in range(2)]
            except Exception:  # whatever the model says about what does not meet
                return False
            wanted = next(group_logits(self._model, images, [group], edit))
            intact = self._model(images.clone(memory_format=torch.preserve_format))
        bound = AGREES * float((wanted - intact).abs().max()) + ROUNDING * float(intact.abs().max())
        if images.dtype not in (torch.float32, torch.float64):
            bound = 0.05 * float(wanted.abs().max())
        return all(f.shape == wanted.shape and float((f - wanted).abs().max()) <= bound for f in found)
