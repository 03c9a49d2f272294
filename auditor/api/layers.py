"""The verb behind ``auditor layers``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from auditor.api.forward import Execution
from auditor.api.models import prepare
from auditor.data import load_data
from auditor.models import probe_sites
from auditor.models.overrides import Overrides
from auditor.progress import QUIET, Reporter
from auditor.units import Site


def list_sites(
    model: str = "resnet18",
    *,
    data: str = "digits",
    root: str | Path | None = None,
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    layers: str | Sequence[str] = "activations",
    input_size: int | Sequence[int] | None = None,
    seed: int = 0,
    reporter: Reporter = QUIET,
) -> list[Site]:
    """Sites of a model, in network order.

    Sites do not depend on weights, so none are trained or fetched unless asked for; otherwise the parameters are
    those of :func:`auditor.profile`.
    """
    prepared = prepare(
        model,
        load_data(data, root=root),
        weights=weights if weights is not None or checkpoint is not None else "none",
        checkpoint=checkpoint,
        layers=layers,
        seed=seed,
        overrides=Overrides(input_size),
        execution=Execution(),
        reporter=reporter,
    )
    size = prepared.preprocessing.input_size
    example = torch.rand(2, *size, generator=torch.Generator().manual_seed(seed))
    return probe_sites(prepared.module, example.to(next(prepared.module.parameters()).device), layers=layers)
