"""Which network and data a plan is for, without spending anything on weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from auditor.api.embedded import weights_path
from auditor.api.forward import Execution
from auditor.api.models import Prepared, prepare
from auditor.api.plan_profile import import_all
from auditor.api.run import Run
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.data import LabelledData, MapDataset, load_data
from auditor.models import find_model
from auditor.models.overrides import Overrides
from auditor.models.preprocessing import Preprocessing
from auditor.progress import QUIET, Reporter

_RANDOM = (
    "Weights: random, since none were given. Fewer of their units are silent than of a trained network's, and silent "
    "ones cost nothing, so times of ablation are upper estimates; so are which layers the most selective units lie "
    "in. --checkpoint FILE or --run NAME does better."
)
_RANKED = (
    "Which units are the most selective was guessed from a few images; --run NAME takes those of a finished profile."
)


@dataclass(frozen=True)
class Planned:
    """What a plan is for.

    Attributes
    ----------
    prepared : Prepared
    data : LabelledData
    run : Run or None
        An existing run.
    layers : str or list of str
    settings : SelectivitySettings
    storing : StoreSettings
    load : float
        Seconds to load data and model.
    notes : list of str
    """

    prepared: Prepared
    data: LabelledData
    run: Run | None
    layers: str | Sequence[str]
    settings: SelectivitySettings
    storing: StoreSettings
    load: float
    notes: list[str] = field(default_factory=list)


def planned_network(
    model: str | nn.Module,
    run: Run | None,
    *,
    data: str | LabelledData | MapDataset,
    root: str | Path | None,
    checkpoint: str | Path | None,
    preprocessing: Preprocessing | None,
    overrides: Overrides,
    layers: str | Sequence[str],
    settings: SelectivitySettings,
    storing: StoreSettings,
    fractions: tuple[float, float, float],
    limit: int | None,
    seed: int,
    execution: Execution,
    reporter: Reporter,
) -> Planned:
    """Build the network of a run, or a new one: with a checkpoint, cached weights of the embedded data, or random ones.

    Raises
    ------
    AuditorError
        As :func:`auditor.profile` and :meth:`auditor.Run.model` do.
    """
    if run is not None:
        import_all()
        began = time.perf_counter()
        own, prepared = run.data(), run.model(execution)
        took, identity = time.perf_counter() - began, run.manifest.identity
        chosen = identity["selectivity"]
        return Planned(
            prepared, own, run, identity["layers"],
            SelectivitySettings(**{**chosen, "metrics": tuple(chosen["metrics"])}),
            StoreSettings(identity["store"], identity["dtype"]), took,
        )  # fmt: skip
    where = None if root is None else str(Path(root).expanduser().resolve())

    def load(weights: str | None) -> tuple[Prepared, LabelledData, float]:
        began = time.perf_counter()
        loaded = load_data(data, fractions=fractions, root=where)
        loaded = loaded if limit is None else loaded.limited(limit)
        given = isinstance(model, nn.Module) or checkpoint is not None
        prepared = prepare(
            model, loaded, weights=None if given else weights, checkpoint=checkpoint, preprocessing=preprocessing,
            overrides=overrides, layers=layers, seed=seed, execution=execution,
            reporter=reporter if weights == "none" else QUIET,
        )  # fmt: skip
        return prepared, loaded, time.perf_counter() - began

    import_all()  # counted elsewhere
    prepared, loaded, took = load("none")
    notes = [_RANKED]
    if prepared.identity["weights"] == "none":
        notes = [_RANDOM]
        if loaded.name == "digits" and isinstance(model, str):
            path, _ = weights_path(find_model(model), prepared.preprocessing, loaded, seed)
            if path.exists():
                (prepared, loaded, took), notes = load("digits"), [_RANKED]
            else:
                notes.append(
                    "The embedded digits' weights are not there yet: they are trained once, which comes on top."
                )
    return Planned(prepared, loaded, None, layers, settings, storing, took, notes)
