"""The regularizer against NumPy, finite differences and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from auditor.errors import DataError
from auditor.hooks import capture
from auditor.models import probe_sites
from auditor.training import SelectivityRegularizer, batch_selectivity
from auditor.training.classes import ClassStatistics, Groups, RunningStatistics


class Operations(TorchDispatchMode):
    """Writes down every operation with the shapes of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        shapes = [tuple(each.shape) for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
        self.found.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


def by_hand(responses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    means = np.stack([responses[labels == c].mean(0) for c in np.unique(labels)])
    top = means.max(0)
    rest = (means.sum(0) - top) / (len(means) - 1)
    return (top - rest) / (top + rest + 1e-7)


def test_equals_numpy_and_drops_absent_classes() -> None:
    rng = np.random.default_rng(0)
    responses, labels = rng.gamma(2.0, size=(30, 5)), rng.choice([0, 2, 7], size=30)
    found = batch_selectivity(torch.tensor(responses), torch.tensor(labels))
    np.testing.assert_allclose(found.numpy(), by_hand(responses, labels), atol=1e-12)


@given(k=st.integers(1, 9), n_classes=st.integers(2, 10), each=st.integers(1, 4))
def test_closed_form(k: int, n_classes: int, each: int) -> None:
    if k >= n_classes:
        return
    labels = torch.arange(n_classes).repeat_interleave(each)
    responses = (labels < k).double()[:, None]
    expected = (n_classes - k) / (n_classes + k - 2)
    assert batch_selectivity(responses, labels).item() == pytest.approx(expected, abs=1e-6)


def test_gradient_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    responses = torch.rand(7, 4, generator=generator, dtype=torch.float64) + 0.1
    responses.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: batch_selectivity(r, labels), (responses,))


def test_gradient_reaches_the_weights_through_the_hooks(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    model = tiny_resnet.double()
    batch, labels = tiny_batch.double(), torch.tensor([0, 1, 2, 0, 1, 2])
    regularizer = SelectivityRegularizer(probe_sites(model, batch))

    def value() -> torch.Tensor:
        with regularizer.watching(model):
            model(batch)
            return regularizer(labels).mean

    value().backward()
    weight = model.blocks[0].conv1.weight
    step = 1e-6
    for position in ((0, 0, 1, 1), (3, 2, 0, 1), (7, 5, 2, 2)):
        with torch.no_grad():
            weight[position] += step
            up = value().item()
            weight[position] -= 2 * step
            down = value().item()
            weight[position] += step
        assert weight.grad[position].item() == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-8)


def test_a_silent_unit_scores_zero_and_gets_no_gradient() -> None:
    responses = torch.zeros(4, 2)
    responses[:, 1] = torch.tensor([1.0, 1.0, 3.0, 3.0])
    responses.requires_grad_()
    found = batch_selectivity(responses, torch.tensor([0, 0, 1, 1]))
    found.sum().backward()
    assert found.tolist() == [0.0, pytest.approx(0.5, abs=1e-6)]
    assert responses.grad[:, 0].tolist() == [0.0] * 4
    assert torch.isfinite(responses.grad).all()


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="at least two classes"):
        batch_selectivity(torch.rand(4, 2), torch.zeros(4, dtype=torch.long))


