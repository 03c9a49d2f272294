"""The verb ``plan``: what a job will take, before anything is spent."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.api.ablation_settings import AblationSettings
from auditor.api.engines import memory_bytes
from auditor.api.forward import Execution, first_images
from auditor.api.models import Prepared
from auditor.api.plan_ablate import ablation_parts, measure_ablation
from auditor.api.plan_clock import NO_TIME, Part, Timed, batch_of
from auditor.api.plan_clock import seconds as timed
from auditor.api.plan_counts import Counts, count
from auditor.api.plan_finetune import measure_training, training_parts
from auditor.api.plan_profile import PROFILED, ProfileCost, measure_scoring, measure_start, profile_parts, small_profile
from auditor.api.plan_result import Plan
from auditor.api.plan_source import Planned, planned_network
from auditor.api.run import Run
from auditor.api.settings import SelectivitySettings, StoreSettings, at_least
from auditor.data import DEFAULT_FRACTIONS, LabelledData, MapDataset
from auditor.errors import OptionError, unknown_name
from auditor.models import probe_sites
from auditor.models.head import raw_outputs
from auditor.models.overrides import Overrides
from auditor.models.preprocessing import Preprocessing
from auditor.models.trace import evaluating
from auditor.progress import QUIET, Reporter
from auditor.training import TrainingPlan

JOBS = ("profile", "ablate", "finetune")
BATCHES = {"profile": 128, "ablate": 64, "finetune": 64}
"""What the verbs take by default."""
_LEAST, _MOST = 8, 512


def plan(
    model: str | nn.Module = "resnet18",
    *,
    run: Run | None = None,
    jobs: Sequence[str] = JOBS,
    data: str | LabelledData | MapDataset = "digits",
    root: str | Path | None = None,
    checkpoint: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    input_size: int | Sequence[int] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    layers: str | Sequence[str] = "activations",
    metrics: Sequence[str] = ("index",),
    shuffles: int = 1000,
    bootstraps: int = 1000,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    limit: int | None = None,
    store: str = "pooled",
    store_dtype: str = "float32",
    top_selective: int = 100,
    all_units: bool = False,
    random_sets: int = 100,
    random_orders: int = 5,
    curve_points: int = 8,
    keep_only: bool = False,
    dtype: str = "float32",
    memory: float | None = None,
    check: int = 4,
    epochs: int = 10,
    images: int | None = None,
    units: int | None = None,
    devices: int = 1,
    seconds: float = 5.0,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    reporter: Reporter = QUIET,
) -> Plan:
    """Count what jobs will take, and estimate their time from a short calibration on this machine.

    A small profile, some ablations and some training steps are really made, in a temporary folder, by the code that
    does the work; nothing is downloaded and no network is trained. Counts (sites, units, operations, bytes of stores)
    are exact; times are those of the commands, start of Python included, with a range.

    Parameters
    ----------
    model : str or torch.nn.Module
        See :func:`auditor.profile`. Without `checkpoint` the weights are random, but for the embedded digits' if they
        are there already.
    run : Run, optional
        Plan for an existing run, with its network, data, layers, metrics and ranking, instead of a new profile.
    jobs : sequence of {"profile", "ablate", "finetune"}
    data, root, checkpoint, preprocessing, input_size, crop_pct, interpolation, mean, std, layers, metrics, shuffles, \
