"""Engines: ways to compute the logits of a model with single units ablated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.batches import in_batches
from auditor.ablation.edits import Edit, EditContext
from auditor.ablation.replay import Pairs, Run, record, unit_maps
from auditor.hooks.calls import on_calls
from auditor.hooks.intercept import Call
from auditor.units import Site

Sink = Callable[[str, Tensor, Tensor, Tensor, Tensor], None]
"""Takes a site's name and, for some pairs, units' places in the job, rows of images, logits and intact logits."""

Noise = Callable[[Site], Tensor]
"""Draws standard normal numbers of shape (B, n_units, *positions) for a site."""

Advance = Callable[[float], None]

MEMORY = 2 * 2**30
CACHE_BYTES = 16 * 2**20
"""On a CPU, a batch whose largest tensor is about so large runs fastest."""
LEAST, MOST = 4, 4096
MOST_IMAGES = 256
_TENSORS_ALIVE = 6


@dataclass(frozen=True)
class Job:
    """Units of one site that are ablated, one at a time.

    Attributes
    ----------
    site : Site
    units : Tensor of int, shape (U,)
    mean, std : Tensor, shape (U,)
        Of the units' pooled responses, for edits that use them.
    """

    site: Site
    units: Tensor
    mean: Tensor
    std: Tensor

    @property
    def call(self) -> Call:
        """The site's call."""
        return (self.site.layer, self.site.call)


class Engine(ABC):
    """Computes the logits of a model with single units ablated.

    Attributes
    ----------
    model : nn.Module
        What it runs: the user's model, or a copy that computes the same faster.
    fallbacks : dict of str to str
        Site to the reason why it takes a slower way there.
    """

    name: str
    model: nn.Module
    dtype: torch.dtype
    fallbacks: dict[str, str]

    def prepare(self, images: Tensor) -> Tensor:
        """Bring images into the type and memory format in which :attr:`model` takes them."""
        return images.to(self.dtype)

    def images_per_batch(self, sites: Sequence[Site], n_units: int) -> int:
        """How many images to give to :meth:`ablate` at a time for `n_units` units of `sites`."""
        return 64

    @abstractmethod
    def ablate(
        self,
        images: Tensor,
        jobs: Sequence[Job],
        edit: Edit,
        sink: Sink,
        *,
        donors: Tensor | None = None,
        noise: Noise | None = None,
        advance: Advance | None = None,
    ) -> Tensor:
        """Ablate every unit of every job on every image.

        Pairs of a unit and an image on which the edit changes nothing need not reach `sink`: their logits are the
        intact ones.

        Parameters
        ----------
        images : Tensor, shape (B, C, H, W)
        jobs : sequence of Job
        edit : Edit
        sink : callable
        donors : Tensor, shape (B, C, H, W), optional
            Another image for each, if the edit asks for it.
        noise : callable, optional
            If the edit asks for it.
        advance : callable, optional
            Called with the number of (unit, image) pairs that are done.

        Returns
        -------
        Tensor, shape (B, outputs)
            Logits of the intact model.
        """


