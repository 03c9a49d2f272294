"""The verb ``robustness``: accuracy under natural corruptions and white-box attacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.api.forward import Execution
from auditor.api.robustness_measure import Measurement, Survival
from auditor.api.robustness_networks import (
    Loader,
    Network,
    check_same_images,
    check_scored,
    check_source,
    networks_of,
    next_seed,
)
from auditor.api.robustness_result import Robustness, save_tables
from auditor.api.robustness_settings import (
    ALL,
    ATTACKS,
    EPSILONS,
    NONE,
    PLUGIN,
    STEPS,
    RobustnessSettings,
    chosen,
    corruption_identity,
    has_plugin,
    numbers,
)
from auditor.api.robustness_stored import Stored, open_stored
from auditor.api.run import Run
from auditor.api.workspace import claim, locked, write_manifest
from auditor.data import LabelledData
from auditor.errors import OptionError
from auditor.manifest import Manifest, provenance
from auditor.perturbations.base import GROUPS, SEVERITIES
from auditor.progress import QUIET, Reporter
from auditor.registry import registry
from auditor.store.blocks import BlockCache

if TYPE_CHECKING:
    from auditor.api.sweep import Sweep

__all__ = ["Robustness", "robustness"]

FOLDER = "robustness"
PER_IMAGE = "per_image"
BATCH = 128


def robustness(
    what: Run | Sweep,
    *,
    corruptions: str | Sequence[str] = ALL,
    severities: Sequence[int] = SEVERITIES,
    attacks: str | Sequence[str] = ATTACKS,
    epsilons: Sequence[float] = EPSILONS,
    steps: Sequence[int] = STEPS,
    pgd_steps: int = 10,
    step_epsilon: float = 2.0,
    jacobian: bool = True,
    n_images: int = 1000,
    stored: str | Path | None = None,
    reference: Run | str | Path | None = None,
    transfer_from: Run | str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    batch_size: int = BATCH,
    reporter: Reporter = QUIET,
) -> Robustness:
    """Measure accuracy under corruptions and attacks, of one run's network or of those of a sweep.

    All on the score split. Corruptions and attacks work on pixels in [0, 1] at the network's input size, after
    resizing and cropping; the networks of a sweep share the corrupted pixels.

    Parameters
    ----------
    what : Run or Sweep
    corruptions : str or sequence of str
        Names, ``"all"`` that are installed, or ``"none"``.
    severities, epsilons, steps, pgd_steps, step_epsilon, n_images, seed
        See :class:`auditor.api.robustness_settings.RobustnessSettings`; epsilons are in 255ths.
    attacks : str or sequence of str
        ``fgsm``, ``pgd``, ``"all"`` or ``"none"``.
    jacobian : bool
        Also measure the norm of the input-output Jacobian.
    stored : path, optional
        Folder of corrupted images in the form of CIFAR-10-C or ImageNet-C, read in place of making them.
    reference : Run, name or path, optional
        Network in units of whose errors the mean corruption error is given.
    transfer_from : Run, name or path, optional
        Network on which examples are made for the transfer check. Default: for a network of a sweep that of the same
        alpha and the next seed, for a single run none.
    device, workers, batch_size
        See :class:`auditor.api.forward.Execution`.
    reporter : Reporter

    Returns
    -------
    Robustness

    Raises
    ------
    OptionError, UnknownNameError
        If it cannot be done as asked.
    ModelError
        If a network's outputs are not the data's classes, or have no gradient that attacks could use.
    RunError, DataError
        If models or data are not those of the runs, or runs are of different images.
    """
    began = time.monotonic()
    execution = Execution(device=device, batch_size=batch_size, workers=workers)
    networks = networks_of(what)
    first = networks[0].run
    sets = None if stored is None else open_stored(Path(stored), first.classes)
    settings = RobustnessSettings(
        corruptions=chosen(corruptions, _known(sets), "corruption"),
        severities=tuple(map(int, numbers("severities", severities, whole=True))),
        attacks=chosen(attacks, ATTACKS, "attack"),
        epsilons=numbers("epsilons", epsilons),
        steps=tuple(map(int, numbers("steps", steps, whole=True))),
        pgd_steps=pgd_steps,
        step_epsilon=float(step_epsilon),
        n_images=n_images,
        confidence=first.confidence,
        seed=seed,
    )
    if sets is not None:
        sets.check(settings.corruptions, settings.severities)
    if not settings.corruptions and not settings.attacks and not jacobian:
        raise OptionError("There is nothing to measure.", got="no corruptions, no attacks, no Jacobian")
    beside = what.path.parent
    other = None if reference is None else _network(reference, networks, beside)
    source = None if transfer_from is None else _network(transfer_from, networks, beside)
    for network in networks if source is not None and "pgd" in settings.attacks else ():
        check_source(network, source)  # type: ignore[arg-type]
    everyone = networks if other is None or other in networks else [*networks, other]
    data = first.data().limited(settings.n_images)
    manifest = Manifest(
        kind="robustness",
        identity={
            "of": what.manifest.digest(),  # of a sweep: what its networks have in common, so it may grow
            "settings": settings.to_dict(),
            "jacobian": jacobian,
            "data": {
                name: data.summary()[name] for name in ("fingerprint", "split_fingerprint")
            },
            "corruptions": _corruption_identity(settings, everyone, sets),
            "reference": None if other is None else other.run.manifest.digest(),
            "transfer_from": None if source is None else source.run.manifest.digest(),
        },
        provenance=provenance(execution=execution.describe(), networks=[one.key for one in networks]),
    )  # fmt: skip
    n = len(data.splits["score"])
    folder = what.path / FOLDER / f"{n}-images-{manifest.digest()[:8]}"
    with locked(folder):
        there = Robustness.read_networks(folder)
        state = claim(folder, manifest).state
        if state == "done" and there == manifest.provenance["networks"] and Robustness(folder).is_whole():
            reporter.say(f"Robustness: {folder} was finished before with these settings; showing it.")
            return Robustness(folder)
        _announce(networks, data, settings, sets, reporter)
        loader = Loader(networks, execution)
        work = Measurement(data, settings, loader, BlockCache(folder / PER_IMAGE), reporter)
        found = _measure(work, networks, everyone, source, sets, jacobian=jacobian)
        pairs = [(one, found[one.name]) for one in networks]
        save_tables(folder, pairs, None if other is None else found[other.name], settings, notes=_notes(
            networks, data, settings, sets, other, source
        ))  # fmt: skip
        result = Robustness(folder)
        result.save_figures()
        manifest.complete = True
        manifest.provenance["seconds"] = round(time.monotonic() - began, 2)
        write_manifest(folder, manifest)
    return Robustness(folder)


def _measure(
    work: Measurement,
    networks: Sequence[Network],
    everyone: Sequence[Network],
    source: Network | None,
    sets: Stored | None,
    *,
    jacobian: bool,
) -> dict[str, Survival]:
    if work.settings.attacks or jacobian:
        work.check_gradients(networks[0])
    clean = work.clean(everyone)
    names = work.settings.corruptions
    corrupted = work.corrupted(everyone, names) if sets is None else sets.measure(work, everyone)
    attacked = work.attacked(networks, clean)
    transferred = work.transferred(networks, clean, source)
    norms = work.jacobians(networks) if jacobian else {}
    found = {}
    for one in everyone:
        origin, survives = transferred.get(one.name, ("", None))
        found[one.name] = Survival(
            clean=clean[one.name], corrupted=corrupted[one.name], attacked=attacked.get(one.name, {}),
            transferred=survives, source=origin, jacobian=norms.get(one.name), paired=sets is None,
        )  # fmt: skip
    return found


def _known(sets: Stored | None) -> list[str]:
    """Names of all corruptions, group by group."""
    known = registry().corruptions()
    order = {group: place for place, group in enumerate(GROUPS)}
    names = list(known if sets is None else sets.types)
    return sorted(names, key=lambda name: order[known[name].group] if name in known else len(order))


def _corruption_identity(
    settings: RobustnessSettings, networks: Sequence[Network], sets: Stored | None
) -> dict[str, Any]:
    if sets is not None:
        return {"stored": sets.identity(settings.corruptions, settings.severities)}
    sizes = sorted({min(one.preprocessing.input_size[1:]) for one in networks})
    return {str(size): corruption_identity(settings.corruptions, settings.severities, size) for size in sizes}


def _network(given: Run | str | Path, networks: Sequence[Network], beside: Path) -> Network:
    """Another network, or the one of `networks` that it is."""
    run = given if isinstance(given, Run) else Run.open(str(given), runs=beside)
    check_scored(run)
    check_same_images(run, networks[0].run)
    name = f"{run.name} (given)" if run.name in {one.name for one in networks} else run.name
    other = Network(name, None, None, run)
    return next((one for one in networks if one.key == other.key), other)


def _announce(
    networks: Sequence[Network],
    data: LabelledData,
    settings: RobustnessSettings,
    sets: Stored | None,
    reporter: Reporter,
) -> None:
    what = networks[0].name if len(networks) == 1 else f"{len(networks)} networks"
    reporter.say(
        f"Robustness of {what} on {len(data.splits['score'])} images of the score split: "
        f"{len(settings.corruptions)} corruptions, attacks {', '.join(settings.attacks) or NONE}."
    )
    reporter.say(_where(networks, data, sets))
    if (missing := _plugin_note(settings, sets)) is not None:
        reporter.say(missing)


def _where(networks: Sequence[Network], data: LabelledData, sets: Stored | None) -> str:
    """Say at which size pixels are changed."""
    _, height, width = networks[0].preprocessing.input_size
    size = f"{width} x {height}"
    if sets is not None:
        return f"Corrupted images are read from {sets.folder}; attacks are at {size} pixels, the network's input."
    line = f"Corruptions and attacks are applied at {size} pixels, the network's input"
    try:
        own = data.read(int(data.splits["score"][0])).size
    except Exception:  # the picture that cannot be read is named where it is used
        return f"{line}."
    if own[0] < width and own[1] < height:
        line += f": the pictures, {own[0]} x {own[1]}, are enlarged first"
    return f"{line}."


def _plugin_note(settings: RobustnessSettings, sets: Stored | None) -> str | None:
    if sets is not None or not settings.corruptions or has_plugin():
        return None
    return (
        f"{len(settings.corruptions)} corruptions are built in; the package {PLUGIN} has the rest of the standard 15 "
        "and the 4 extra ones."
    )


def _notes(
    networks: Sequence[Network],
    data: LabelledData,
    settings: RobustnessSettings,
    sets: Stored | None,
    other: Network | None,
    source: Network | None,
) -> dict[str, Any]:
    """What the summary says besides numbers."""
    sources = [next_seed(one, networks) if source is None else source for one in networks]
    return {
        "n_images": len(data.splits["score"]),
        "chance": 1 / len(data.classes),
        "sweep": networks[0].alpha is not None,
        "where": _where(networks, data, sets),
        "plugin": _plugin_note(settings, sets),
        "reference": None if other is None else other.name,
        "transfer": float(np.mean([one is not None for one in sources])),
        "settings": settings.to_dict(),
    }
