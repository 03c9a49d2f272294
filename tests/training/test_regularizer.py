"""The regularizer against NumPy, finite differences and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from auditor.errors import DataError
from auditor.models import probe_sites
from auditor.training import SelectivityRegularizer, batch_selectivity


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
    regularizer = SelectivityRegularizer(probe_sites(tiny_cnn, tiny_batch))
    with regularizer.watching(tiny_cnn):
        tiny_cnn(tiny_batch)
        seen = regularizer(labels)
    assert list(seen.by_site) == ["act1", "act2", "act3"]
    assert seen.mean.item() == pytest.approx(np.mean(list(seen.by_site.values())), abs=1e-6)
    assert seen.samples_per_class == 2


def test_use_outside_of_watching_is_refused() -> None:
    with pytest.raises(RuntimeError, match="watching"):
        SelectivityRegularizer([])(torch.tensor([0, 1]))
