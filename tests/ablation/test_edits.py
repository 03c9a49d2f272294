"""Every edit equals a hook that does the same by hand, with every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ablations import New, assert_same, by_engine, by_hand, jobs_of, largest, pictures
from torch import Tensor, nn

from auditor.ablation import CaptumEngine, Edit, EditContext, Engine, ExactEngine, HookEngine, Job, group_logits
from auditor.ablation.edits import Clamp, Mean, Noise, Resample, ResampleClass, Zero
from auditor.api.score_images import noise_for
from auditor.errors import OptionError, UnknownNameError
from auditor.hookspecs import hookimpl
from auditor.models import probe_sites
from auditor.registry import Registry, registry
from auditor.units import Site

BUILTIN = ["zero", "mean", "resample", "resample-class", "noise", "noise=2", "noise=0.5", "clamp", "clamp=0.7"]
ENGINES: dict[str, Callable[[nn.Module, list[Site], Tensor], Engine]] = {
    "exact": lambda model, sites, images: ExactEngine(model, sites, images),
    "hooks": lambda model, _sites, images: HookEngine(model, images),
    "captum": lambda model, _sites, _images: CaptumEngine(model, max_batch=7),
}
N = 5


def responses(model: nn.Module, site: Site, images: Tensor) -> Tensor:
    """What a site returns, by a hook of our own."""
    found: list[Tensor] = []
    handle = model.get_submodule(site.layer).register_forward_hook(lambda _m, _a, output: found.append(output.clone()))
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return found[site.call - 1]


def drawn(site: Site, rows: Any = None) -> Tensor:
    """Noise for some images of the split."""
    return noise_for(np.arange(N) if rows is None else rows, site.shape, site.unit_axis, seed=3, site=len(site.name))


def expected(model: nn.Module, jobs: list[Job], donors: Tensor) -> dict[str, New]:
    """Each edit, written down once more."""
    place = {job.site.name: {unit: number for number, unit in enumerate(job.units.tolist())} for job in jobs}
    by_name = {job.site.name: job for job in jobs}
    lent = {job.site.name: responses(model, job.site, donors) for job in jobs}

    def of(what: str, site: Site, unit: int) -> float:
        return float(getattr(by_name[site.name], what)[place[site.name][unit]])

    def noise(scale: float) -> New:
        def new(site: Site, unit: int, maps: Tensor) -> Tensor:
            return maps + scale * of("std", site, unit) * drawn(site)[:, unit]

        return new

    def resample(site: Site, unit: int, _maps: Tensor) -> Tensor:
        return lent[site.name].select(site.unit_axis, unit)

    return {
        "zero": lambda _site, _unit, maps: torch.zeros_like(maps),
        "mean": lambda site, unit, maps: torch.full_like(maps, of("mean", site, unit)),
        "resample": resample,
        "resample-class": resample,
        "noise": noise(1.0),
        "noise=2": noise(2.0),
        "noise=0.5": noise(0.5),
        "clamp": lambda _site, _unit, maps: maps * 0,
        "clamp=0.7": lambda _site, _unit, maps: maps * 0 + 0.7,
    }


@pytest.fixture
def prepared(tiny_model: nn.Module) -> tuple[nn.Module, Tensor, Tensor, list[Job]]:
    """Model, images, their donors and jobs."""
    images = pictures(N)
    return tiny_model, images, images.roll(1, 0), jobs_of(probe_sites(tiny_model, images))


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("edit", BUILTIN)
def test_every_edit_equals_a_hook_by_hand(
    edit: str, engine: str, prepared: tuple[nn.Module, Tensor, Tensor, list[Job]]
) -> None:
    model, images, donors, jobs = prepared
    wanted = by_hand(model, images, jobs, expected(model, jobs, donors)[edit])[1]
    assert largest(wanted) > 1e-3
    chosen = registry().edit(edit)
    given = {"donors": donors if chosen.donors else None, "noise": drawn if chosen.noisy else None}
    made = ENGINES[engine](model, [job.site for job in jobs], images)
    assert_same(by_engine(made, images, jobs, chosen, **given)[1], wanted)
    assert made.fallbacks == {}


@pytest.mark.parametrize("edit", BUILTIN)
def test_a_group_of_one_unit_is_edited_as_the_unit_alone(
    edit: str, prepared: tuple[nn.Module, Tensor, Tensor, list[Job]]
) -> None:
    model, images, donors, jobs = prepared
    wanted = by_hand(model, images, jobs, expected(model, jobs, donors)[edit])[1]
    chosen = registry().edit(edit)
    given = {"donors": donors if chosen.donors else None, "noise": drawn if chosen.noisy else None}
    job = jobs[1]
    groups = [
        [Job(job.site, job.units[place : place + 1], job.mean[place : place + 1], job.std[place : place + 1])]
        for place in range(len(job.units))
    ]
    intact, *ablated = group_logits(model, images, [[], *groups], chosen, **given)
    assert_same({job.site.name: torch.stack(ablated) - intact}, {job.site.name: wanted[job.site.name]})


@pytest.mark.parametrize("engine", list(ENGINES))
def test_noise_is_the_same_in_any_batch(engine: str, prepared: tuple[nn.Module, Tensor, Tensor, list[Job]]) -> None:
    model, images, _, jobs = prepared
    made = ENGINES[engine](model, [job.site for job in jobs], images)
    whole = by_engine(made, images, jobs, Noise(), noise=drawn)[1]
    for rows in ([3, 0], [4, 2, 1], [2]):
        part = by_engine(made, images[rows], jobs, Noise(), noise=lambda site, rows=rows: drawn(site, np.array(rows)))[
            1
        ]
        assert_same(part, {name: change[:, rows] for name, change in whole.items()})


def test_an_edit_that_changes_nothing_reaches_no_engine_s_batches(
    prepared: tuple[nn.Module, Tensor, Tensor, list[Job]],
) -> None:
    model, images, _, jobs = prepared
    made = ExactEngine(model, [job.site for job in jobs], images)
    for edit, given in ((Noise(scale=0.0), {"noise": drawn}), (Resample(), {"donors": images})):
        seen: list[Any] = []
        made.ablate(images, jobs, edit, lambda *pairs, seen=seen: seen.append(pairs), **given)
        assert seen == []


def test_a_dead_unit_is_edited_where_the_edit_gives_it_a_response(tiny_cnn: nn.Module) -> None:
    images = pictures(4)
    with torch.no_grad():
        tiny_cnn.conv1.bias[2] = -100.0
    site = probe_sites(tiny_cnn, images)[0]
    job = Job(site, torch.tensor([2]), torch.tensor([0.0]), torch.tensor([1.0]))
    for edit, moves in ((Zero(), False), (Mean(), False), (Clamp(0.0), False), (Clamp(1.0), True)):
        found = by_engine(ExactEngine(tiny_cnn, [site], images), images, [job], edit)[1]["act1"]
        assert (float(found.abs().max()) > 0) is moves
        if not moves:
            assert torch.equal(found, torch.zeros_like(found))


# --- the edits alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [(), (3,), (3, 2)])
@pytest.mark.parametrize("edit", BUILTIN)
def test_an_edit_keeps_shape_and_type_and_leaves_its_input(edit: str, positions: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 4, *positions, generator=generator, dtype=torch.float64)
    kept = maps.clone()
    context = EditContext(torch.ones(4), torch.ones(4), maps + 1, lambda: torch.ones(2, 4, *positions))
    after = registry().edit(edit).apply(maps, context)
    assert after.shape == maps.shape
    assert after.dtype == maps.dtype
    assert torch.equal(maps, kept)


def test_what_an_edit_asks_for() -> None:
    found = {name: (edit.donors, edit.noisy) for name, edit in registry().edits().items()}
    assert found == {
        "zero": ("", False),
        "mean": ("", False),
        "resample": ("any", False),
        "resample-class": ("class", False),
        "noise": ("", True),
        "clamp": ("", False),
    }


@pytest.mark.parametrize(
    "text, edit",
    [
        ("zero", Zero()),
        ("noise", Noise(scale=1.0)),
        ("noise=2", Noise(scale=2.0)),
        ("noise=1e-2", Noise(scale=0.01)),
        ("clamp=-1.5", Clamp(value=-1.5)),
        ("resample-class", ResampleClass()),
    ],
)
def test_an_edit_is_named_with_its_value(text: str, edit: Edit) -> None:
    assert registry().edit(text) == edit
    assert repr(registry().edit(text)) == repr(edit)


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("zero=1", OptionError, "'zero' takes no value"),
        ("resample-class=", OptionError, "takes no value"),
        ("noise=", OptionError, "wanted:  noise=NUMBER"),
        ("noise=loud", OptionError, "is no number"),
        ("clamp=nan", OptionError, "is no number"),
        ("clamp=-inf", OptionError, "is no number"),
        ("nosie=2", UnknownNameError, "noise"),
        ("", UnknownNameError, "edit"),
    ],
)
def test_what_is_no_edit_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        registry().edit(text)


# --- plugins ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale(Edit):
    """An edit of one's own."""

    name: ClassVar[str] = "scale"
    by: float = 0.5
    floor: float = 0.0

    def apply(self, maps: Tensor, context: EditContext) -> Tensor:
        return (maps * self.by).clamp(min=self.floor)


class Plugin:
    @hookimpl
    def auditor_edits(self) -> list[Edit]:
        return [Scale(floor=0.125)]


def test_a_plugins_edit_is_found_takes_a_value_and_ablates(
    prepared: tuple[nn.Module, Tensor, Tensor, list[Job]],
) -> None:
    found = Registry()
    found.manager.register(Plugin(), name="scaling")
    assert next(iter(found.edits())) == "scale"
    edit = found.edit("scale=3")
    # Its other parameters are those that the plugin chose.
    assert edit == Scale(by=3.0, floor=0.125)
    model, images, _, jobs = prepared
    wanted = by_hand(model, images, jobs, lambda _site, _unit, maps: (maps * 3).clamp(min=0.125))[1]
    for make in ENGINES.values():
        assert_same(by_engine(make(model, [job.site for job in jobs], images), images, jobs, edit)[1], wanted)
