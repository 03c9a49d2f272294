"""The verb ``ablate``: what the network loses without its most selective units, against matched random ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from auditor.ablation import (
    Curve,
    Group,
    captum_unit_logits,
    cross_entropy,
    curve_counts,
    curve_orders,
    curve_table,
    group_logits,
    unit_effects,
)
from auditor.api.ablation_result import Ablation, write_results
from auditor.api.forward import Batch, Execution, batches
from auditor.api.heads import CHOICES
from auditor.api.run import Run
from auditor.api.selection import curve_score, resolve, select_units
from auditor.api.settings import AblationSettings
from auditor.api.workspace import claim, locked, slug, write_manifest
from auditor.causal import MatchedSets, matched_sets, set_test
from auditor.data import LabelledData
from auditor.errors import DataError, ModelError
from auditor.manifest import Manifest, provenance
from auditor.models.trace import evaluating
from auditor.progress import QUIET, Reporter, Task
from auditor.store.blocks import BlockCache
from auditor.units import Site

BATCH = 64
MAX_BATCH = 512


@dataclass(frozen=True)
class _Plan:
    """Everything that is silenced, decided before the first image is scored."""

    chosen: pd.DataFrame
    sets: MatchedSets
    curves: list[Curve]
    counts: list[int]

    @property
    def by_site(self) -> dict[str, list[int]]:
        """Rows of `chosen`, by site."""
        rows: dict[str, list[int]] = {}
        for row, site in enumerate(self.chosen["site"]):
            rows.setdefault(str(site), []).append(row)
        return rows


def ablate(
    run: Run,
    *,
    top_selective: int = 100,
    by: str = "excess",
    random_sets: int = 100,
    random_orders: int = 5,
    curve_points: int = 8,
    curve_over: str = "layers",
    q: float = 0.05,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = BATCH,
    workers: int | None = None,
    reporter: Reporter = QUIET,
) -> Ablation:
    """Silence the most selective units, one by one and together, and compare with matched random units.

    Units are chosen on the select split and scored on the score split.

    Parameters
    ----------
    run : Run
    top_selective, by, random_sets, random_orders, curve_points, curve_over, q, limit, seed
        See :class:`auditor.api.settings.AblationSettings`.
    device, batch_size, workers
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    Ablation

    Raises
    ------
    OptionError, UnknownNameError
        If the units cannot be chosen as asked.
    RunError
        If model or data are not those of the run.
    ModelError
        If the model's outputs are not the data's classes.
    DataError
        If the run has no score split.
    """
    began = time.monotonic()
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    settings = AblationSettings(
        top_selective=top_selective,
        by=by,
        random_sets=random_sets,
        random_orders=random_orders,
        curve_points=curve_points,
        curve_over=curve_over,
        q=q,
        confidence=run.confidence,
        seed=seed,
        limit=limit,
    )
    units = run.selectivity
    if run.summary["accuracy"] is None:
        raise ModelError(
            "The model's outputs are not the classes of the data, so ablation cannot be scored.",
            wanted=f"{len(run.classes)} outputs, one per class",
            fix=f"{CHOICES}, or profile a checkpoint trained on these classes (--checkpoint FILE).",
        )
    if run.manifest.identity["data"]["n_per_split"]["score"] == 0:
        raise DataError(
            "The run has no score split, so what it chose cannot be tested on images that did not choose it.",
            fix="Profile with a share for the score split (--fractions 0,0.5,0.5); every class then needs 2 images.",
        )
    settings, left_out = resolve(settings, run.layers)
    chosen = select_units(units, settings, left_out=left_out)
    manifest = Manifest(
        kind="ablate",
        identity={
            "run": run.manifest.digest(),
            "engine": "captum",
            "edit": "zero",
            "batch_size": batch_size,
            **settings.to_dict(),
        },
        provenance=provenance(execution=execution.describe()),
    )
    folder = run.path / "ablations" / f"top{top_selective}-{slug(settings.by)}-{manifest.digest()[:8]}"
    with locked(folder):
        if claim(folder, manifest).state == "done":
            reporter.say(f"Ablation: {folder} was finished before with these settings; showing it.")
            return Ablation(folder, run)
        data = run.data() if limit is None else run.data().limited(limit)
        reporter.say(
            f"Ablation of {run.name}: {len(chosen)} units chosen on the select split "
            f"({units['n_images'].iloc[0]} images), scored on the score split ({len(data.splits['score'])} images)."
        )
        plan = _plan(units, chosen, curve_score(units, run.layers, settings), settings)
        logits = _measure(run, data, plan, BlockCache(folder / "blocks"), execution, reporter)
        _summarise(folder, units, plan, logits, data.labels[data.splits["score"]], data.classes, settings, left_out)
        manifest.complete = True
        manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
        result = Ablation(folder, run, manifest=manifest)
        result.save_figures()
        write_manifest(folder, manifest)
        BlockCache(folder / "blocks").clear()
    return result


def _plan(units: pd.DataFrame, chosen: pd.DataFrame, score: NDArray[np.float64], settings: AblationSettings) -> _Plan:
    codes = pd.factorize(units["site"])[0].astype(np.int64)
    alive = (~units["dead"] & units["mean"].notna()).to_numpy()
    sets = matched_sets(
        chosen.index.to_numpy(), codes, units["mean"].fillna(0.0).to_numpy(), alive,
        n_sets=settings.random_sets, seed=settings.seed,
    )  # fmt: skip
    curves = curve_orders(
        score, codes, n_random=settings.random_orders, within_layers=settings.curve_over == "layers", seed=settings.seed
    )
    return _Plan(chosen, sets, curves, curve_counts(len(units), settings.curve_points))


def _measure(
    run: Run, data: LabelledData, plan: _Plan, blocks: BlockCache, execution: Execution, reporter: Reporter
) -> dict[str, NDArray[np.float32]]:
    """Logits of everything in the plan; each batch of images is one resumable block."""
    prepared = run.model(execution)
    execution = execution.on(prepared.module)
    size = execution.batch_size
    score = data.splits["score"]
    rows = {f"batch-{i:06d}": score[start : start + size] for i, start in enumerate(range(0, len(score), size))}
    groups = _groups(run.selectivity, plan)
    n_ablations = len(plan.chosen) + len(groups)
    done = {key: block for key in rows if (block := blocks.get(key)) is not None}
    missing = [key for key in rows if key not in done]
    with evaluating(prepared.module), reporter.task("Ablating", n_ablations * len(score), "ablated images") as task:
        task.advance(n_ablations * sum(len(rows[key]) for key in done))
        if missing:
            # Only the last block is short, so what is missing falls into the same batches again.
            index = np.concatenate([rows[key] for key in missing])
            loader = batches(data, index, prepared.preprocessing.build(), execution)
            for key, batch in zip(missing, loader, strict=True):
                done[key] = _measure_batch(prepared.module, run.sites, plan, groups, batch, task)
                blocks.put(key, done[key])
    return {name: np.concatenate([done[key][name] for key in rows], axis=1) for name in ("single", "joint")}


def _groups(units: pd.DataFrame, plan: _Plan) -> list[Group]:
    """Intact network, selected set, random sets, then every point of every curve."""
    sites, indices = units["site"].to_numpy(), units["unit"].to_numpy()

    def group(rows: NDArray[np.int64]) -> Group:
        frame = pd.Series(indices[rows]).groupby(sites[rows], sort=False)
        return {str(site): part.to_list() for site, part in frame}

    found: list[Group] = [{}, group(plan.chosen.index.to_numpy())]
    found += [group(rows) for rows in plan.sets.sets]
    found += [group(curve.ranking[:count]) for curve in plan.curves for count in plan.counts]
    return found


def _measure_batch(
    module: torch.nn.Module, sites: Sequence[Site], plan: _Plan, groups: Sequence[Group], batch: Batch, task: Task
) -> dict[str, NDArray[np.float32]]:
    by_name = {site.name: site for site in sites}
    single: NDArray[np.float32] | None = None
    for name, rows in plan.by_site.items():
        wanted = [int(u) for u in plan.chosen["unit"].iloc[rows]]
        part = captum_unit_logits(
            module, batch.images, batch.labels, by_name[name], wanted, max_batch=MAX_BATCH
        ).numpy()
        if single is None:
            single = np.empty((len(plan.chosen), *part.shape[1:]), dtype=np.float32)
        single[rows] = part
        task.advance(part.shape[0] * part.shape[1])
    joint = group_logits(module, batch.images, sites, groups, advance=lambda n: task.advance(n * len(batch.index)))
    assert single is not None
    return {"single": single, "joint": joint.numpy()}


def _summarise(
    folder: Path,
    units: pd.DataFrame,
    plan: _Plan,
    logits: dict[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    settings: AblationSettings,
    left_out: Sequence[str],
) -> None:
    intact, joint = logits["joint"][0], logits["joint"][1:]
    n_sets = settings.random_sets
    prefers = plan.chosen[_preferred_column(settings)]
    preferred = pd.Index(classes).get_indexer(pd.Index(prefers))
    effects = unit_effects(intact, logits["single"], labels, preferred.astype(np.int64), confidence=settings.confidence)
    metric = settings.metric
    names = ["unit_id", "site", "unit", "preferred", "mean", "firing_rate", "index", "index_excess", "index_q"]
    names += [metric, f"{metric}_excess", f"{metric}_q"]
    described = plan.chosen[list(dict.fromkeys([*names, settings.column]))].reset_index(drop=True)
    described["preferred"] = prefers.to_numpy()
    described.insert(0, "rank", np.arange(1, len(described) + 1))
    base_loss, base_correct = cross_entropy(intact, labels), intact.argmax(1) == labels
    loss = cross_entropy(joint[: 1 + n_sets], labels) - base_loss
    lost = base_correct.astype(np.float64) - (joint[: 1 + n_sets].argmax(-1) == labels)
    tests = {
        "loss_change": set_test(loss[0], loss[1:], confidence=settings.confidence),
        "accuracy_drop": set_test(lost[0], lost[1:], confidence=settings.confidence),
    }
    points = [(curve.order, curve.draw, count) for curve in plan.curves for count in plan.counts]
    table = pd.DataFrame(points, columns=["order", "draw", "n_silenced"])
    table["correct"] = (joint[1 + n_sets :].argmax(-1) == labels).sum(1)
    write_results(
        folder,
        effects=pd.concat([described, effects], axis=1),
        curve=curve_table(int(base_correct.sum()), table, len(labels), confidence=settings.confidence),
        sets=pd.DataFrame(
            {
                "set": np.arange(n_sets),
                "loss_change": tests["loss_change"].null,
                "accuracy_drop": tests["accuracy_drop"].null,
                "overlap": plan.sets.overlap,
                "units": [" ".join(units["unit_id"].to_numpy()[rows]) for rows in plan.sets.sets],
            }
        ),
        tests=tests,
        matching=plan.sets,
        site_names=list(dict.fromkeys(units["site"])),
        base_correct=base_correct,
        settings=settings,
        left_out=left_out,
        n_images=len(labels),
    )


def _preferred_column(settings: AblationSettings) -> str:
    return "preferred" if settings.metric == "index" else f"{settings.metric}_preferred"
