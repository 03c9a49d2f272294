import numpy as np
import pytest
from scipy.stats import variation

from auditor.errors import DataError, OptionError
from auditor.representations import coefficient_of_variation


@pytest.mark.parametrize("axis", [0, 1])
def test_agrees_with_scipy(axis):
    values = np.random.default_rng(0).gamma(2.0, 1.0, (30, 8))
    found = coefficient_of_variation(values, axis)
    np.testing.assert_allclose(found.each, variation(values, axis=axis, ddof=1))
    assert found.estimate == pytest.approx(found.each.mean())
    assert found.low < found.estimate < found.high
    assert found.n_undefined == 0


def test_known_values():
    values = np.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(coefficient_of_variation(values, 0).each, [np.sqrt(2) / 2, 0])
    assert coefficient_of_variation(np.tile([1.0, 2.0, 3.0], (4, 1)), 1).estimate == pytest.approx(0.5)


def test_scale_does_not_matter():
    values = np.random.default_rng(0).gamma(2.0, 1.0, (20, 5))
    first, second = coefficient_of_variation(values, 0), coefficient_of_variation(1e-9 * values, 0)
    np.testing.assert_allclose([second.estimate, second.low, second.high], [first.estimate, first.low, first.high])


def test_interval_is_the_two_way_jackknife():
    values = np.random.default_rng(0).gamma(2.0, 1.0, (12, 5))
    over_images = [variation(np.delete(values, i, axis=0), ddof=1).mean() for i in range(12)]
    each = variation(values, ddof=1)
    over_units = [np.delete(each, i).mean() for i in range(5)]
    variance = 11 * np.var(over_images) + 4 * np.var(over_units)
    found = coefficient_of_variation(values, 0)
    assert np.log(found.high / found.estimate) == pytest.approx(1.959964 * np.sqrt(variance) / found.estimate, rel=1e-6)
    assert found.low * found.high == pytest.approx(found.estimate**2)


def test_silent_units_are_left_out_and_counted():
    values = np.random.default_rng(0).gamma(2.0, 1.0, (20, 5))
    padded = np.hstack([values, np.zeros((20, 2))])
    found, want = coefficient_of_variation(padded, 0), coefficient_of_variation(values, 0)
    assert (found.n_undefined, np.isnan(found.each).sum()) == (2, 2)
    assert (found.estimate, found.low, found.high) == (want.estimate, want.low, want.high)
    nothing = coefficient_of_variation(np.zeros((20, 2)), 0)
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all()


def test_a_unit_that_fires_once_has_the_largest_coefficient_there_is():
    values = np.zeros((16, 1))
    values[3] = 7.1
    assert coefficient_of_variation(values, 0).estimate == pytest.approx(4.0)


@pytest.mark.parametrize("axis", [0, 1])
def test_intervals_cover(axis):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):  # images and units both count: scale by image, spread by unit
        spread = rng.uniform(0.1, 0.3, 32)
        values = np.exp(0.2 * rng.normal(size=(100, 1)) + spread * rng.normal(size=(100, 32)))
        found = coefficient_of_variation(values, axis)
        if axis == 0:
            sigma = np.sqrt(0.04 + np.linspace(0.1, 0.3, 2001) ** 2)
            truth = np.sqrt(np.exp(sigma**2) - 1).mean()
        else:  # over units of random spread: moments of a mixture of log-normals
            squares = np.linspace(0.1, 0.3, 2001) ** 2
            mean, second = np.exp(squares / 2).mean(), np.exp(2 * squares).mean()
            truth = np.sqrt(second / mean**2 - 1)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) >= 0.90


def test_refusals():
    with pytest.raises(OptionError, match="images by units"):
        coefficient_of_variation(np.ones((3, 3)), 2)
    with pytest.raises(DataError, match="two values"):
        coefficient_of_variation(np.ones((1, 3)), 0)
    with pytest.raises(DataError, match="not negative"):
        coefficient_of_variation(-np.ones((3, 3)), 0)
    with pytest.raises(OptionError, match="confidence"):
        coefficient_of_variation(np.ones((3, 3)), 0, confidence=95)