def test_mean_is_over_units_then_layers(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    sites = probe_sites(tiny_cnn, tiny_batch)
    regularizer = SelectivityRegularizer(sites)
    with regularizer.watching(tiny_cnn):
        tiny_cnn(tiny_batch)
        seen = regularizer(labels)
    with capture(tiny_cnn, sites) as captured, torch.no_grad():
        tiny_cnn(tiny_batch)
        found = captured.take()
    assert [site.name for site in regularizer.sites] == ["act1", "act2", "act3"]
    expected = [by_hand(responses.numpy(), labels.numpy()).mean() for responses in found.values()]
    np.testing.assert_allclose(seen.layers, expected, atol=1e-6)
    assert seen.mean.item() == pytest.approx(np.mean(expected), abs=1e-6)
    assert seen.samples_per_class == 2
    assert torch.isnan(seen.floor)


def test_the_floor_is_that_of_the_shuffled_labels(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    labels, shuffled = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    regularizer = SelectivityRegularizer(probe_sites(tiny_cnn, tiny_batch))
    with regularizer.watching(tiny_cnn):
        tiny_cnn(tiny_batch)
        seen = regularizer(labels, shuffled=Groups.of(shuffled))
        tiny_cnn(tiny_batch)
        other = regularizer(shuffled)
    assert seen.floor.item() == other.mean.item()
    assert not seen.floor.requires_grad


def test_a_layers_value_does_not_depend_on_its_neighbours(tiny_resnet: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites, labels = probe_sites(tiny_resnet, tiny_batch), torch.tensor([0, 1, 2, 0, 1, 2])
    values = []
    for chosen in (sites, sites[1:2]):
        regularizer = SelectivityRegularizer(chosen)
        with regularizer.watching(tiny_resnet):
            tiny_resnet(tiny_batch)
            values.append(regularizer(labels).layers)
    assert values[0][1] == values[1][0]


def test_signed_responses_are_rectified_on_demand(tiny_vit: nn.Module, tiny_batch: torch.Tensor) -> None:
    sites, labels = probe_sites(tiny_vit, tiny_batch), torch.tensor([0, 1, 2, 0, 1, 2])
    regularizer = SelectivityRegularizer(sites, rectify=True)
    with regularizer.watching(tiny_vit):
        tiny_vit(tiny_batch)
        seen = regularizer(labels)
    with capture(tiny_vit, sites) as captured, torch.no_grad():
        tiny_vit(tiny_batch)
        found = [np.maximum(each.numpy(), 0) for each in captured.take().values()]
    assert min(each.min() for each in found) == 0
    np.testing.assert_allclose(seen.layers, [by_hand(each, labels.numpy()).mean() for each in found], atol=1e-6)
    assert 0 <= seen.mean.item() <= 1


def test_the_cost_does_not_grow_with_the_number_of_classes(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    """Operations and their sizes depend on the classes in the batch, not on those of the data."""
    work = []
    for labels in (torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([7, 499, 999, 7, 499, 999])):
        regularizer = SelectivityRegularizer(probe_sites(tiny_cnn, tiny_batch))
        with regularizer.watching(tiny_cnn):
            tiny_cnn(tiny_batch)
            with Operations() as operations:
                torch.autograd.grad(regularizer(labels).mean, tiny_cnn.conv1.weight)
        work.append(operations.found)
    assert len(work[0]) > 50
    assert work[0] == work[1]


def test_use_outside_of_watching_is_refused() -> None:
    with pytest.raises(RuntimeError, match="watching"):
        SelectivityRegularizer([])(torch.tensor([0, 1]))


def test_running_means_are_exponential_and_keep_absent_classes() -> None:
    running = RunningStatistics(4, 0.75)
    first, second = torch.rand(6, 5), torch.rand(4, 5, requires_grad=True)
    labels = np.array([0, 0, 1, 1, 3, 3]), np.array([1, 1, 2, 2])
    groups = [Groups.of(each) for each in labels]
    before = running.update(ClassStatistics.of(first, groups[0]), groups[0]).mean
    torch.testing.assert_close(before, torch.stack([first[:2].mean(0), first[2:4].mean(0), first[4:].mean(0)]))
    after = running.update(ClassStatistics.of(second, groups[1]), groups[1]).mean
    blended = 0.75 * first[2:4].mean(0) + 0.25 * second[:2].mean(0)
    expected = torch.stack([before[0], blended, second[2:].mean(0), before[2]])
    torch.testing.assert_close(after, expected)
    after.sum().backward()
    # Through the batch's own contribution: a quarter of 1/2 for the known class, all of 1/2 for the new one.
    torch.testing.assert_close(second.grad, torch.tensor([0.125, 0.125, 0.5, 0.5])[:, None].expand(4, 5))
    copied = RunningStatistics(4, 0.75)
    copied.restore(running.state())
    third = ClassStatistics.of(torch.rand(6, 5), groups[0])
    assert torch.equal(copied.update(third, groups[0]).mean, running.update(third, groups[0]).mean)


def test_one_sample_says_nothing_of_its_classes_running_variance() -> None:
    running = RunningStatistics(3, 0.75)
    labels = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2])
    responses = [torch.rand(4, 2, dtype=torch.float64) for _ in labels]
    found = []
    for each, which in zip(responses, labels, strict=True):
        groups = Groups.of(which)
        found.append(running.update(ClassStatistics.of(each, groups, variance=True), groups))
    # Class 1 is known by one sample at first, class 2 to the end; they count as one and cannot be preferred.
    assert found[0].count.tolist() == [2, 1]
    assert found[2].count.tolist() == pytest.approx([4 / 3, 4 / 3, 1])
    torch.testing.assert_close(found[1].variance, torch.stack([responses[0][:3].var(0), responses[1][1:].var(0)]))
    expected = 0.75 * responses[0][:3].var(0) + 0.25 * responses[2][:2].var(0)
    torch.testing.assert_close(found[2].variance[0], expected)
    torch.testing.assert_close(found[2].variance[1], responses[1][1:].var(0))
