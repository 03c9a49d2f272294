"""The exact engine: from the ablated site on, many ablations at a time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.engine import MEMORY, PairEngine, hooked
from auditor.ablation.fold import folded_copy
from auditor.ablation.one_channel import OneChannel
from auditor.ablation.plan import SitePlan, plan_site, record_calls, refine, spared_calls
from auditor.ablation.replay import Pairs, Run, record, replaying, unit_maps
from auditor.ablation.trim import unread_tokens
from auditor.errors import ModelError
from auditor.hooks.intercept import Call
from auditor.units import Site

AGREES, ROUNDING = 1e-3, 1e-5
"""How far the replay may be from a hook: as a share of the effect, and as a share of the logits."""

Updates = dict[Call, OneChannel]


class ExactEngine(PairEngine):
    """Replays the model from each site on.

    What comes before the site, or does not depend on it, runs once per image; many ablations of one site share a
    batch; a convolution or linear layer that reads the site is told the change of one channel, and where a pooling
    stands between, only that channel is pooled again; batch norms are folded into convolutions; units that are silent
    on an image cost nothing there; what a head that reads the class token does not read is not computed. A site where
    the replay does not reproduce a plain hook falls back to the hook, and :attr:`fallbacks` says why.

    Parameters
    ----------
    model : nn.Module
        In eval mode; left as it is.
    sites : sequence of Site
        Sites that will be asked for.
    images : Tensor, shape (B >= 2, C, H, W)
        Two of them serve to find out how the model can be replayed.
    dtype : torch.dtype, optional
        In which the copy computes. Default: that of `images`.
    memory : int
        Bytes that a batch may take, beside the model.
    fold : bool
        Fold batch norms and use channels last.

    Attributes
    ----------
    folded : int
        Number of batch norms that were folded.
    deviation : float
        Largest difference of the folded copy's logits from the model's, as a share of the largest logit.
    """

    name = "exact"

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        images: Tensor,
        *,
        dtype: torch.dtype | None = None,
        memory: int = MEMORY,
        fold: bool = True,
    ) -> None:
        super().__init__(images, dtype=dtype or images.dtype, memory=memory)
        self._sites = {site.name: number for number, site in enumerate(sites)}
        self._order = list(sites)
        self.deviation, self.folded = 0.0, 0
        self._format = torch.contiguous_format
        with torch.no_grad():
            self._exact = self._copied(model, {site.layer for site in sites}, fold=fold)
            self._records = record_calls(self._exact, self._shaped(self._images), sites)
            self._tokens = unread_tokens(self._exact, self._shaped(self._images))
        same = self.dtype == images.dtype
        self.model = self._exact if same else copy.deepcopy(self._exact).to(self.dtype)
        self._plans: dict[str, SitePlan] = {}
        self._updates: dict[str, Updates] = {}

    def _copied(self, model: nn.Module, keep: set[str], *, fold: bool) -> nn.Module:
        images = self._images
        for layout in (torch.channels_last, torch.contiguous_format) if fold else ():
            try:
                folded, n_folded = folded_copy(model, images, keep)
                folded.to(memory_format=layout)
                wanted, got = model(images.clone()), folded(images.clone(memory_format=layout))
            except Exception:  # a view of channels that lie last, weights that a hook makes: whatever does not go
                continue
            deviation = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
            if deviation < AGREES:
                self.deviation, self.folded, self._format = deviation, n_folded, layout
                return folded
        try:
            return copy.deepcopy(model).eval().requires_grad_(False)
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__} cannot be copied: {_first_line(error)}",
                fix="Take tensors that belong to a graph off the model, or use --engine hooks, which needs no copy.",
            ) from error

    def _shaped(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self._format)

    def prepare(self, images: Tensor) -> Tensor:
        """See :meth:`Engine.prepare`."""
        return self._shaped(images.to(self.dtype))

    def spared(self, sites: Iterable[Site]) -> dict[Call, Counter[str]]:
        """Outermost calls that depend on none of `sites`, and the calls that happen inside each."""
        numbers = [self._sites[site.name] for site in sites]
        return spared_calls(self._records, numbers, [self._order[number] for number in numbers])

    def plan(self, site: Site) -> SitePlan | None:
        """How a site is replayed; None where it falls back to a hook."""
        if site.name not in self._plans and site.name not in self.fallbacks:
            self._make_plan(site)
        return self._plans.get(site.name)

    @torch.no_grad()
    def _make_plan(self, site: Site) -> None:
        why = ""
        for tokens, only_rows in ((self._tokens, False), (self._tokens, True), ({}, True)):
            plan = plan_site(self._records, self._sites[site.name], site, only_rows=only_rows)
            why, pool = self._complete(plan, site, tokens)
            if why:
                continue
            if pool is not None:
                plan = self._behind(pool, site, tokens, only_rows=only_rows) or plan
            self._plans[site.name] = plan
            self._updates[site.name] = _updates(self.model, plan)
            return
        self.fallbacks[site.name] = why

    def _complete(self, plan: SitePlan, site: Site, tokens: Mapping[Call, Tensor]) -> tuple[str, Call | None]:
        """Refine and try a plan; why it cannot be used, or nothing, and the pooling that alone reads the site."""
        images = self._shaped(self._images)
        try:
            pool = refine(plan, self._exact, images, record(self._exact, images, plan.kept)[1])
            taken = self._with_parents({*plan.spared, *plan.direct, plan.call})
            plan.tokens = {call: few for call, few in tokens.items() if call not in taken}
            return self._disagreement(plan, site, images), pool
        except Exception as error:  # whatever the model says about what does not meet
            return _first_line(error), None

    def _behind(self, pool: Call, site: Site, tokens: Mapping[Call, Tensor], *, only_rows: bool) -> SitePlan | None:
        """The plan that changes the pooling's output in place of the site's, if it can be used."""
        output = record(self._exact, self._shaped(self._images), {pool})[1][pool]
        moved = replace(site, layer=pool[0], call=pool[1], shape=tuple(output.shape[1:]))
        plan = plan_site(self._records, self._sites[site.name], moved, only_rows=only_rows)
        plan.pool = pool
        return None if self._complete(plan, site, tokens)[0] else plan

    def _with_parents(self, calls: set[Call]) -> set[Call]:
        parents = {record.call: record.parent for record in self._records}
        found: set[Call] = set()
        for call in calls:
            here: Call | None = call
            while here is not None:
                found.add(here)
                here = parents[here]
        return found

    def _kept(self, site: Site) -> set[Call]:
        plan = self.plan(site)
        return {(site.layer, site.call)} | (set() if plan is None else plan.kept)

    def _onward(self, site: Site, maps: Tensor) -> Tensor:
        plan = self.plan(site)
        return maps if plan is None else _pooled(self.model, plan, maps)

    def _runner(self, site: Site, images: Tensor, values: Mapping[Call, Any]) -> AbstractContextManager[Run]:
        plan = self.plan(site)
        if plan is None:
            return hooked(self.model, site, images)
        return replaying(self.model, plan, images, values, self._updates[site.name])

    def _largest(self, site: Site) -> int:
        plan = self.plan(site)
        own = self._whole_pass(site) if plan is None else plan.largest
        return own * self.dtype.itemsize // self._images.element_size()

    def _disagreement(self, plan: SitePlan, site: Site, images: Tensor) -> str:
        """Compare the replay with a hook under large edits; say what is wrong, or nothing."""
        model, own_call = self._exact, (site.layer, site.call)
        logits, values = record(model, images, plan.kept | {own_call})
        updates = _updates(model, plan)
        output = values[own_call]
        units = torch.tensor([0, site.n_units // 2, site.n_units - 1, 0, site.n_units // 3], device=output.device)
        before = unit_maps(output, site.unit_axis, units)
        noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)).to(before)
        # Far larger than most ablations, so that a wrong path shows; a layer that is silent on both images, too.
        change = (3 * output.std().nan_to_num() + 0.1) * noise
        after = _pooled(model, plan, before + change)
        for rows, single in (([0, 1, 0, 1, 1], None), ([1, 1, 1, 1, 1], 1)):
            index, own = (torch.tensor(numbers, device=output.device) for numbers in (rows, range(len(rows))))
            pairs = Pairs(index, units, (before + change)[index, own], change[index, own], single)
            with hooked(model, site, images) as run:
                wanted = run(pairs)
            pairs = Pairs(index, units, after[index, own], (after - _pooled(model, plan, before))[index, own], single)
            # A model that keeps what it computed must not find this pass in the replay.
            model(images[:1].clone())
            intact = logits.index_select(0, index)
            bound = AGREES * float((wanted - intact).abs().max()) + ROUNDING * float(intact.abs().max())
            for care in range(plan.care, 3):
                plan.care = care
                try:
                    with replaying(model, plan, images, values, updates) as run:
                        found = run(pairs)
                except Exception as error:
                    problem = _first_line(error)
                    continue
                worst = float((found - wanted).abs().max()) if found.shape == wanted.shape else float("inf")
                problem = "" if worst <= bound else f"replay and hook differ by {worst:.2g}, allowed are {bound:.2g}"
                if not problem:
                    break
            if problem:
                return problem
        return ""


def _updates(model: nn.Module, plan: SitePlan) -> Updates:
    modules = dict(model.named_modules())
    return {call: OneChannel(modules[call[0]]) for call in plan.direct}


def _pooled(model: nn.Module, plan: SitePlan, maps: Tensor) -> Tensor:
    """Carry units' maps, shape (B, U, H, W), to where the plan puts them in."""
    if plan.pool is None:
        return maps
    # Each map as an image of one channel: a batch may be empty, channels may not.
    pooled: Tensor = model.get_submodule(plan.pool[0])(maps.flatten(0, 1).unsqueeze(1))
    back: Tensor = pooled.squeeze(1).unflatten(0, maps.shape[:2])
    return back


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
