"""What a profile will take, from a small one that is really made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.api.forward import Execution
from auditor.api.models import Prepared
from auditor.api.plan_clock import NO_TIME, Part, Stopwatch, Timed, seconds
from auditor.api.plan_counts import Counts
from auditor.api.profiling import profile_prepared
from auditor.api.run import Run
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.data import LabelledData
from auditor.registry import registry
from auditor.selectivity.moment_scores import UNIT_BLOCK
from auditor.selectivity.resample import BLOCK_BYTES, DENSE_CLASSES
from auditor.selectivity.scoring import score_metrics
from auditor.stats.moments import ClassMoments
from auditor.store.space import estimate_bytes

if TYPE_CHECKING:
    from auditor.selectivity.base import AnyMetric

QUICK: dict[str, Any] = {"shuffles": 19, "bootstraps": 39}
PROFILED = ("select", "score")
_IMPORTED = (
    "auditor.api.profile", "auditor.api.ablate", "auditor.api.finetune", "auditor.report.style", "timm", "torchvision",
    "sklearn.datasets",
)  # fmt: skip
_FEW, _DRAWS = 20, 400
_MOST_UNITS = 256


@dataclass(frozen=True)
class ProfileCost:
    """Measured on this machine.

    Attributes
    ----------
    start : Timed
        A fresh Python with all imports.
    load : Timed
        Data and model.
    image : Timed
        One image through the network with hooks, store and moments, reading included.
    fixed : Timed
        Everything else: probing, tables, figures.
    scoring : Timed
        All units, on as many images as are planned.
    """

    start: Timed
    load: Timed
    image: Timed
    fixed: Timed
    scoring: Timed


def import_all() -> None:
    """Import what the verbs need: what is imported at first use would count as work later."""
    for name in _IMPORTED:
        import_module(name)
    registry().metrics()


def measure_start() -> Timed:
    """Start Python anew, as a command does, and import what the verbs need."""
    script = f"import {', '.join(_IMPORTED)}; auditor.api.profile.registry().metrics()"
    command = [sys.executable, "-c", script]
    return Timed.of([seconds(lambda: subprocess.run(command, check=False, capture_output=True))])


def small_profile(
    prepared: Prepared,
    data: LabelledData,
    *,
    n: int,
    layers: str | Sequence[str],
    settings: SelectivitySettings,
    storing: StoreSettings,
    seed: int,
    folder: Path,
    execution: Execution,
) -> tuple[Run, Timed, Timed]:
    """Profile `n` images of each split with few shuffles.

    Returns
    -------
    run : Run
    image, fixed : Timed
        Seconds of one image, and of everything but images and scores.
    """
    clock = Stopwatch()
    # At least four batches, so that their spread shows.
    size = max(1, min(execution.batch_size, n // 2))
    made: list[Run] = []

    def work() -> None:
        run = profile_prepared(
            prepared, data.limited(n), source=None, layers=layers, settings=replace(settings, **QUICK),
            storing=replace(storing, shard=None), seed=seed, folder=folder / "profile", runs=folder,
            execution=replace(execution, batch_size=size), reporter=clock,
        )  # fmt: skip
        made.append(run)

    whole = seconds(work)
    passed, scored = clock.span("Profiling"), clock.span("Scoring")
    image = Timed.of(passed.rates())
    # The mean over the pass also holds what is done between batches, and at the end.
    mean = passed.seconds / max(1.0, sum(amount for _, amount in passed.steps))
    image = Timed(mean, min(mean, image.low), max(mean, image.high))
    rest = whole - passed.seconds - scored.seconds
    return made[0], image, Timed(rest, rest, rest)


def measure_scoring(
    run: Run, labels: NDArray[np.int64], n_classes: int, settings: SelectivitySettings, *, budget: float
) -> Timed:
    """Seconds to score all units of a run on images with these labels.

    A site's time is a part that the shuffles take whatever its units, and a part for each unit; both are measured on
    responses drawn at random, at the true numbers of images and classes, with fewer draws.
    """
    signed = dict(zip(run.layers["site"], run.layers["signed"] > 0, strict=True))
    total = NO_TIME
    for kind in sorted(set(signed.values())):
        widths = [site.n_units for site in run.sites if signed[site.name] == kind]
        names = dict.fromkeys([*settings.metrics, *(settings.signed if kind else ())])
        metrics = [registry().metric(name) for name in names]
        total = total.plus(_scoring(widths, metrics, labels, n_classes, settings, signed=kind, budget=budget))
    return total


def _scoring(
    widths: Sequence[int],
    metrics: Sequence[AnyMetric],
    labels: NDArray[np.int64],
    n_classes: int,
    settings: SelectivitySettings,
    *,
    signed: bool,
    budget: float,
) -> Timed:
    rng = np.random.default_rng(0)
    share = settings.bootstraps / settings.shuffles
    wide = max(2, min(max(widths), _MOST_UNITS))
    narrow = max(1, min(min(widths), wide // 2))
    values = rng.gamma(1.0, size=(len(labels), wide)).astype(np.float32) - (1.0 if signed else 0.0)

    def score(units: int, draws: int) -> float:
        return seconds(
            lambda: score_metrics(
                values[:, :units],
                labels,
                n_classes=n_classes,
                metrics=metrics,
                n_shuffles=draws,
                n_boot=max(1, round(draws * share)),
                confidence=settings.confidence,
                seed=0,
            )
        )

    score(narrow, 2)
    first = score(wide, _FEW)
    many = int(np.clip(_FEW * budget / 4 / max(first, 1e-6), 2 * _FEW, max(_DRAWS, 2 * _FEW)))
    rounds = []
    for _ in range(2):
        few, wides, narrows = score(wide, _FEW), score(wide, many), score(narrow, many)
        each = max(0.0, wides - few) / (many - _FEW)
        once = max(0.0, few - _FEW * each)
        draw = max(0.0, narrows - once * narrow / wide) / many
        per_unit = max(0.0, each - draw) / (wide - narrow)
        per_site = max(0.0, draw - narrow * per_unit)
        blocks = sum(-(-width // UNIT_BLOCK) for width in widths)
        units = sum(widths)
        rounds.append(units * once / wide + settings.shuffles * (blocks * per_site + units * per_unit))
    return Timed.of(rounds)


def profile_parts(
    counts: Counts, cost: ProfileCost, n_images: Mapping[str, int], storing: StoreSettings,
    settings: SelectivitySettings, *, n_classes: int, id_bytes: int, job: str = "profile",
) -> list[Part]:  # fmt: skip
    """What the pass, the scores and the tables take; of a job that profiles at its end, too."""
    n, selected = sum(n_images[split] for split in PROFILED), n_images["select"]
    disk, held = store_bytes(counts, n, storing, id_bytes=id_bytes)
    moments = moments_bytes(counts, n_classes)
    again = "" if job == "profile" else "profile of the result: "
    start = [Part(job, "start, data and model", "-", cost.start.plus(cost.load), memory=counts.weights)]
    return [
        *(start if job == "profile" else []),
        Part(
            job, f"{again}pass over the images", "images", cost.image.times(n), counts.forward * n, disk,
            held + moments, parallel=True,
        ),
        Part(
            job, f"{again}scores", "images x units x draws", cost.scoring,
            scoring_operations(selected, counts.n_units, n_classes, settings),
            memory=BLOCK_BYTES + 8 * selected * min(counts.n_units, UNIT_BLOCK), parallel=True,
        ),
        Part(job, f"{again}tables and figures", "units", cost.fixed, disk=moments),
    ]  # fmt: skip


def store_bytes(counts: Counts, n: int, storing: StoreSettings, *, id_bytes: int) -> tuple[int, int]:
    """Bytes of a store of `n` images on disk, and of responses held in memory where they are not stored."""
    units = {site.name: site.n_units for site in counts.sites}
    width = np.dtype(storing.dtype).itemsize
    maps = {site.name: site.shape for site in counts.sites} if storing.keep == "full" else {}
    kept, kind = (units, storing.dtype) if storing.keep != "none" else ({}, "float32")
    size = estimate_bytes(
        n_rows=n, sites=kept, n_outputs=counts.n_outputs, dtype=kind, id_bytes=id_bytes, maps=maps
    )  # fmt: skip
    return size, n * counts.n_units * width if storing.keep == "none" else 0


def moments_bytes(counts: Counts, n_classes: int) -> int:
    """Bytes of the class moments of both splits, in memory and, but for the archive's headers, on disk."""
    state = ClassMoments(n_classes, 1).state()
    one = sum(np.asarray(value).nbytes for name, value in state.items() if name != "count")
    return len(PROFILED) * (counts.n_units * one + len(counts.sites) * 8 * n_classes)


def scoring_operations(n_images: int, n_units: int, n_classes: int, settings: SelectivitySettings) -> int:
    """Additions and multiplications of the class sums of shuffled and resampled responses, of the index alone.

    With few classes a shuffle is a product with a dense matrix, which does the work of all classes but one.
    """
    classes = n_classes - 1 if n_classes <= DENSE_CLASSES else 1
    return 2 * n_images * n_units * (settings.shuffles * classes + settings.bootstraps)
