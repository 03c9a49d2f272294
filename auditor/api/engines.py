"""Choose the engine that ablates, and compare it with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from auditor.ablation import CaptumEngine, Engine, ExactEngine, HookEngine, Job, pair_effects
from auditor.ablation.edits import Edit
from auditor.ablation.engine import MEMORY, Noise
from auditor.errors import OptionError, unknown_name
from auditor.units import Site

ENGINES = ("exact", "captum", "hooks")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CUDA_SHARE = 0.6


def check_engine(engine: str, dtype: str) -> None:
    """Raise an error unless the engine exists and computes in that type.

    Raises
    ------
    UnknownNameError, OptionError
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if dtype not in DTYPES:
        raise unknown_name("type", dtype, DTYPES)
    if engine != "exact" and dtype != "float32":
        raise OptionError(
            f"The engine {engine!r} runs the model as it is.", wanted="--dtype float32", got=dtype, fix="--engine exact"
        )


def memory_bytes(memory: float | None, device: torch.device) -> int:
    """Bytes that a batch may take: as asked for in GiB, else 2 GiB, or a share of what a GPU has."""
    if memory is not None:
        return int(memory * 2**30)
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return MEMORY


def make_engine(
    name: str, module: nn.Module, sites: Sequence[Site], images: Tensor, *, dtype: str = "float32", memory: int = MEMORY
) -> Engine:
    """Build an engine for a model in eval mode; `images` are a few examples."""
    if name == "exact":
        kind = images.dtype if dtype == "float32" else DTYPES[dtype]
        return ExactEngine(module, sites, images, dtype=kind, memory=memory)
    if name == "captum":
        return CaptumEngine(module, dtype=images.dtype)
    return HookEngine(module, images, memory=memory)


@dataclass(frozen=True)
class Agreement:
    """How far the effects that two engines find for the same units and images are apart.

    Attributes
    ----------
    engine, reference : str
    n_units, n_images : int
        Units, drawn at random, and images that were compared.
    difference : float
        Largest difference of a target-logit drop.
    effect : float
        Largest drop of the reference.
    loss_difference, loss_effect : float
        The same of the loss change (nats).
    rank_correlation : float or None
        Spearman correlation of the units' mean loss changes; None for fewer than three units, or equal ones.
    """

    engine: str
    reference: str
    n_units: int
    n_images: int
    difference: float
    effect: float
    loss_difference: float
    loss_effect: float
    rank_correlation: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare_engines(
    engine: Engine,
    reference: Engine,
    images: Tensor,
    labels: Tensor,
    jobs: Sequence[Job],
    edit: Edit,
    *,
    names: tuple[str, str],
    donors: Tensor | None = None,
    noise: Noise | None = None,
) -> Agreement:
    """Ablate the same units with two engines."""
    found = []
    for each in (engine, reference):
        effects = ablate_effects(each, images, labels, jobs, edit, donors=donors, noise=noise)
        found.append({name: np.concatenate([part[name] for part in effects]) for name in effects[0]})
    mine, theirs = found
    gaps = {name: float(np.abs(mine[name] - theirs[name]).max()) for name in ("target_logit_drop", "loss_change")}
    largest = {name: float(np.abs(theirs[name]).max()) for name in gaps}
    means = [values["loss_change"].mean(1) for values in found]
    rank = float(spearmanr(*means).statistic) if len(means[0]) > 2 and all(np.ptp(m) > 0 for m in means) else None
    return Agreement(
        *names, len(means[0]), len(images), gaps["target_logit_drop"], largest["target_logit_drop"],
        gaps["loss_change"], largest["loss_change"], rank,
    )  # fmt: skip


def ablate_effects(
    engine: Engine,
    images: Tensor,
    labels: Tensor,
    jobs: Sequence[Job],
    edit: Edit,
    *,
    donors: Tensor | None = None,
    noise: Noise | None = None,
    advance: Any = None,
) -> list[dict[str, NDArray[Any]]]:
    """Effects of every unit of every job on every image: for each job arrays of shape (U, B) by name.

    Where an ablation changes nothing the effect is 0 and the prediction that of the intact network.
    """
    kinds = {"target_logit_drop": np.float32, "loss_change": np.float32, "kl": np.float32, "prediction": np.int32}
    results: dict[str, dict[str, NDArray[Any]]] = {
        job.site.name: {name: np.zeros((len(job.units), len(images)), dtype=kind) for name, kind in kinds.items()}
        for job in jobs
    }
    touched = {name: np.zeros(found["kl"].shape, dtype=bool) for name, found in results.items()}

    def sink(site: str, units: Tensor, rows: Tensor, logits: Tensor, intact: Tensor) -> None:
        where = units.cpu().numpy(), rows.cpu().numpy()
        touched[site][where] = True
        own = labels[rows.to(labels.device)].to(logits.device)
        for key, values in pair_effects(intact, logits, own).items():
            results[site][key][where] = values.cpu().numpy()

    intact = engine.ablate(images, jobs, edit, sink, donors=donors, noise=noise, advance=advance)
    predicted = intact.argmax(1).cpu().numpy().astype(np.int32)
    for site, found in results.items():
        found["prediction"] = np.where(touched[site], found["prediction"], predicted)
    return [results[job.site.name] for job in jobs]
