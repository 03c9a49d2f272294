"""Effects against torch and closed forms; curves against counting."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from auditor.ablation import cross_entropy, curve_counts, curve_orders, curve_table, unit_effects


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    intact = rng.normal(size=(40, 4)).astype(np.float32)
    ablated = intact + rng.normal(scale=0.7, size=(3, 40, 4)).astype(np.float32)
    return intact, ablated, rng.integers(4, size=40)


def test_cross_entropy_equals_torch(logits: tuple[np.ndarray, ...]) -> None:
    intact, _, labels = logits
    expected = torch.nn.functional.cross_entropy(torch.tensor(intact).double(), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(cross_entropy(intact, labels), expected.numpy(), atol=1e-12)


def test_effects_equal_a_loop(logits: tuple[np.ndarray, ...]) -> None:
    intact, ablated, labels = logits
    preferred = np.array([0, 3, 1])
    table = unit_effects(intact, ablated, labels, preferred)
    for k in range(3):
        own = labels == preferred[k]
        before, after = intact.argmax(1) == labels, ablated[k].argmax(1) == labels
        row = table.iloc[k]
        assert row["accuracy_change"] == pytest.approx(after.mean() - before.mean())
        assert row["preferred_accuracy_change"] == pytest.approx(after[own].mean() - before[own].mean())
        assert row["n_preferred"] == own.sum()
        drop = np.array([intact[i, labels[i]] - ablated[k, i, labels[i]] for i in range(40)], dtype=np.float64)
        assert row["target_logit_drop"] == pytest.approx(drop.mean(), abs=1e-6)
        interval = stats.ttest_1samp(drop, 0).confidence_interval(0.95)
        assert (row["target_logit_drop_low"], row["target_logit_drop_high"]) == pytest.approx(interval, abs=1e-6)
        assert row["loss_change_low"] < row["loss_change"] < row["loss_change_high"]


def test_an_ablation_that_does_nothing_has_no_effect(logits: tuple[np.ndarray, ...]) -> None:
    intact, _, labels = logits
    table = unit_effects(intact, intact[None], labels, np.array([2]))
    assert table.loc[0, ["target_logit_drop", "loss_change", "accuracy_change"]].tolist() == [0, 0, 0]
    assert table.loc[0, "accuracy_change_low"] < 0 < table.loc[0, "accuracy_change_high"]


def test_curve_counts_run_from_one_to_all() -> None:
    counts = curve_counts(500, 8)
    assert (counts[0], counts[-1], len(counts)) == (1, 500, 8)
    assert counts == sorted(set(counts))
    assert curve_counts(3, 10) == [1, 2, 3]


def test_orders_rank_by_score_and_are_seeded() -> None:
    score = np.array([0.2, np.nan, 0.9, 0.5])
    sites = np.zeros(4, dtype=np.int64)
    first, last, *random = curve_orders(score, sites, n_random=3, within_layers=False, seed=7)
    assert first.ranking.tolist() == [2, 3, 0, 1]
    assert last.ranking.tolist() == [0, 3, 2, 1]
    again = curve_orders(score, sites, n_random=3, within_layers=False, seed=7)[2:]
    assert [r.ranking.tolist() for r in random] == [r.ranking.tolist() for r in again]
    assert all(sorted(r.ranking) == [0, 1, 2, 3] for r in random)


def test_orders_within_layers_take_the_same_share_of_each() -> None:
    sites = np.repeat([0, 1], [4, 8])
    # The second layer is far more selective throughout: a network-wide ranking would take it alone.
    score = np.concatenate([np.linspace(0, 0.1, 4), np.linspace(0.5, 0.9, 8)])
    for curve in curve_orders(score, sites, n_random=2, within_layers=True, seed=0):
        for share in (3, 6, 9):
            taken = sites[curve.ranking[:share]]
            assert (taken == 0).sum() == share // 3
    first = curve_orders(score, sites, n_random=2, within_layers=True, seed=0)[0].ranking
    assert [u for u in first if u < 4] == [3, 2, 1, 0]


def test_curve_table_counts() -> None:
    points = pd.DataFrame(
        {
            "order": ["selective first"] * 2 + ["random"] * 4,
            "draw": [0, 0, 0, 0, 1, 1],
            "n_silenced": [1, 2, 1, 2, 1, 2],
            "correct": [9, 4, 10, 8, 8, 2],
        }
    )
    table = curve_table(10, points, 10).set_index(["order", "n_silenced"])
    assert table.loc[("selective first", 0), "accuracy"] == 1.0
    wilson = stats.binomtest(4, 10).proportion_ci(method="wilson")
    assert tuple(table.loc[("selective first", 2), ["low", "high"]]) == pytest.approx(tuple(wilson))
    assert tuple(table.loc[("random", 2), ["accuracy", "low", "high", "draws"]]) == (0.5, 0.2, 0.8, 2)
