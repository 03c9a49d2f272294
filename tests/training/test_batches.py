"""Batches: complete, balanced, and functions of seed and epoch alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from auditor.training import BalancedBatches, ShuffledBatches


@given(n=st.integers(2, 60), size=st.integers(2, 16), epoch=st.integers(0, 3))
def test_shuffled_batches_visit_every_sample_once(n: int, size: int, epoch: int) -> None:
    batches = list(ShuffledBatches(np.zeros(n, dtype=np.int64), size, seed=1).epoch(epoch))
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) >= n - 1
    assert all(len(b) >= 2 for b in batches)


@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=7), size=st.integers(2, 20), seed=st.integers(0, 5))
def test_balanced_batches_hold_each_class_equally_often(counts: list[int], size: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    batches = BalancedBatches(labels, size, seed=seed)
    drawn = list(batches.epoch(0))
    assert len(drawn) == len(batches)
    for batch in drawn:
        present, each = np.unique(labels[batch], return_counts=True)
        assert len(set(each)) == 1
        assert len(present) == min(len(counts), max(size // 2, 1))
        assert len(batch) <= max(size, len(present))


def test_more_classes_than_fit_take_turns() -> None:
    labels = np.repeat(np.arange(10), 8)
    batches = BalancedBatches(labels, 8, seed=0)
    drawn = [set(labels[b]) for b in batches.epoch(0)]
    assert all(len(classes) == 4 for classes in drawn)
    assert set.union(*drawn) == set(range(10))


def test_an_epoch_depends_on_seed_and_number_only() -> None:
    labels = np.repeat(np.arange(3), 10)
    for kind in (ShuffledBatches, BalancedBatches):
        plan = kind(labels, 6, seed=3)
        list(plan.epoch(0))
        later = [b.tolist() for b in plan.epoch(2)]
        assert later == [b.tolist() for b in kind(labels, 6, seed=3).epoch(2)]
        assert later != [b.tolist() for b in kind(labels, 6, seed=3).epoch(1)]
        assert later != [b.tolist() for b in kind(labels, 6, seed=4).epoch(2)]
