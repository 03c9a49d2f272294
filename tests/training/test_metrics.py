"""Training metrics against independent implementations, and the promises of the base class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from auditor.errors import PluginError, UnknownNameError
from auditor.registry import registry
from auditor.training import TrainingMetric, training_metric
from auditor.training.classes import ClassStatistics, Groups
from auditor.training.metrics import score_units

METRICS = sorted(registry().training_metrics())


def scored(metric: TrainingMetric, responses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return metric(ClassStatistics.of(responses, Groups.of(labels), variance=metric.needs_variance))


def dprime_by_hand(responses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = []
    for c in np.unique(labels):
        inside, outside = responses[labels == c], responses[labels != c]
        if len(inside) < 2:
            continue
        pooled = (inside.var(0, ddof=1) + outside.var(0, ddof=1)) / 2
        found.append((inside.mean(0) - outside.mean(0)) / np.sqrt(pooled))
    return np.max(found, axis=0)


@given(counts=st.lists(st.integers(1, 6), min_size=2, max_size=5), seed=st.integers(0, 20))
def test_bounded_dprime_equals_the_definition(counts: list[int], seed: int) -> None:
    if max(counts) < 2 or sum(counts) - max(counts) < 2:
        return
    labels = np.repeat(np.arange(len(counts)), counts)
    usable = [n > 1 and len(labels) - n > 1 for n in counts]
    if usable != [n > 1 for n in counts]:
        return
    responses = np.random.default_rng(seed).normal(size=(len(labels), 4))
    d = dprime_by_hand(responses, labels)
    found = scored(training_metric("dprime"), torch.tensor(responses), torch.tensor(labels)).numpy()
    np.testing.assert_allclose(found, d / np.sqrt(d**2 + 4), atol=1e-10)


def test_with_two_equal_groups_it_is_the_point_biserial_correlation() -> None:
    """Up to the degrees of freedom of the variance, which vanish in large groups."""
    rng = np.random.default_rng(0)
    labels = np.arange(2).repeat(5000)
    responses = rng.normal(size=10000) + 0.7 * labels
    found = scored(training_metric("dprime"), torch.tensor(responses)[:, None], torch.tensor(labels)).item()
    assert found == pytest.approx(abs(stats.pointbiserialr(labels, responses).statistic), abs=1e-3)


@pytest.mark.parametrize("name", METRICS)
def test_values_are_bounded_and_gradients_finite(name: str) -> None:
    metric, labels = training_metric(name), torch.arange(4).repeat_interleave(3)
    perfect = (labels == 2).double()[:, None]
    noise = torch.rand(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    responses = torch.cat([torch.zeros(12, 1), perfect, 1e4 * perfect, 1e-6 * noise, noise, torch.ones(12, 1)], dim=1)
    responses.requires_grad_()
    found = scored(metric, responses, labels)
    found.sum().backward()
    assert ((found >= -1) & (found <= 1)).all()
    assert found[0] == 0
    assert (responses.grad[:, 0] == 0).all()
    assert torch.isfinite(responses.grad).all()
    assert found[1].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_gradients_equal_finite_differences(name: str) -> None:
    metric, labels = training_metric(name), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    responses = torch.rand(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    responses.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: scored(metric, r, labels), (responses,))


def test_dprime_does_not_depend_on_where_zero_is() -> None:
    metric, labels = training_metric("dprime"), torch.arange(3).repeat(4)
    responses = torch.randn(12, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(scored(metric, responses, labels), scored(metric, 3 * responses - 5, labels))


def test_units_are_scored_independently() -> None:
    """Layers are scored side by side, so a unit's value must be its own."""
    labels = torch.arange(3).repeat(4)
    responses = torch.rand(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for metric in registry().training_metrics().values():
        whole = scored(metric, responses, labels)
        parts = torch.cat([scored(metric, responses[:, i : i + 1], labels) for i in range(5)])
        torch.testing.assert_close(whole, parts)


def test_a_misspelt_metric_is_named() -> None:
    with pytest.raises(UnknownNameError, match="dprime"):
        training_metric("dprim")


@pytest.mark.parametrize(
    "result, match",
    [
        (ZeroDivisionError("by nought"), "'broken' failed: ZeroDivisionError: by nought"),
        (torch.tensor(0.5), "contract"),
    ],
)
def test_a_plugin_that_fails_is_named(result: object, match: str) -> None:
    class Broken(TrainingMetric):
        name, label, non_negative = "broken", "broken", True

        def __call__(self, classes: ClassStatistics) -> torch.Tensor:
            if isinstance(result, Exception):
                raise result
            return result  # type: ignore[return-value]

    classes = ClassStatistics.of(torch.rand(4, 3), Groups.of(torch.tensor([0, 0, 1, 1])))
    with pytest.raises(PluginError, match=match):
        score_units(Broken(), classes)
