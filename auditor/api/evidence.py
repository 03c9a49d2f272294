"""What a person looks at to judge a unit: its tuning, the images that drive it most, and where in them."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.api.forward import Execution, batches
from auditor.api.models import Prepared
from auditor.api.notable import notable_units
from auditor.api.regions import Layout, lay_out, project
from auditor.api.run import Run
from auditor.api.tally import PROFILED
from auditor.data import SPLITS, LabelledData
from auditor.errors import DataError, OptionError, unknown_name
from auditor.hooks import capture, on_calls
from auditor.models.preprocessing import Preprocessing
from auditor.models.trace import evaluating
from auditor.units import Site, UnitId

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]

__all__ = ["Example", "UnitEvidence", "notable_units", "unit_evidence"]

_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Example:
    """One image and what a unit makes of it.

    Attributes
    ----------
    sample_id : str
    class_name : str
        The image's label.
    response : float
        The unit's pooled response, as it was scored.
    image : ndarray of uint8, shape (H, W, 3)
        As the model saw it, before normalisation.
    region : ndarray of float32, shape (H, W), or None
        The unit's activations, up-sampled to the image; see :attr:`UnitEvidence.region_note`.
    """

    sample_id: str
    class_name: str
    response: float
    image: NDArray[np.uint8]
    region: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class UnitEvidence:
    """Tuning and examples of one unit.

    Attributes
    ----------
    unit_id : str
    class_names : tuple of str
        The C classes.
    mean, se : ndarray of float64, shape (C,)
        Mean response to each class and its standard error; NaN where a class has no image, or one.
    n : ndarray of int64, shape (C,)
        Images of each class.
    top : tuple of Example
        Strongest responses, strongest first. Images at the unit's lowest response are none of them.
    random : tuple of Example
        Images drawn without regard to the response, from those that are not in `top`.
    split : str
        Where all images are from.
    region_note : str
        How regions were made, or why there are none.
    notes : tuple of str
        What else to know: ties, and units that respond to few images or none.
    """

    unit_id: str
    class_names: tuple[str, ...]
    mean: FloatArray
    se: FloatArray
    n: NDArray[np.int64]
    top: tuple[Example, ...]
    random: tuple[Example, ...]
    split: str
    region_note: str
    notes: tuple[str, ...]


def unit_evidence(
    run: Run,
    unit_ids: Sequence[str],
    *,
    execution: Execution,
    n_top: int = 6,
    n_random: int = 4,
    split: str = "select",
    seed: int = 0,
) -> list[UnitEvidence]:
    """Collect tuning, top images and random images of some units.

    Responses come from the run's store; without one, the model runs over the split. For the regions it runs once over
    the images that are shown.

    Parameters
    ----------
    run : Run
    unit_ids : sequence of str
        Names such as ``layer4.1.act2:317``.
    execution : Execution
    n_top, n_random : int
        Images of each kind, at most.
    split : str
        ``select`` or ``score``.
    seed : int
        Decides the random images; those of a unit do not depend on which others are asked for.

    Returns
    -------
    list of UnitEvidence
        In the order of `unit_ids`.

    Raises
    ------
    UnknownNameError, OptionError
        If there is no such unit or split, or a number is negative.
    DataError
        If the split is empty.
    RunError
        If model or data are not those of the run.
    """
    if split not in PROFILED:
        raise unknown_name("split of a run", split, PROFILED)
    if min(n_top, n_random) < 0:
        raise OptionError("A number of images must be 0 or more.", got=str(min(n_top, n_random)))
    units = _find_units(run, unit_ids)
    if not units:
        return []
    data, prepared = run.data(), run.model(execution)
    # A model that is in memory stays where it is.
    execution = execution.on(prepared.module)
    if len(data.splits[split]) == 0:
        raise DataError(f"The run has no images in its {split} split.", fix="Ask for another split.")
    rows, responses = _responses(run, data, prepared, list(units.values()), split, execution)
    chosen = {name: _choose(name, values, n_top, n_random, seed) for name, values in responses.items()}
    pairs = {name: rows[np.concatenate([top, random])] for name, (top, random, _) in chosen.items()}
    images, maps = _look(data, prepared, units, pairs, execution)
    moments = run.moments(split)
    height, width = prepared.preprocessing.input_size[1:]
    found = {}
    for name, (site, index) in units.items():
        layout = lay_out(site, (height, width), prepared.module)
        top, random, notes = chosen[name]

        def example(place: int, name: str = name, layout: Layout = layout) -> Example:
            row = int(rows[place])
            region = project(maps[name, row], layout, images[row].shape[:2])
            label = data.classes[data.labels[row]]
            return Example(data.ids[row], label, float(responses[name][place]), images[row], region)

        own = moments[site.name]
        with np.errstate(invalid="ignore", divide="ignore"):
            se = np.sqrt(own.variance[:, index] / own.count)
        found[name] = UnitEvidence(
            unit_id=name,
            class_names=run.classes,
            mean=np.where(own.count > 0, own.mean[:, index], np.nan),
            se=se,
            n=own.count.copy(),
            top=tuple(example(int(place)) for place in top),
            random=tuple(example(int(place)) for place in random),
            split=split,
            region_note=layout.note,
            notes=notes,
        )
    return [found[name] for name in unit_ids]


def _find_units(run: Run, unit_ids: Iterable[str]) -> dict[str, tuple[Site, int]]:
    sites = {site.name: site for site in run.sites}
    found = {}
    for name in unit_ids:
        unit = UnitId.parse(name)
        if unit.site not in sites:
            raise unknown_name("site", unit.site, sites)
        site = sites[unit.site]
        if unit.index >= site.n_units:
            raise OptionError(
                f"There is no unit {name}.", wanted=f"0 to {site.n_units - 1} in {site.name}", got=str(unit.index)
            )
        found[name] = (site, unit.index)
    return found


def _responses(
    run: Run,
    data: LabelledData,
    prepared: Prepared,
    units: Sequence[tuple[Site, int]],
    split: str,
    execution: Execution,
) -> tuple[Rows, dict[str, FloatArray]]:
    """Rows of the split in the data, in rising order, and each unit's response to them."""
    wanted: dict[Site, list[int]] = defaultdict(list)
    for site, index in units:
        wanted[site].append(index)
    blocks: dict[str, list[NDArray[np.float32]]] = {site.name: [] for site in wanted}
    with run.store() as store:
        stored = all(site.name in store.sites for site in wanted)
        if stored:
            here = np.flatnonzero(store.splits == SPLITS.index(split))
            row_of = {name: row for row, name in enumerate(data.ids)}
            ids = store.ids
            rows = np.array([row_of[ids[place]] for place in here], dtype=np.int64)
            order = np.argsort(rows)
            rows = rows[order]
            for site, own in wanted.items():
                for start in range(0, len(here), _BLOCK):
                    part = here[order[start : start + _BLOCK]]
                    blocks[site.name].append(store.responses(site.name, part)[:, own])
    if not stored:
        rows = data.splits[split]
        kind = np.dtype(str(run.manifest.identity.get("dtype", "float32")))
        module, transform = prepared.module, prepared.preprocessing.build()
        with evaluating(module), torch.no_grad(), capture(module, list(wanted)) as captured:
            for batch in batches(data, rows, transform, execution):
                module(batch.images)
                pooled = captured.take()
                for site, own in wanted.items():
                    # Rounded to the type in which the run was scored.
                    values = pooled[site.name][:, own].cpu().numpy().astype(kind)
                    blocks[site.name].append(values.astype(np.float32))
    joined = {name: np.concatenate(parts).astype(np.float64) for name, parts in blocks.items()}
    return rows, {
        str(site.unit(index)): joined[site.name][:, column]
        for site, own in wanted.items()
        for column, index in enumerate(own)
    }


