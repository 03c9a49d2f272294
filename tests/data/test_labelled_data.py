from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from auditor.data import LabelledData, stratified_splits
from auditor.data.torch_data import ImageDataset
from auditor.errors import DataError, OptionError


def blank(index: int) -> Image.Image:
    return Image.new("L", (4, 4), index % 256)


def make(counts: list[int], **changes: object) -> LabelledData:
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = tuple(f"image{row}" for row in range(len(labels)))
    fields: dict[str, object] = {
        "name": "toy",
        "origin": "here",
        "classes": tuple(f"class{label}" for label in range(len(counts))),
        "labels": labels,
        "ids": ids,
        "splits": stratified_splits(labels, ids, fractions=(0.5, 0.25, 0.25), seed=0),
        "read": blank,
    }
    return LabelledData(**{**fields, **changes})  # type: ignore[arg-type]


def test_splits_are_disjoint_sorted_and_complete() -> None:
    data = make([20, 8, 4])
    rows = np.concatenate(list(data.splits.values()))
    assert sorted(rows.tolist()) == list(range(32))
    assert all(np.all(np.diff(part) > 0) for part in data.splits.values())
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 16, "select": 8, "score": 8}


def test_splits_do_not_depend_on_the_order_of_the_files() -> None:
    labels = np.repeat([0, 1], [30, 20])
    ids = [f"{row}.png" for row in range(50)]
    order = np.random.default_rng(1).permutation(50)
    one = stratified_splits(labels, ids, seed=3)
    two = stratified_splits(labels[order], [ids[row] for row in order], seed=3)
    for split in one:
        assert {ids[row] for row in one[split]} == {ids[order[row]] for row in two[split]}


def test_another_seed_gives_another_division() -> None:
    labels = np.zeros(50, dtype=np.int64)
    ids = [str(row) for row in range(50)]
    assert not np.array_equal(
        stratified_splits(labels, ids, seed=0)["score"], stratified_splits(labels, ids, seed=1)["score"]
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8))
def test_every_class_is_in_select_and_score(counts: list[int], train: int, select: int, score: int) -> None:
    total = train + select + score
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = [str(row) for row in range(len(labels))]
    parts = stratified_splits(labels, ids, fractions=(train / total, select / total, score / total), seed=0)
    for split in ("select", "score"):
        assert set(labels[parts[split]]) == set(range(len(counts)))
    assert sum(map(len, parts.values())) == len(labels)
    if train == 0:
        assert len(parts["train"]) == 0


def test_a_class_too_small_is_named() -> None:
    with pytest.raises(DataError, match="'owl'") as caught:
        stratified_splits(np.array([0, 0, 0, 1]), list("abcd"), seed=0, classes=["cat", "owl"])
    assert caught.value.got == "1"


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5), (0.5, 0.25, 0.2), (1.0, 0.0, 0.0), (-0.5, 0.75, 0.75), (float("nan"), 0.5, 0.5)]
)
def test_fractions_are_checked(fractions: tuple[float, ...]) -> None:
    with pytest.raises(OptionError):
        stratified_splits(np.zeros(9, dtype=np.int64), [str(row) for row in range(9)], fractions=fractions, seed=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([0, 1])},
        {"labels": np.full(12, 2)},
        {"labels": np.full(12, -1)},
        {"ids": ("same",) * 12},
        {"classes": ("a", "a")},
        {"splits": {"train": np.arange(12)}},
        {"splits": {"train": np.arange(6), "select": np.arange(5, 8), "score": np.arange(8, 12)}},
        {"splits": {"train": np.arange(6), "select": np.arange(6, 8), "score": np.arange(8, 13)}},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DataError):
        make([6, 6], **changes)


def test_fingerprints_tell_data_and_splits_apart() -> None:
    data = make([6, 6])
    other_split = make([6, 6], splits=stratified_splits(data.labels, data.ids, seed=9))
    assert data.fingerprint() == other_split.fingerprint()
    assert data.split_fingerprint() != other_split.split_fingerprint()
    assert data.fingerprint() != make([5, 7]).fingerprint()
    assert data.fingerprint() != make([6, 6], classes=("a", "b")).fingerprint()
    assert data.summary()["n_per_split"] == {"train": 6, "select": 4, "score": 2}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 60))
def test_limit_keeps_shares_and_every_class(counts: list[int], n: int) -> None:
    data = make(counts)
    small = data.limited(n)
    assert small.fingerprint() == data.fingerprint()
    for split, rows in data.splits.items():
        kept = small.splits[split]
        assert len(kept) == min(n, len(rows))
        assert set(kept) <= set(rows)
        present = set(data.labels[rows])
        if n >= len(present):
            assert set(data.labels[kept]) == present
    again = data.limited(n)
    assert again.split_fingerprint() == small.split_fingerprint()


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(OptionError):
        make([4, 4]).limited(0)


def test_data_are_immutable_and_can_be_sent_to_workers() -> None:
    data = make([4, 4])
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 1
    with pytest.raises(TypeError):
        data.splits["train"] = np.arange(2)  # type: ignore[index]
    copy = pickle.loads(pickle.dumps(data))
    assert copy.split_fingerprint() == data.split_fingerprint()


def test_image_dataset_gives_tensor_label_and_index() -> None:
    import torch

    data = make([4, 4])
    dataset = ImageDataset(data, [6, 1], lambda image: torch.full((1,), image.getpixel((0, 0))))
    assert len(dataset) == 2
    tensor, label, index = dataset[0]
    assert (tensor.item(), label, index) == (6, 1, 6)
