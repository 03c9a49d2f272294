"""Engines on a tight memory, in half precision, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from ablations import (
    assert_same,
    assert_untouched,
    by_engine,
    by_hand,
    calibrated,
    jobs_of,
    pictures,
    seeded,
    state_of,
)
from scipy.stats import spearmanr
from torch import Tensor, nn

from auditor.ablation import CaptumEngine, Engine, ExactEngine, HookEngine, exact, pair_effects
from auditor.ablation import engine as engines
from auditor.ablation.batches import in_batches
from auditor.ablation.edits import Zero
from auditor.ablation.plan import SitePlan
from auditor.ablation.replay import Pairs
from auditor.models import probe_sites

MAKE: dict[str, Callable[..., Engine]] = {
    "exact": lambda model, sites, images: ExactEngine(model, sites, images),
    "hooks": lambda model, _sites, images: HookEngine(model, images),
    "captum": lambda model, _sites, _images: CaptumEngine(model, max_batch=7),
}


@pytest.fixture
def everything(tiny_resnet: nn.Module) -> tuple[nn.Module, Tensor, list[Any]]:
    """A model, images and jobs of all its units."""
    images = pictures(6)
    return tiny_resnet, images, jobs_of(probe_sites(tiny_resnet, images), lambda site: range(site.n_units))


def sites_of(jobs: list[Any]) -> list[Any]:
    return [job.site for job in jobs]


# --- memory ----------------------------------------------------------------------------------------------------------


def scarce(monkeypatch: pytest.MonkeyPatch, fits: int, error: type[RuntimeError]) -> list[int]:
    """Let batches of more than `fits` pairs fail; return the sizes that were tried."""
    tried: list[int] = []
    replaying = exact.replaying

    @contextmanager
    def starved(*args: Any) -> Iterator[Any]:
        with replaying(*args) as run:

            def limited(pairs: Pairs) -> Tensor:
                tried.append(len(pairs))
                if len(pairs) > fits:
                    raise error("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
                return run(pairs)

            yield limited

    monkeypatch.setattr(exact, "replaying", starved)
    return tried


@pytest.mark.parametrize("fits", [1, 2, 5, 13, 40])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_batches_that_do_not_fit_are_halved(
    everything: tuple[nn.Module, Tensor, list[Any]], monkeypatch: pytest.MonkeyPatch, fits: int, error: type
) -> None:
    model, images, jobs = everything
    wanted = by_hand(model, images, jobs)[1]
    engine = ExactEngine(model, sites_of(jobs), images)
    for job in jobs:
        engine.plan(job.site)
    tried = scarce(monkeypatch, fits, error)
    assert_same(by_engine(engine, images, jobs)[1], wanted)
    assert engine.fallbacks == {}
    # A batch of 48 takes at most six halvings; what follows is cut to size from the start.
    failed = [size for size in tried if size > fits]
    assert 0 < len(failed) <= 6
    assert max(tried[tried.index(failed[-1]) + 1 :]) <= fits
    # And not to much smaller pieces than needed.
    assert max(engine.pairs_per_batch(job.site) for job in jobs) >= fits // 2


def test_a_single_pair_that_does_not_fit_is_an_error(
    everything: tuple[nn.Module, Tensor, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, jobs = everything
    engine = ExactEngine(model, sites_of(jobs), images)
    for job in jobs:
        engine.plan(job.site)
    scarce(monkeypatch, 0, torch.OutOfMemoryError)
    before = state_of(model)
    with pytest.raises(torch.OutOfMemoryError):
        by_engine(engine, images, jobs)
    assert_untouched(model, before)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    everything: tuple[nn.Module, Tensor, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, jobs = everything
    engine = HookEngine(model, images)

    @contextmanager
    def broken(*_args: Any) -> Iterator[Any]:
        def run(_pairs: Pairs) -> Tensor:
            raise RuntimeError("shapes do not meet")

        yield run

    monkeypatch.setattr(engines, "hooked", broken)
    with pytest.raises(RuntimeError, match="do not meet"):
        by_engine(engine, images, jobs)


def test_more_memory_means_larger_batches_up_to_what_a_cpu_likes(
    everything: tuple[nn.Module, Tensor, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, jobs = everything
    site = jobs[0].site
    sizes = [
        ExactEngine(model, sites_of(jobs), images, memory=m).pairs_per_batch(site) for m in (1, 2**18, 2**20, 2**40)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1 < sizes[1] < sizes[2]
    largest = ExactEngine(model, sites_of(jobs), images).plan(site).largest
    assert sizes[-1] == min(engines.MOST, engines.CACHE_BYTES // largest)
    monkeypatch.setattr(engines, "CACHE_BYTES", 10 * largest)
    assert ExactEngine(model, sites_of(jobs), images).pairs_per_batch(site) == 10


def test_a_site_that_falls_back_is_given_the_room_of_a_whole_pass(
    everything: tuple[nn.Module, Tensor, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late site is small; the passes that its fallback takes are not."""
    model, images, jobs = everything
    site = jobs[-1].site

    def refuse(*_args: Any) -> None:
        raise ValueError("no plan")

    monkeypatch.setattr(exact, "refine", refuse)
    engine = ExactEngine(model, sites_of(jobs), images)
    assert engine.plan(site) is None
    assert engine.fallbacks == {site.name: "ValueError: no plan"}
    assert engine.pairs_per_batch(site) == HookEngine(model, images).pairs_per_batch(site)
    assert_same(by_engine(engine, images, jobs)[1], by_hand(model, images, jobs)[1])


