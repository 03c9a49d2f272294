"""The controls of an audit: halves, shuffled labels and the network before training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import auditor
from auditor.api.audit_controls import SHUFFLES, _halves, _stratified, measure_controls
from auditor.api.forward import Execution
from auditor.models.untrained import untrained_copy
from auditor.progress import QUIET
from auditor.registry import registry
from auditor.selectivity import score_units


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_halves_are_halves_of_every_class(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    first = _halves(labels, np.random.default_rng(seed))
    assert first.shape == labels.shape
    for label, size in enumerate(sizes):
        assert abs(int(first[labels == label].sum()) - size / 2) <= 0.5
    # Odd classes give their extra image to either half in turn, so the halves are alike in size, too.
    present = [size for size in sizes if size]
    assert abs(int(first.sum()) - int((~first).sum())) <= max(1, sum(size % 2 for size in present))


def test_halves_are_drawn_at_random() -> None:
    labels = np.repeat([0, 1], 50)
    one, again, other = (_halves(labels, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_a_sample_is_stratified_and_of_what_was_given() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    index = np.flatnonzero(np.arange(1000) % 2 == 0)
    found = _stratified(labels, index, 100, np.random.default_rng(0))
    assert np.isin(found, index).all()
    assert len(np.unique(found)) == len(found)
    assert np.bincount(labels[found]).tolist() == [60, 30, 10]
    np.testing.assert_array_equal(_stratified(labels, index, 500, np.random.default_rng(0)), index)


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_an_untrained_copy_is_another_network_of_the_same_kind(
    tiny_model: torch.nn.Module, batch: torch.Tensor
) -> None:
    before = copy.deepcopy(tiny_model)
    state = torch.random.get_rng_state()
    one, again, other = (untrained_copy(tiny_model, [batch], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(tiny_model, before)
    assert [p.requires_grad for p in tiny_model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert same(one, again)
    assert not same(one, other)
    assert not one.training
    weights = dict(tiny_model.named_parameters())
    for name, parameter in other.named_parameters():
        assert parameter.shape == weights[name].shape
        if parameter.ndim > 1:
            assert not torch.equal(parameter, weights[name]), name


def test_batch_norms_of_the_copy_have_statistics_of_their_own(
    tiny_resnet: torch.nn.Module, batch: torch.Tensor
) -> None:
    found = untrained_copy(tiny_resnet, [batch[:12], batch[12:]], seed=0)
    first = found.get_submodule("conv")(batch)
    norm = found.get_submodule("bn")
    halves = torch.stack([first[:12].mean((0, 2, 3)), first[12:].mean((0, 2, 3))])
    torch.testing.assert_close(norm.running_mean, halves.mean(0), atol=1e-5, rtol=1e-4)
    assert norm.momentum == tiny_resnet.get_submodule("bn").momentum
    with torch.no_grad():
        assert 0.3 < float(found.get_submodule("bn")(first).std()) < 3


def test_values_without_a_layer_keep_their_scale(tiny_vit: torch.nn.Module, batch: torch.Tensor) -> None:
    found = untrained_copy(tiny_vit, [batch], seed=0)
    for name in ("token", "position"):
        mine, theirs = getattr(found, name).flatten(), getattr(tiny_vit, name).flatten()
        assert not torch.equal(mine, theirs)
        torch.testing.assert_close(mine.sort().values, theirs.sort().values)


@pytest.mark.slow
def test_controls_of_a_run_are_those_of_its_stored_responses(base: auditor.Run) -> None:
    execution = Execution(device="cpu")
    before = copy.deepcopy(base.model(execution).module)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    found = measure_controls(base, base.data(), execution, seed=3, reporter=QUIET)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(base.model(execution).module, before)
    with base.store() as store:
        rows = np.flatnonzero(store.splits == 1)
        labels = store.labels[rows]
        responses = np.concatenate([store.responses(site.name, rows) for site in base.sites], axis=1)
    assert found.n_images == len(rows)
    expected = score_units(
        responses, labels, n_classes=10, metric=registry().metric("index"), n_shuffles=SHUFFLES, n_boot=0, seed=3
    )
    alive = np.isfinite(expected.value)
    np.testing.assert_array_equal(np.isfinite(found.trained), alive)
    # The null is drawn, layer by layer: values agree up to its noise.
    np.testing.assert_allclose(found.trained[alive], expected.excess[alive], atol=0.05)
    assert np.nanmean(found.first) == pytest.approx(np.nanmean(found.second), abs=0.05)
    assert (found.first[alive] != found.second[alive]).all()
    # Labels in random order: the metric is at its null, not at its value.
    assert np.nanmean(found.shuffled) == pytest.approx(np.nanmean(expected.value - expected.excess), abs=0.05)
    assert np.nanmean(found.shuffled) < np.nanmean(expected.value)
    assert np.nanmax(np.abs(found.untrained - found.trained)) > 0.05
    again = measure_controls(base, base.data(), execution, seed=3, reporter=QUIET)
    np.testing.assert_array_equal(again.untrained, found.untrained)
    np.testing.assert_array_equal(again.first, found.first)
