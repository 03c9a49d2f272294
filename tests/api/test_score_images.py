"""Donors and noise are drawn once and for all, whatever is in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from auditor.api.score_images import draw_donors, noise_for
from auditor.errors import DataError

LABELS = np.array([0, 1, 2, 0, 1, 2, 2, 0, 1, 0, 2, 2, 1])


@pytest.mark.parametrize("same_class", [False, True])
@pytest.mark.parametrize(
    "labels", [LABELS, np.array([5, 5]), np.repeat(np.arange(50), 2)], ids=["mixed", "two", "pairs"]
)
def test_every_image_lends_to_exactly_one_other(labels: NDArray[np.int64], same_class: bool) -> None:
    for seed in range(20):
        donors = draw_donors(labels, same_class=same_class, seed=seed)
        assert sorted(donors) == list(range(len(labels)))
        assert (donors != np.arange(len(labels))).all()
        if same_class:
            assert (labels[donors] == labels).all()


def test_donors_of_any_class_mix_classes_and_depend_on_the_seed_alone() -> None:
    labels = np.arange(200) % 10
    first, again, other = (draw_donors(labels, same_class=False, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0.02 < (labels[first] == labels).mean() < 0.25


def test_every_other_image_can_be_the_donor() -> None:
    drawn = np.array([draw_donors(np.zeros(4, dtype=np.int64), same_class=True, seed=seed) for seed in range(600)])
    counts = np.array([[(drawn[:, image] == donor).sum() for donor in range(4)] for image in range(4)])
    assert (np.diag(counts) == 0).all()
    # Each of the three others is drawn 200 times, give or take: 5 standard deviations are 58.
    assert (np.abs(counts[~np.eye(4, dtype=bool)] - 200) < 58).all()


@pytest.mark.parametrize(
    "labels, same_class, message",
    [([0], False, "two images"), ([0, 0, 1], True, "of every class"), ([], False, "two images")],
)
def test_an_image_alone_cannot_be_resampled(labels: list[int], same_class: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_donors(np.array(labels, dtype=np.int64), same_class=same_class, seed=0)


SHAPES = [((6, 4, 4), 1), ((5, 6), -1), ((4, 3, 6), -1), ((6,), -1), ((6, 5), 1)]


@pytest.mark.parametrize("shape, axis", SHAPES)
def test_noise_of_an_image_is_the_same_in_any_batch(shape: tuple[int, ...], axis: int) -> None:
    whole = noise_for(np.arange(8), shape, axis, seed=1, site=2)
    assert whole.shape[:2] == (8, 6)
    assert whole.numel() == 8 * int(np.prod(shape))
    rows = np.array([7, 0, 3])
    assert torch.equal(noise_for(rows, shape, axis, seed=1, site=2), whole[rows])
    assert torch.equal(noise_for(rows[1:2], shape, axis, seed=1, site=2), whole[:1])


def test_noise_differs_by_image_site_and_seed() -> None:
    drawn = [
        noise_for(np.array([row]), (50,), -1, seed=seed, site=site).flatten()
        for row, seed, site in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    matrix = torch.corrcoef(torch.stack(drawn))
    assert (matrix - torch.eye(4)).abs().max() < 0.5


def test_noise_is_standard_normal() -> None:
    values = noise_for(np.arange(40), (8, 16, 16), 1, seed=0, site=0).double()
    n = values.numel()
    assert abs(float(values.mean())) < 5 / n**0.5
    assert abs(float(values.var()) - 1) < 5 * (2 / n) ** 0.5