bootstraps, fractions, limit, store, store_dtype
        See :func:`auditor.profile`.
    top_selective, all_units, random_sets, random_orders, curve_points, keep_only, dtype, memory, check
        See :class:`auditor.api.ablation_settings.AblationSettings`.
    epochs : int
        Of the fine-tune.
    images : int, optional
        Plan for so many images in all, divided as those at hand are.
    units : int, optional
        Plan for so many units ablated alone, spread over the layers as `top_selective` or `all_units` says.
    devices : int
        Processes or GPUs that divide the work.
    seconds : float
        About how long to calibrate, beside the start of Python and one profile's tables and figures.
    seed : int
    device, workers
        See :class:`auditor.api.forward.Execution`.
    batch_size : int, optional
        Of every job. Default: each verb's own.
    reporter : Reporter

    Returns
    -------
    Plan

    Raises
    ------
    OptionError, UnknownNameError
        If an option is impossible, or there are fewer units than asked for.
    AuditorError
        Another subclass, if model or data cannot be had.
    """
    began = time.monotonic()
    for job in jobs:
        if job not in JOBS:
            raise unknown_name("job", job, JOBS)
    for name, value in (("devices", devices), ("images", images), ("units", units), ("epochs", epochs)):
        if value is not None:
            at_least(name, value, 1)
    if not 0 < seconds < float("inf"):
        raise OptionError("The calibration needs some time.", wanted="a positive number of seconds", got=str(seconds))
    settings = SelectivitySettings(tuple(metrics), shuffles, bootstraps)
    ablation = AblationSettings(
        top_selective=top_selective, all_units=all_units, random_sets=random_sets, random_orders=random_orders,
        curve_points=curve_points, keep_only=keep_only, dtype=dtype, memory=memory, check=check, seed=seed,
    )  # fmt: skip
    training = TrainingPlan(alpha=-1.0, epochs=epochs, batch_size=batch_size or BATCHES["finetune"], seed=seed)
    execution = Execution(device=device, batch_size=batch_size or BATCHES["profile"], workers=workers)
    overrides = Overrides(input_size, crop_pct, interpolation, mean, std)
    network = planned_network(
        model, run, data=data, root=root, checkpoint=checkpoint, preprocessing=preprocessing, overrides=overrides,
        layers=layers, settings=settings, storing=StoreSettings(store, store_dtype), fractions=fractions, limit=limit,
        seed=seed, execution=execution, reporter=reporter,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="auditor-plan-") as folder:
        made = _Planner(
            network,
            ablation,
            training,
            execution,
            tuple(jobs),
            images,
            units,
            batch_size,
            seconds,
            Path(folder),
            reporter,
        ).plan()
    parts, counts, n_images, notes = made
    about = {
        "model": network.prepared.label,
        "run": None if run is None else str(run.path),
        "data": network.data.name,
        "classes": len(network.data.classes),
        "images": n_images,
        "units": counts.n_units,
        "operations": counts.forward,
        "weights_bytes": counts.weights,
        "device": str(execution.torch_device()),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "calibrated_seconds": round(time.monotonic() - began, 1),
    }
    return Plan(about, counts.table(), parts, devices, [*network.notes, *notes])


class _Planner:
    """One calibration."""

    def __init__(
        self,
        network: Planned,
        ablation: AblationSettings,
        training: TrainingPlan,
        execution: Execution,
        jobs: tuple[str, ...],
        images: int | None,
        units: int | None,
        batch_size: int | None,
        budget: float,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self.network, self.ablation, self.training = network, ablation, training
        self.execution = execution.on(network.prepared.module)
        self.jobs, self.n_alone, self.budget, self.folder, self.reporter = jobs, units, budget, folder, reporter
        self.ablated_together = batch_size or BATCHES["ablate"]
        splits = network.data.splits
        at_hand = sum(map(len, splits.values()))
        scale = 1.0 if images is None else images / at_hand
        self.n_images = {split: round(len(rows) * scale) for split, rows in splits.items()}
        self.notes: list[str] = []
        if images is not None:
            self.notes.append(f"Planned for {images:,} images; calibrated on some of the {at_hand:,} at hand.")

    def plan(self) -> tuple[list[Part], Counts, dict[str, int], list[str]]:
        """Calibrate, and put the parts together."""
        network, data, prepared = self.network, self.network.data, self.network.prepared
        transform = prepared.preprocessing.build()
        example = first_images(data, data.splits["select"], transform, self.execution)
        example = example if len(example) > 1 else example.repeat(2, 1, 1, 1)
        with raw_outputs(prepared.module):
            sites = probe_sites(prepared.module, example, layers=network.layers)
        counts = count(prepared.module, example, sites)
        self.reporter.say(
            f"Calibrating for about {self.budget:g} s, beside one start of Python: {counts.n_units:,} units in "
            f"{len(sites)} sites, {counts.forward / 1e9:.3g} G operations an image."
        )
        share = self.budget / 5
        start = measure_start()
        run, image, fixed = small_profile(
            prepared, data, n=self._few(prepared, example, counts.forward, share), layers=network.layers,
            settings=network.settings, storing=network.storing, seed=0, folder=self.folder, execution=self.execution,
        )  # fmt: skip
        own = network.run or run
        usable = self._usable(own)
        labels = self._labels("select")
        scoring = measure_scoring(run, labels, len(data.classes), network.settings, budget=share)
        cost = ProfileCost(start, Timed.of([network.load]), image, fixed, scoring)
        begin = start.plus(cost.load)
        wide: dict[str, Any] = {
            "n_classes": len(data.classes), "id_bytes": max(len(data.ids[i].encode()) for i in data.splits["select"])
        }  # fmt: skip
        parts: list[Part] = []
        if "profile" in self.jobs:
            parts += profile_parts(counts, cost, self.n_images, network.storing, network.settings, **wide)
        size = len(run.data().splits["select"])
        if "ablate" in usable:
            found, spent = measure_ablation(
                own, data.limited(max(_LEAST, size)), counts, self.ablation,
                replace(self.execution, batch_size=self.ablated_together), exact=network.run is not None,
                n_alone=self.n_alone, fixed=fixed, budget=2 * share, folder=self.folder,
            )  # fmt: skip
            parts += ablation_parts(
                counts, found, spent, self.n_images["score"], start=begin, read=NO_TIME,
                batch_size=self.ablated_together,
                memory=memory_bytes(self.ablation.memory, self.execution.torch_device()),
            )  # fmt: skip
        if "finetune" in usable:
            taught = measure_training(
                own, prepared, data, counts, self.training, self.execution, image=image, fixed=fixed,
                budget=1.5 * share, folder=self.folder,
            )  # fmt: skip
            parts += training_parts(counts, taught, self.n_images, self.training, start=begin)
            parts += profile_parts(
                counts, cost, self.n_images, network.storing, network.settings, job="finetune", **wide
            )  # fmt: skip
        return parts, counts, self.n_images, self.notes

    def _usable(self, run: Run) -> list[str]:
        """Jobs that can be done, with a note on those that cannot."""
        found = [job for job in self.jobs if job != "profile"]
        if run.summary["accuracy"] is None and found:
            self.notes.append("The outputs are not the classes of the data: neither ablation nor training is planned.")
            return []
        for job, split in (("ablate", "score"), ("finetune", "train")):
            if job in found and self.n_images[split] == 0:
                found.remove(job)
                self.notes.append(f"There is no {split} split: `auditor {job}` is not planned.")
        return found

    def _labels(self, split: str) -> NDArray[np.int64]:
        """Labels of as many images as are planned, classes by their share."""
        own = self.network.data.labels[self.network.data.splits[split]]
        return np.resize(own, self.n_images[split]) if len(own) != self.n_images[split] else own

    def _few(self, prepared: Prepared, example: torch.Tensor, operations: int, budget: float) -> int:
        """Images of each split that go through the network in about so many seconds."""
        each = float("inf")
        with evaluating(prepared.module), torch.no_grad():
            for n in (2, 2, 32):
                if n * each < budget or each == float("inf"):
                    batch = example[:1].repeat(n, 1, 1, 1)
                    each = timed(lambda given=batch: prepared.module(given)) / n  # type: ignore[misc]
        return batch_of(budget, each * len(PROFILED), operations / 2, least=_LEAST, most=_MOST)