@pytest.mark.parametrize("name", ["exact", "hooks"])
def test_images_come_in_numbers_that_fill_batches_within_the_budget(
    everything: tuple[nn.Module, Tensor, list[Any]], name: str
) -> None:
    model, images, jobs = everything
    engine = MAKE[name](model, sites_of(jobs), images)
    few, many = (engine.images_per_batch(sites_of(jobs), n) for n in (1, 10_000))
    assert 8 <= many <= few <= engines.MOST_IMAGES
    engine.memory = 1
    assert engine.images_per_batch(sites_of(jobs), 1) == 1


PAIRS = [[], [5], [1, 1, 1], [3, 0, 4, 4, 9, 1], [20], [2, 20, 2], [7, 7, 7, 7]]


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("counts", PAIRS)
def test_batches_hold_every_pair_once_and_one_image_where_that_fills_them(counts: list[int], limit: int) -> None:
    where = torch.tensor([[row, unit] for row, n in enumerate(counts) for unit in range(n)]).view(-1, 2)
    found = list(in_batches(where, lambda: limit))
    assert all(0 < len(part) <= limit for part, _ in found)
    for part, single in found:
        assert single is None or (part[:, 0] == single).all()
        assert (single is None) == all(2 * counts[row] <= limit for row in part[:, 0].tolist())
    every = torch.cat([part for part, _ in found]) if found else where
    assert sorted(every.tolist()) == where.tolist()


# --- what is told to the caller --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MAKE))
def test_every_pair_is_reported_as_progress_once(tiny_cnn: nn.Module, name: str) -> None:
    images = pictures(5)
    jobs = jobs_of(probe_sites(tiny_cnn, images), lambda site: range(site.n_units))
    engine = MAKE[name](tiny_cnn, sites_of(jobs), images)
    steps: list[float] = []
    by_engine(engine, images, jobs, advance=steps.append)
    assert sum(steps) == 5 * (8 + 12 + 10)


@pytest.mark.parametrize("name", ["exact", "hooks"])
def test_silent_pairs_do_not_reach_the_sink(tiny_cnn: nn.Module, name: str) -> None:
    images = pictures(4)
    with torch.no_grad():
        tiny_cnn.fc1.bias[:5] = -100.0  # five units are silent on every image
    site = probe_sites(tiny_cnn, images)[-1]
    jobs = jobs_of([site], lambda site: range(site.n_units))
    with torch.no_grad():
        responses = tiny_cnn[:-1](images)
    seen: set[tuple[int, int]] = set()

    def sink(_site: str, units: Tensor, rows: Tensor, logits: Tensor, intact: Tensor) -> None:
        seen.update(zip(units.tolist(), rows.tolist(), strict=True))

    engine = MAKE[name](tiny_cnn, [site], images)
    intact = engine.ablate(images, jobs, Zero(), sink)
    assert seen == {(unit, row) for row, unit in responses.nonzero().tolist()}
    assert 0 < len(seen) < 40
    # Their effects are nothing at all, as those of equal logits are.
    labels = intact.argmax(1)
    effects = pair_effects(intact, intact.clone(), labels)
    assert all((effects[key] == 0).all() for key in ("target_logit_drop", "loss_change", "kl"))