def _choose(name: str, values: FloatArray, n_top: int, n_random: int, seed: int) -> tuple[Rows, Rows, tuple[str, ...]]:
    """Places of the top and of the random images, and what to say of them."""
    notes = []
    above = int((values > values.min()).sum())
    top = np.argsort(-values, kind="stable")[: min(n_top, above)]
    if above == 0:
        notes.append(f"The response to all {len(values):,} images is {values[0]:.4g}: there is no top image.")
    elif above < n_top:
        are = "image is" if above == 1 else "images are"
        notes.append(f"Only {above} of {len(values):,} {are} above the lowest response ({values.min():.4g}).")
    elif len(top) and (ties := int((values == values[top[-1]]).sum() - (values[top] == values[top[-1]]).sum())):
        notes.append(f"{ties:,} more share the response of the last top image; the first in the data's order is shown.")
    rest = np.setdiff1d(np.arange(len(values)), top)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    random = rng.choice(rest, size=min(n_random, len(rest)), replace=False)
    return top.astype(np.int64), random.astype(np.int64), tuple(notes)


def _look(
    data: LabelledData,
    prepared: Prepared,
    units: Mapping[str, tuple[Site, int]],
    pairs: Mapping[str, Rows],
    execution: Execution,
) -> tuple[dict[int, NDArray[np.uint8]], dict[tuple[str, int], Tensor]]:
    """Pictures by row of the data, and what each unit does at each position of the images it is shown with."""
    asked: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, rows in pairs.items():
        for row in rows:
            asked[units[name][0].name][int(row)].append(name)
    images: dict[int, NDArray[np.uint8]] = {}
    maps: dict[tuple[str, int], Tensor] = {}
    current: list[int] = []

    def keep(site: Site, output: Tensor) -> None:
        axis = site.unit_axis % output.ndim - 1
        for place, row in enumerate(current):
            for name in asked[site.name].get(row, ()):
                # A copy: what follows may work in place.
                maps[name, row] = (
                    output[place].select(axis, units[name][1]).detach().to("cpu", torch.float32, copy=True)
                )

    needed = np.unique(np.concatenate([*pairs.values()]))
    sites = list(dict.fromkeys(site for site, _ in units.values()))
    module, transform = prepared.module, prepared.preprocessing.build()
    with evaluating(module), torch.no_grad(), on_calls(module, sites, keep):
        for batch in batches(data, needed, transform, execution):
            current[:] = batch.index.tolist()
            pictures = as_seen(batch.images, prepared.preprocessing)
            images.update(zip(current, pictures, strict=True))
            module(batch.images)
    return images, maps


def as_seen(images: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Undo the normalisation of model inputs (B, C, H, W), C being 1 or 3: pictures (B, H, W, 3)."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = (images.detach().cpu().float() * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
