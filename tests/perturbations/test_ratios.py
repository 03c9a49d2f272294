"""Ratios and their intervals against formulas written out cell by cell, the bootstrap and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.errors import DataError
from auditor.perturbations.ratios import (
    accuracy_change,
    corruption_error,
    mean_share,
    ratio_of_means,
    ratio_of_samples,
    relative_accuracy,
)


def table(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, first, second, neither])
    b = np.repeat([True, False, True, False], [both, first, second, neither])
    return a, b


@pytest.mark.parametrize("cells", [(1, 1, 7, 12), (59, 6, 16, 80)])
def test_relative_accuracy_is_bonett_and_price_written_out(cells: tuple[int, int, int, int]) -> None:
    n11, n12, n21, n22 = cells
    found = relative_accuracy(*table(n11, n12, n21, n22))
    m, n1, n2 = n11 + n12 + n21, n11 + n12, n11 + n21
    a = ((n12 + n21 + 2) / ((n1 + 1) * (n2 + 1))) ** 0.5
    b = ((1 - (n1 + 1) / (m + 2)) / (n1 + 1)) ** 0.5
    c = ((1 - (n2 + 1) / (m + 2)) / (n2 + 1)) ** 0.5
    z = a / (b + c) * 1.959963984540054

    def ends(count: int) -> tuple[float, float]:
        root = z * (z**2 + 4 * count * (1 - count / m)) ** 0.5
        return (2 * count + z**2 - root) / (2 * (m + z**2)), (2 * count + z**2 + root) / (2 * (m + z**2))

    assert found.estimate == pytest.approx(n1 / n2)
    assert found.low == pytest.approx(ends(n1)[0] / ends(n2)[1], rel=1e-9)
    assert found.high == pytest.approx(ends(n1)[1] / ends(n2)[0], rel=1e-9)


def test_relative_accuracy_covers() -> None:
    rng = np.random.default_rng(0)
    clean = rng.random((4000, 80)) < 0.85
    stressed = np.where(clean, rng.random(clean.shape) < 0.6, rng.random(clean.shape) < 0.1)
    truth = (0.85 * 0.6 + 0.15 * 0.1) / 0.85
    found = relative_accuracy(stressed, clean)
    assert 0.935 < np.mean((found.low <= truth) & (truth <= found.high)) < 0.975


def test_ends_are_defined_and_wide_where_nothing_or_everything_survives() -> None:
    clean = np.ones(50, dtype=bool)
    none, every = relative_accuracy(~clean, clean), relative_accuracy(clean, clean)
    assert none.estimate == none.low == 0
    assert 0 < none.high < 0.1
    assert every.estimate == 1
    assert every.low < 1 <= every.high
    assert np.isnan(relative_accuracy(clean, ~clean).estimate)


def test_ratio_of_means_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    clean = (rng.random(400) < 0.8).astype(float)
    shares = clean * rng.beta(4, 2, 400)
    found = ratio_of_means(shares, clean)
    draws = rng.integers(0, 400, (4000, 400))
    spread = (shares[draws].mean(1) / clean[draws].mean(1)).std()
    assert found.estimate == pytest.approx(shares.sum() / clean.sum())
    assert (found.high - found.low) / (2 * 1.966) == pytest.approx(spread, rel=0.06)


def test_ratio_of_samples_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    over, under = rng.random(300) * (rng.random(300) < 0.7), (rng.random(500) < 0.9).astype(float)
    found = ratio_of_samples(over, under)
    spread = np.std([rng.choice(over, 300).mean() / rng.choice(under, 500).mean() for _ in range(4000)])
    assert found.estimate == pytest.approx(over.mean() / under.mean())
    assert (found.high - found.low) / (2 * 1.965) == pytest.approx(spread, rel=0.06)


def test_corruption_error_is_the_formula_and_its_interval_the_bootstraps() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(500)
    level = np.linspace(0.1, 0.5, 12).reshape(3, 4, 1)
    mine, other = ((rng.random((3, 4, 500)) < level * (0.5 + hard) * scale) for scale in (0.8, 1.0))
    by_type, mean = corruption_error(mine, other)
    expected = [mine[t].sum() / other[t].sum() for t in range(3)]
    np.testing.assert_allclose(by_type, expected)
    assert mean.estimate == pytest.approx(np.mean(expected))
    draws = rng.integers(0, 500, (2000, 500))
    drawn = [np.mean([mine[t][:, d].sum() / other[t][:, d].sum() for t in range(3)]) for d in draws]
    assert (mean.high - mean.low) / (2 * 1.965) == pytest.approx(np.std(drawn), rel=0.08)
    same, one = corruption_error(other, other)
    assert (same == 1).all()
    assert one.low == one.high == 1
    with pytest.raises(DataError, match="same corrupted images"):
        corruption_error(mine[:, :, :9], other)


def test_mean_share_covers_images_whose_conditions_hang_together() -> None:
    rng = np.random.default_rng(4)
    shares = rng.beta(0.5, 0.3, (3000, 60))
    found = [mean_share((rng.random((60, 5)) < row[:, None]).mean(1), 5) for row in shares]
    hit = [one.low <= 0.625 <= one.high for one in found]
    assert 0.93 < np.mean(hit) < 0.975


def test_mean_share_has_width_at_the_ends_and_stays_within() -> None:
    for value in (0.0, 1.0):
        found = mean_share(np.full(40, value), 5)
        assert 0 <= found.low <= found.high <= 1
        assert found.high - found.low > 0.05
    assert np.isnan(mean_share([0.5], 5).low)


def test_change_pairs_images() -> None:
    a, b = table(30, 2, 12, 6)
    found = accuracy_change(a, b)
    assert found.estimate == pytest.approx(-10 / 50)
    assert found.high < 0
    with pytest.raises(DataError, match="do not pair"):
        accuracy_change(a, b[:-1])