class PairEngine(Engine):
    """Runs batches of (image, unit) pairs; subclasses say how.

    Parameters
    ----------
    images : Tensor, shape (B >= 2, C, H, W)
        Examples of the input.
    dtype : torch.dtype
    memory : int
        Bytes that a batch may take, beside the model.
    """

    def __init__(self, images: Tensor, *, dtype: torch.dtype, memory: int) -> None:
        self.memory, self.dtype, self.fallbacks = memory, dtype, {}
        self._images = images[:2]
        self._shrink = 1

    @abstractmethod
    def _kept(self, site: Site) -> set[Call]:
        """Calls whose intact output is needed, that of the site among them."""

    def _onward(self, site: Site, maps: Tensor) -> Tensor:
        """Carry units' maps, shape (B, U, *positions), from the site to where they are put in."""
        return maps

    @abstractmethod
    def _runner(self, site: Site, images: Tensor, values: Mapping[Call, Any]) -> AbstractContextManager[Run]:
        """A function from pairs to logits."""

    @abstractmethod
    def _largest(self, site: Site) -> int:
        """Bytes of the largest tensor that one pair needs."""

    @torch.no_grad()
    def ablate(
        self,
        images: Tensor,
        jobs: Sequence[Job],
        edit: Edit,
        sink: Sink,
        *,
        donors: Tensor | None = None,
        noise: Noise | None = None,
        advance: Advance | None = None,
    ) -> Tensor:
        """See :meth:`Engine.ablate`."""
        images = self.prepare(images)
        logits, values = record(self.model, images, set().union(*(self._kept(job.site) for job in jobs)))
        given = None
        if donors is not None:
            given = record(self.model, self.prepare(donors), {job.call for job in jobs})[1]
        for job in jobs:
            before = unit_maps(values[job.call], job.site.unit_axis, job.units)
            after = edit.apply(before, edit_context(job, given, noise))
            before, after = self._onward(job.site, before), self._onward(job.site, after)
            self._run_job(job, images, logits, values, before, after, sink, advance)
        return logits

    def _run_job(
        self,
        job: Job,
        images: Tensor,
        logits: Tensor,
        values: Mapping[Call, Any],
        before: Tensor,
        after: Tensor,
        sink: Sink,
        advance: Advance | None,
    ) -> None:
        change = after - before
        touched = (change != 0).flatten(2).any(2) if change.ndim > 2 else change != 0
        where = touched.nonzero()  # ascending in the image
        if advance is not None:
            advance(touched.numel() - len(where))
        units = job.units.to(images.device)

        def take(single: int | None, part: Tensor) -> Pairs:
            rows, columns = part.unbind(1)
            return Pairs(rows, units[columns], after[rows, columns], change[rows, columns], single)

        with self._runner(job.site, images, values) as run:
            for part, single in in_batches(where, lambda: self.pairs_per_batch(job.site)):
                found = self._fitting(run, partial(take, single), part, job.site)
                sink(job.site.name, part[:, 1], part[:, 0], found, logits[part[:, 0]])
                if advance is not None:
                    advance(len(part))

    def _fitting(self, run: Run, take: Callable[[Tensor], Pairs], part: Tensor, site: Site) -> Tensor:
        """Run a batch, in smaller ones if it does not fit into memory."""
        size, done = len(part), 0
        found: list[Tensor] = []
        while done < len(part):
            try:
                found.append(run(take(part[done : done + size])))
            except RuntimeError as error:
                if size == 1 or not _is_memory(error):
                    raise
            else:
                done += size
                continue
            size = -(-min(size, len(part) - done) // 2)
            self._shrink = max(self._shrink, -(-self._room(site) // size))
            if part.device.type == "cuda":
                torch.cuda.empty_cache()
        return torch.cat(found)

    def _whole_pass(self, site: Site) -> int:
        """Bytes of the largest tensor that one pair needs where the whole model runs, roughly."""
        # Nothing is known about the other layers; most networks' largest is within a few times the site or the input.
        return self._images.element_size() * max(torch.Size(site.shape).numel(), 4 * self._images[0].numel())

    def pairs_per_batch(self, site: Site) -> int:
        """How many pairs run at once."""
        return max(1, self._room(site) // self._shrink)

    def _room(self, site: Site) -> int:
        largest = self._largest(site)
        room = self.memory // 2 // (_TENSORS_ALIVE * largest)
        if self._images.device.type == "cpu":
            room = min(room, max(LEAST, CACHE_BYTES // largest))
        return max(1, min(MOST, room))

    @torch.no_grad()
    def images_per_batch(self, sites: Sequence[Site], n_units: int) -> int:
        """As many as fill the batches of pairs, within the memory budget."""
        values = record(self.model, self.prepare(self._images), set().union(*(self._kept(site) for site in sites)))[1]
        held = [t for value in values.values() for t in ([value] if isinstance(value, Tensor) else value)]
        size = sum(t.numel() * t.element_size() for t in held) // len(self._images)
        # The edited maps and their change can each be as large as the site.
        size += 3 * max(torch.Size(site.shape).numel() * 4 for site in sites)
        wanted = 4 * sum(self.pairs_per_batch(site) for site in sites) // max(1, n_units)
        return int(max(1, min(self.memory // 2 // max(1, size), max(wanted, 8), MOST_IMAGES)))


class HookEngine(PairEngine):
    """Runs the whole model for every pair, with a hook at the site: slow, and right for any model.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    images : Tensor, shape (B >= 2, C, H, W)
        Examples of the input.
    memory : int
        Bytes that a batch may take, beside the model.
    """

    name = "hooks"

    def __init__(self, model: nn.Module, images: Tensor, *, memory: int = MEMORY) -> None:
        super().__init__(images, dtype=images.dtype, memory=memory)
        self.model = model

    def _kept(self, site: Site) -> set[Call]:
        return {(site.layer, site.call)}

    def _runner(self, site: Site, images: Tensor, values: Mapping[Call, Any]) -> AbstractContextManager[Run]:
        return hooked(self.model, site, images)

    def _largest(self, site: Site) -> int:
        return self._whole_pass(site)


@contextmanager
def hooked(model: nn.Module, site: Site, images: Tensor) -> Iterator[Run]:
    """Like :func:`auditor.ablation.replay.replaying`, by running the whole model with a hook at the site."""
    current: list[Pairs] = []

    def replace(_site: Site, output: Tensor) -> Tensor:
        pairs = current[0]
        edited = output.clone(memory_format=torch.preserve_format)
        edited.movedim(site.unit_axis, 1)[torch.arange(len(pairs), device=output.device), pairs.units] = pairs.maps
        return edited

    def run(pairs: Pairs) -> Tensor:
        current[:] = [pairs]
        logits: Tensor = model(images.index_select(0, pairs.rows))
        return logits

    with on_calls(model, [site], replace):
        yield run


def edit_context(job: Job, donors: Mapping[Call, Any] | None, noise: Noise | None) -> EditContext:
    """What an edit may use for the units of a job; `donors` are the sites' outputs for other images."""
    units = job.units
    return EditContext(
        mean=job.mean,
        std=job.std,
        donors=None if donors is None else unit_maps(donors[job.call], job.site.unit_axis, units),
        noise=None if noise is None else (lambda: noise(job.site)[:, units]),
    )


def _is_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