def test_a_network_without_any_response_needs_no_batch(tiny_cnn: nn.Module) -> None:
    images = pictures(3)
    with torch.no_grad():
        tiny_cnn.conv1.bias.fill_(-100.0)
    jobs = jobs_of(probe_sites(tiny_cnn, images)[:1])
    logits, found = by_engine(ExactEngine(tiny_cnn, sites_of(jobs), images), images, jobs)
    torch.testing.assert_close(logits, tiny_cnn(images).detach())
    assert all((change == 0).all() for change in found.values())


# --- half precision --------------------------------------------------------------------------------------------------


def trained_cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that tells four noisy patterns apart, pictures of them and their labels."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randn(4, 3, 16, 16, generator=generator)
    labels = torch.arange(96) % 4
    images = patterns[labels] + torch.randn(96, 3, 16, 16, generator=generator)
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Linear(256, 4),
        )
    ).train()  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return calibrated(model.eval(), images), images, labels


def test_half_precision_ranks_units_as_single_precision_does() -> None:
    model, images, labels = trained_cnn()
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.9
    sites = probe_sites(model, images)
    jobs = jobs_of(sites, lambda site: range(site.n_units))
    before = state_of(model)
    drops = {}
    for dtype in (torch.float32, torch.bfloat16):
        engine = ExactEngine(model, sites, images[:2], dtype=dtype)
        assert engine.dtype == dtype
        assert {p.dtype for p in engine.model.parameters()} == {dtype}
        assert engine.folded == 2
        logits, found = by_engine(engine, images, jobs)
        assert logits.dtype == dtype
        rows = torch.arange(len(labels))
        drops[dtype] = torch.cat([-change[:, rows, labels].float().mean(1) for change in found.values()])
        assert engine.fallbacks == {}
    wanted, found = drops[torch.float32], drops[torch.bfloat16]
    assert spearmanr(wanted, found).statistic > 0.99
    assert (wanted - found).abs().max() < 0.05 * wanted.abs().max()
    assert not torch.equal(wanted, found)
    assert_untouched(model, before)


# --- what stays as it was --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MAKE))
def test_the_models_weights_flags_and_hooks_stay_as_they_were(tiny_model: nn.Module, name: str) -> None:
    images = pictures(4)
    handle = next(tiny_model.children()).register_forward_hook(lambda *_: None)
    next(tiny_model.parameters()).requires_grad_(False)
    jobs = jobs_of(probe_sites(tiny_model, images))
    before = state_of(tiny_model)
    engine = MAKE[name](tiny_model, sites_of(jobs), images)
    by_engine(engine, images, jobs)
    engine.images_per_batch(sites_of(jobs), 8)
    assert_untouched(tiny_model, before)

    def fails(*_given: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.ablate(images, jobs, Zero(), fails)
    assert_untouched(tiny_model, before)
    handle.remove()


def test_the_engine_does_not_follow_later_changes_of_the_model(tiny_cnn: nn.Module) -> None:
    images = pictures(3)
    jobs = jobs_of(probe_sites(tiny_cnn, images))
    wanted = by_hand(tiny_cnn, images, jobs)[1]
    engine = ExactEngine(tiny_cnn, sites_of(jobs), images)
    with torch.no_grad():
        tiny_cnn.conv2.weight.zero_()
    assert_same(by_engine(engine, images, jobs)[1], wanted)


def test_a_wrong_replay_is_noticed_and_not_used(
    everything: tuple[nn.Module, Tensor, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, jobs = everything
    plan_site = exact.plan_site

    def careless(*args: Any, **options: Any) -> SitePlan:
        """Take the last layers for independent of the site."""
        plan = plan_site(*args, **options)
        plan.spared[("fc", 1)] = True
        plan.inner[("fc", 1)] = type(plan.inner[plan.call])()
        return plan

    monkeypatch.setattr(exact, "plan_site", careless)
    engine = ExactEngine(model, sites_of(jobs), images)
    assert_same(by_engine(engine, images, jobs)[1], by_hand(model, images, jobs)[1])
    assert set(engine.fallbacks) == {job.site.name for job in jobs}
    assert all("replay and hook differ" in why for why in engine.fallbacks.values())
