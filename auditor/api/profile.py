"""The verb ``profile``: stream data through a model, keep every unit's response, score selectivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from auditor.api.forward import Execution
from auditor.api.heads import HeadChoice
from auditor.api.models import prepare
from auditor.api.profile_ranks import check_ranks
from auditor.api.profiling import profile_prepared
from auditor.api.run import Run
from auditor.api.settings import SelectivitySettings, StoreSettings
from auditor.api.workspace import check_name
from auditor.data import DEFAULT_FRACTIONS, LabelledData, MapDataset, load_data
from auditor.distributed import alone, current
from auditor.distributed.reporters import of_rank
from auditor.models.overrides import Overrides
from auditor.models.preprocessing import Preprocessing
from auditor.progress import QUIET, Reporter
from auditor.registry import registry


def profile(
    model: str | nn.Module = "resnet18",
    *,
    data: str | LabelledData | MapDataset = "digits",
    root: str | Path | None = None,
    max_bad: int | None = None,
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    input_size: int | Sequence[int] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    class_map: str | Path | Mapping[str, int | str] | None = None,
    output_names: str | Path | None = None,
    restrict_outputs: bool = False,
    head: str | None = None,
    layers: str | Sequence[str] = "activations",
    metrics: Sequence[str] = ("index",),
    shuffles: int = 1000,
    bootstraps: int = 1000,
    confidence: float = 0.95,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    limit: int | None = None,
    store: str = "pooled",
    store_dtype: str = "float32",
    compress: str | None = None,
    shard: str | None = None,
    seed: int = 0,
    name: str | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    batch_size: int = 128,
    workers: int | None = None,
    reporter: Reporter = QUIET,
) -> Run:
    """Stream a labelled data set through a model and score every unit's class selectivity.

    Units are scored on the select split; the score split is kept for the held-out index and for later commands. Equal
    settings find the run that is there: a finished one is shown, an interrupted one goes on.

    Parameters
    ----------
    model : str or torch.nn.Module
        ``resnet18``, ``timm:NAME``, ``torchvision:NAME``, ``pkg.module:factory``, or a module.
    data : str, LabelledData or map-style data set
        ``digits``, a folder of class folders, an ``.npz`` file, ``torchvision:NAME``, ``pkg.module:factory``, or a data
        set of ``(image, class number)``; see :func:`auditor.data.load.load_data`.
    root : path, optional
        Where a data set that is known by its name lies.
    max_bad : int, optional
        Images that cannot be read are left out and listed in ``skipped.csv``; more than so many are an error. Default:
        1 % of the images or 10, whichever is more.
    weights : {"pretrained", "none", "digits"}, optional
        Default: ``digits`` with the embedded digits, else ``pretrained``.
    checkpoint : path, optional
        Weights file (safetensors or a state dict), instead of `weights`. One for another number of classes than the
        data have keeps its own outputs.
    preprocessing : Preprocessing, optional
        Default: the model's own evaluation transform.
    input_size, crop_pct, interpolation, mean, std : optional
        Changes to it; see :class:`auditor.models.overrides.Overrides`.
    class_map, output_names, restrict_outputs, head : optional
        What to do where the model's outputs are not the data's classes; see :class:`auditor.api.heads.HeadChoice`.
        Without it units are scored all the same, but there is no accuracy and nothing to ablate by.
    layers : str or sequence of str
        ``activations`` (every nonlinearity's output), ``blocks``, globs, ``re:...`` or ``type:...``.
    metrics : sequence of str
        Selectivity metrics; the class selectivity index is always among them.
    shuffles, bootstraps, confidence
        See :class:`auditor.api.settings.SelectivitySettings`.
    fractions : tuple of float
        Shares of the train, select and score splits.
    limit : int, optional
        At most so many images per split, stratified.
    store, store_dtype, compress, shard
        What is kept of the responses; see :class:`auditor.api.settings.StoreSettings`. The run of a shard is unfinished
        as long as others are missing.
    seed : int
        Of weights made here, shuffles and resamples. The splits do not depend on it.
    name : str, optional
        Name of the run's folder; default from model, data and settings.
    runs : path
        Folder of runs.
    device, batch_size, workers
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    Run

    Raises
    ------
    AuditorError
        A subclass that says what is wrong with the input, before work is spent.
    """
    execution = Execution(device=device, batch_size=batch_size, workers=workers, max_bad=max_bad)
    settings = SelectivitySettings(tuple(metrics), shuffles, bootstraps, confidence)
    storing = StoreSettings(store, store_dtype, compress, shard)
    overrides = Overrides(input_size, crop_pct, interpolation, mean, std)
    choice = HeadChoice(class_map, output_names, restrict_outputs, head)
    for metric in settings.metrics:
        registry().metric(metric)
    if name is not None:
        check_name(name)
    # As an absolute path, so that the run can be reopened from another folder.
    where = None if root is None else str(Path(root).expanduser().resolve())
    world, reporter = current(), of_rank(reporter)
    check_ranks(world, storing)
    # One rank fetches and trains what the others then find in the cache.
    with world.first("data"):
        loaded = load_data(data, fractions=fractions, root=where)
    if limit is not None:
        loaded = loaded.limited(limit)
    with world.first("model"), alone():
        prepared = prepare(
            model,
            loaded,
            weights=weights,
            checkpoint=checkpoint,
            preprocessing=preprocessing,
            overrides=overrides,
            choice=choice,
            layers=layers,
            seed=seed,
            execution=execution,
            reporter=reporter,
        )
    source = (
        {"text": data, "fractions": list(fractions), "limit": limit, "root": where} if isinstance(data, str) else None
    )
    return profile_prepared(
        prepared,
        loaded,
        source=source,
        layers=layers,
        settings=settings,
        storing=storing,
        seed=seed,
        folder=None if name is None else Path(runs) / name,
        runs=Path(runs),
        execution=execution,
        reporter=reporter,
    )
