"""The exact engine equals a hook by hand and Captum on architectures of both zoos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from ablations import (
    Changes,
    assert_same,
    assert_untouched,
    by_engine,
    by_hand,
    calibrated,
    jobs_of,
    largest,
    pictures,
    seeded,
    state_of,
    wakened,
)
from timm.models.levit import Levit
from timm.models.mlp_mixer import MlpMixer
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from auditor.ablation import CaptumEngine, ExactEngine, HookEngine, exact
from auditor.ablation.replay import Pairs
from auditor.models import probe_sites

Build = Callable[[], nn.Module]


def of_timm(name: str, **options: Any) -> Build:
    return lambda: timm.create_model(name, num_classes=7, **options)


def swin(**options: Any) -> Build:
    return lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=7, **options)


V2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
PLAIN = {"init_weights": False, "aux_logits": False, "num_classes": 7}

# Rounding is large beside the effects of random weights: these compute in double precision.
DOUBLE = ("densenet121", "googlenet", "convnext", "test_convnext", "test_vit")

# Name, how it is built, size of its pictures, and the distance between the sites that are compared (1: all of them).
ZOO: list[tuple[str, Build, int, int]] = [
    ("resnet18", lambda: models.resnet18(num_classes=7), 32, 1),  # one ReLU module for two calls
    ("densenet121", lambda: models.densenet121(num_classes=7), 32, 24),
    ("densenet", lambda: models.DenseNet(8, (2, 3), 16, num_classes=7), 32, 1),  # lists of what came before
    ("googlenet", lambda: models.googlenet(**PLAIN), 32, 12),  # nonlinearities that are functions
    ("mobilenet_v3_small", lambda: models.mobilenet_v3_small(num_classes=7), 32, 2),  # squeeze-excite
    ("shufflenet_v2_x0_5", lambda: models.shufflenet_v2_x0_5(num_classes=7), 32, 2),  # halves that are shuffled
    ("squeezenet1_1", lambda: models.squeezenet1_1(num_classes=7), 48, 1),  # two convolutions read one site
    ("vit", lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=7), 32, 1),
    ("swin_t", swin(), 32, 1),  # windows that are shifted
    ("swin_v2_t", swin(**V2), 32, 1),  # position biases from a network of their own
    ("convnext", lambda: ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=7), 32, 1),
    ("test_resnet", of_timm("test_resnet"), 64, 1),
    ("test_byobnet", of_timm("test_byobnet"), 64, 1),
    ("test_coatnet", of_timm("test_coatnet", img_size=64), 64, 1),
    ("test_convnext", of_timm("test_convnext"), 64, 1),
    ("test_efficientnet", of_timm("test_efficientnet"), 64, 1),  # norms that contain the nonlinearity
    ("test_efficientnet_evos", of_timm("test_efficientnet_evos"), 64, 1),  # norms that are the nonlinearity
    ("test_mambaout", of_timm("test_mambaout"), 64, 1),
    ("test_maxvit", of_timm("test_maxvit", img_size=64), 64, 3),
    ("test_nfnet", of_timm("test_nfnet"), 64, 3),  # weights that are standardised at each call
    ("test_vit", of_timm("test_vit", img_size=64), 64, 1),
    ("test_vit_relpos", of_timm("test_vit_relpos", img_size=64), 64, 1),
    ("resnet10t", of_timm("resnet10t"), 32, 1),
    ("mobilevit_xxs", of_timm("mobilevit_xxs"), 64, 3),  # rows that are parts of images
    ("mixer", lambda: MlpMixer(7, img_size=32, patch_size=8, num_blocks=2, embed_dim=32), 32, 1),
    (
        "levit",
        lambda: Levit(64, num_classes=7, embed_dim=(32, 48), key_dim=8, depth=(1, 1), num_heads=(2, 3)),
        64,
        1,
    ),  # tokens that are normalised in batches
]  # fmt: skip


@pytest.mark.parametrize("name, build, size, step", ZOO, ids=[row[0] for row in ZOO])
def test_every_architecture_equals_hooks_by_hand_and_captum_in_any_batches(
    name: str, build: Build, size: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, tolerance = (torch.float64, 1e-9) if name in DOUBLE else (torch.float32, 1e-4)
    model = calibrated(wakened(seeded(build).to(dtype)), pictures(16, size, seed=2).to(dtype))
    before = state_of(model)
    images = pictures(3, size).to(dtype)
    sites = probe_sites(model, images)[::step]
    jobs = jobs_of(sites)
    intact, wanted = by_hand(model, images, jobs)
    # Else agreement would mean nothing.
    scale = float(intact.abs().max())
    assert largest(wanted) > 1e-3 * scale
    assert all(change.abs().max() > 1e-5 * scale for change in wanted.values())

    engine = ExactEngine(model, sites, images)
    assert engine.deviation < tolerance
    # One image at a time in parts of two units and one; two images and the last one alone; everything at once.
    for limit in (2, 7, 4096):
        monkeypatch.setattr(engine, "pairs_per_batch", lambda _site, limit=limit: limit)
        logits, found = by_engine(engine, images, jobs)
        torch.testing.assert_close(logits, intact, atol=tolerance * scale, rtol=0)
        assert_same(found, wanted, tolerance=tolerance)
    assert engine.fallbacks == {}

    once = [job for job in jobs if job.site.calls == 1] or jobs
    few = [once[0], once[len(once) // 2], once[-1]]
    few = list({job.site.name: job for job in few}.values())
    reference = by_engine(CaptumEngine(model, dtype=dtype, max_batch=7), images, few)[1]
    share = largest(wanted) / largest(reference)
    assert_same({name: found[name] for name in reference}, reference, tolerance=1e-4 * share)
    assert_untouched(model, before)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """Size of each batch that the exact engine replays, and its image if there is just one."""
    seen: list[tuple[int, int | None]] = []
    replaying = exact.replaying

    @contextmanager
    def spied(*args: Any) -> Iterator[Any]:
        with replaying(*args) as run:

            def noted(pairs: Pairs) -> torch.Tensor:
                assert pairs.single is None or (pairs.rows == pairs.single).all()
                seen.append((len(pairs), pairs.single))
                return run(pairs)

            yield noted

    monkeypatch.setattr(exact, "replaying", spied)
    return seen


def test_single_mixed_and_ragged_batches_give_the_same_numbers(
    tiny_resnet: nn.Module, batches: list[tuple[int, int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(5)
    sites = probe_sites(tiny_resnet, images)
    jobs = jobs_of(sites, lambda site: range(site.n_units))
    wanted = by_hand(tiny_resnet, images, jobs)[1]
    engine = ExactEngine(tiny_resnet, sites, images)
    for site in sites:
        engine.plan(site)  # whose tests are batches, too
    kinds = set()
    for limit in (1, 3, 8, 17, 23, 1000):
        batches.clear()
        monkeypatch.setattr(engine, "pairs_per_batch", lambda _site, limit=limit: limit)
        assert_same(by_engine(engine, images, jobs)[1], wanted)
        sizes = [size for size, _ in batches]
        assert max(sizes) <= limit
        kinds |= {(single is not None, size < max(sizes)) for size, single in batches}
    assert kinds == {(one, ragged) for one in (True, False) for ragged in (True, False)}


def test_the_memory_budget_bounds_the_batches(
    tiny_cnn: nn.Module, batches: list[tuple[int, int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(4)
    sites = probe_sites(tiny_cnn, images)
    jobs = jobs_of(sites, lambda site: range(site.n_units))
    wanted = by_hand(tiny_cnn, images, jobs)[1]
    sizes = []
    for memory in (1, 5_000, 2**30):
        engine = ExactEngine(tiny_cnn, sites, images, memory=memory)
        largest_batch = {site.name: engine.pairs_per_batch(site) for site in sites}
        batches.clear()
        assert_same(by_engine(engine, images, jobs)[1], wanted)
        assert max(size for size, _ in batches) <= max(largest_batch.values())
        sizes.append(max(size for size, _ in batches))
    assert sizes[0] == 1 < sizes[1] < sizes[2]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_any_number_of_images_after_two_examples(tiny_model: nn.Module, n: int) -> None:
    images = pictures(7)
    sites = probe_sites(tiny_model, images)
    jobs = jobs_of(sites)
    engine = ExactEngine(tiny_model, sites, images)
    assert_same(by_engine(engine, images[:n], jobs)[1], by_hand(tiny_model, images[:n], jobs)[1])


def test_calls_of_a_reused_module_are_told_apart(tiny_resnet: nn.Module) -> None:
    images = pictures(4)
    sites = probe_sites(tiny_resnet, images)
    jobs = jobs_of(sites, lambda site: range(site.n_units))
    found = by_engine(ExactEngine(tiny_resnet, sites, images), images, jobs)[1]
    assert_same(found, by_hand(tiny_resnet, images, jobs)[1])
    for block in (0, 1):
        first, second = (found[f"blocks.{block}.relu@{call}"] for call in (1, 2))
        assert (first - second).abs().max() > 0.1 * largest(found)


def test_units_in_any_order_keep_their_places(tiny_cnn: nn.Module) -> None:
    images = pictures(4)
    sites = probe_sites(tiny_cnn, images)
    straight = by_engine(ExactEngine(tiny_cnn, sites, images), images, jobs_of(sites, lambda _: range(8)))[1]
    order = [6, 0, 7, 3]
    found = by_engine(ExactEngine(tiny_cnn, sites, images), images, jobs_of(sites, lambda _site: order))[1]
    for name, change in found.items():
        torch.testing.assert_close(change, straight[name][order], atol=1e-6, rtol=0)


def test_a_job_without_units_is_nothing(tiny_cnn: nn.Module) -> None:
    images = pictures(3)
    sites = probe_sites(tiny_cnn, images)
    logits, found = by_engine(ExactEngine(tiny_cnn, sites, images), images, jobs_of(sites, lambda _site: []))
    torch.testing.assert_close(logits, tiny_cnn(images).detach())
    assert all(change.shape == (0, 3, 3) for change in found.values())


def test_without_folding_the_numbers_are_the_same(tiny_resnet: nn.Module) -> None:
    model = calibrated(tiny_resnet, pictures(16, seed=2))
    images = pictures(3)
    sites = probe_sites(model, images)
    jobs = jobs_of(sites)
    wanted = by_hand(model, images, jobs)[1]
    for fold, folded in ((True, 5), (False, 0)):
        engine = ExactEngine(model, sites, images, fold=fold)
        assert engine.folded == folded
        assert_same(by_engine(engine, images, jobs)[1], wanted)


def test_the_hook_engine_equals_hooks_by_hand(tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state_of(tiny_model)
    images = pictures(5)
    jobs = jobs_of(probe_sites(tiny_model, images))
    wanted: Changes = by_hand(tiny_model, images, jobs)[1]
    engine = HookEngine(tiny_model, images)
    for limit in (2, 7, 4096):
        monkeypatch.setattr(engine, "pairs_per_batch", lambda _site, limit=limit: limit)
        assert_same(by_engine(engine, images, jobs)[1], wanted)
    assert_untouched(tiny_model, before)


@pytest.mark.gpu
def test_exact_on_cuda_equals_the_cpu(tiny_model: nn.Module) -> None:
    images = pictures(5)
    sites = probe_sites(tiny_model, images)
    jobs = jobs_of(sites)
    wanted = by_hand(tiny_model, images, jobs)[1]
    engine = ExactEngine(tiny_model.cuda(), sites, images.cuda())
    assert_same(by_engine(engine, images.cuda(), jobs)[1], wanted, tolerance=1e-3)
    assert engine.fallbacks == {}
