"""Everything that an ablation runs on: model, images, edit, engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.ablation import CaptumEngine, Edit, Engine, ExactEngine, Job
from auditor.ablation.engine import Noise
from auditor.api.ablation_settings import AblationSettings
from auditor.api.engines import Agreement, compare_engines, make_engine, memory_bytes
from auditor.api.forward import Execution
from auditor.api.run import Run
from auditor.api.score_images import Part, ScoreImages, draw_donors, noise_for
from auditor.data import LabelledData
from auditor.distributed import current
from auditor.models.trace import evaluating
from auditor.registry import registry
from auditor.units import Site

CHECK_IMAGES = 16
KEPT_SHARE = 4


@dataclass(frozen=True)
class Bench:
    """What is ablated, on what, and how.

    Attributes
    ----------
    module : nn.Module
        The run's model, in eval mode.
    sites : dict of str to Site
    units : pandas.DataFrame
        The run's unit table.
    images : ScoreImages
    edit : Edit
    engine : Engine
    settings : AblationSettings
    memory : int
        Bytes that a batch may take.
    """

    module: nn.Module
    sites: dict[str, Site]
    units: pd.DataFrame
    images: ScoreImages
    edit: Edit
    engine: Engine
    settings: AblationSettings
    memory: int
    run: Run

    @classmethod
    def build(cls, run: Run, data: LabelledData, settings: AblationSettings, execution: Execution) -> Bench:
        """Load the model, and prepare the images and the engine."""
        prepared = run.model(execution)
        execution = execution.on(prepared.module)
        device = execution.torch_device()
        # The least of all ranks: how images meet in batches, and so the rounding, must not depend on the rank.
        memory = min(current().gather("memory", memory_bytes(settings.memory, device)))
        edit = registry().edit(settings.edit)
        labels = data.labels[data.splits["score"]].astype(np.int64)
        donors = draw_donors(labels, same_class=edit.donors == "class", seed=settings.seed) if edit.donors else None
        images = ScoreImages(
            data, prepared.preprocessing.build(), execution, memory=memory // KEPT_SHARE, donors=donors
        )
        first = images.first(2)
        example = first if len(first) > 1 else first.repeat(2, 1, 1, 1)
        module = prepared.module
        with evaluating(module):
            engine = make_engine(settings.engine, module, run.sites, example, dtype=settings.dtype, memory=memory)
        sites = {site.name: site for site in run.sites}
        return cls(module, sites, run.selectivity, images, edit, engine, settings, memory, run)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @cached_property
    def _moments(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Mean and standard deviation over the select split's images, by site."""
        found = {}
        for name, moments in self.run.moments("select").items():
            count, mean = moments.count[:, None], moments.overall_mean
            within = np.nansum(np.nan_to_num(moments.variance) * np.maximum(count - 1, 0), axis=0)
            between = np.nansum(count * (np.nan_to_num(moments.mean) - mean) ** 2, axis=0)
            found[name] = mean, np.sqrt((within + between) / max(moments.n - 1, 1))
        return found

    def jobs(self, rows: NDArray[np.int64]) -> list[Job]:
        """Units at rows of the unit table, by site; within a site in the order of `rows`."""
        names, numbers = self.units["site"].to_numpy()[rows], self.units["unit"].to_numpy()[rows]
        found = []
        for name in dict.fromkeys(names):
            units = numbers[names == name].astype(np.int64)
            mean, std = (
                torch.as_tensor(values[units], dtype=torch.float32, device=self.device)
                for values in self._moments[str(name)]
            )
            found.append(Job(self.sites[str(name)], torch.as_tensor(units, device=self.device), mean, std))
        return found

    def noise(self, part: Part) -> Noise | None:
        """Normal numbers for these images, if the edit asks for them."""
        if not self.edit.noisy:
            return None
        order = {name: number for number, name in enumerate(self.sites)}

        def draw(site: Site) -> Tensor:
            drawn = noise_for(part.rows, site.shape, site.unit_axis, seed=self.settings.seed, site=order[site.name])
            return drawn.to(self.device)

        return draw

    def sample(self, rows: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], Part]:
        """Draw `n` units of `rows`, sorted by site, and a few images spread over the split."""
        rng = np.random.default_rng([self.settings.seed, 43])
        drawn = np.sort(rng.permutation(rows)[:n])
        places = np.unique(np.linspace(0, len(self.images) - 1, CHECK_IMAGES).astype(np.int64))
        return drawn, next(iter(self.images.parts(len(places), places)))

    def check(self, rows: NDArray[np.int64], n: int) -> dict[str, Agreement]:
        """Compare the engine on `n` random units with Captum, and with float32 if it computes in another type."""
        found: dict[str, Agreement] = {}
        if n == 0 or self.engine.name == "captum":
            return found
        drawn, part = self.sample(rows, n)
        jobs, noise = self.jobs(drawn), self.noise(part)

        def against(reference: Engine, name: str) -> Agreement:
            return compare_engines(
                self.engine, reference, part.images, part.labels, jobs, self.edit,
                names=(f"{self.engine.name} ({self.settings.dtype})", name), donors=part.donors, noise=noise,
            )  # fmt: skip

        if isinstance(self.engine, ExactEngine) and self.settings.dtype != "float32":
            sites = list(self.sites.values())
            found["float32"] = against(ExactEngine(self.module, sites, part.images, memory=self.memory), "float32")
        found["captum"] = against(CaptumEngine(self.module, dtype=part.images.dtype), "captum")
        return found


def unit_blocks(rows: NDArray[np.int64], sites: Sequence[str], size: int) -> Iterator[NDArray[np.int64]]:
    """Split rows into blocks of about `size` units: units of one site stay together as far as they fit.

    Parameters
    ----------
    rows : ndarray of int64
        Sorted by site.
    sites : sequence of str
        Site of each row.
    size : int
    """
    names = np.asarray(sites, dtype=object)
    block: list[NDArray[np.int64]] = []
    for name in dict.fromkeys(sites):
        own = rows[names == name]
        for piece in np.array_split(own, max(1, round(len(own) / size))):
            if block and sum(map(len, block)) + len(piece) > 1.5 * size:
                yield np.concatenate(block)
                block = []
            block.append(piece)
    if block:
        yield np.concatenate(block)
