from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

from auditor.errors import DataError, OptionError
from auditor.representations import (
    IncrementalSpectrum,
    SpectrumAccumulator,
    dimensionality_interval,
    jackknife,
    spectrum,
    spectrum_accumulator,
)


def with_variances(variances, n=40, seed=0):
    """Responses whose sample covariance (ddof=1) has exactly these eigenvalues."""
    rng = np.random.default_rng(seed)
    centred = rng.standard_normal((n, len(variances)))
    orthonormal = np.linalg.qr(centred - centred.mean(axis=0))[0]
    turned = orthonormal * np.sqrt(np.array(variances) * (n - 1))
    return turned @ ortho_group.rvs(len(variances), random_state=seed).T + 5.0


def skewed(n, n_units=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(1.0, 1.0, (n, n_units)) @ rng.normal(size=(n_units, n_units)) + 3


@pytest.mark.parametrize(
    "variances, share, components",
    [
        ([9.0, 1.0], 0.9, 1),
        ([9.0, 1.0], 0.91, 2),
        ([1.0, 1.0, 1.0, 1.0, 0.0], 0.75, 3),
        ([1.0, 1.0, 1.0, 1.0, 0.0], 1.0, 4),
        ([8.0, 4.0, 2.0, 1.0], 0.95, 4),
        ([8.0, 4.0, 2.0, 1.0], 0.9, 3),
    ],
)
def test_components_of_a_known_spectrum(variances, share, components):
    found = spectrum(with_variances(variances))
    np.testing.assert_allclose(found.eigenvalues, variances, atol=1e-12)
    assert found.components(share) == components


def test_components_agree_with_scikit_learn():
    x = skewed(80, 12) * np.logspace(0, 2, 12)
    found = spectrum(x)
    np.testing.assert_allclose(found.eigenvalues, PCA().fit(x).explained_variance_)
    for share in (0.9, 0.95, 0.99):
        assert found.components(share) == PCA(share, svd_solver="full").fit(x).n_components_
    wide = x[:8]
    np.testing.assert_allclose(spectrum(wide).eigenvalues, PCA(7).fit(wide).explained_variance_, rtol=1e-10)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_participation_ratio_of_equal_eigenvalues_is_their_number(k):
    found = spectrum(with_variances([2.0] * k + [0.0] * (6 - k)))
    assert found.participation_ratio() == pytest.approx(k)


def test_participation_ratio_of_isotropic_data_is_the_dimension():
    x = np.random.default_rng(0).normal(size=(20_000, 30))
    assert spectrum(x).participation_ratio() == pytest.approx(30, rel=3e-3)
    few = [spectrum(x[i : i + 30]) for i in range(0, 3000, 30)]
    plain = np.mean([s.participation_ratio() for s in few])
    ratios = [s.participation_ratio(corrected=True) for s in few]
    assert plain == pytest.approx(30 * 30 / 60, rel=0.05)
    assert np.median(ratios) == pytest.approx(30, rel=0.05)


def test_the_correction_is_the_ratio_of_u_statistics():
    x = skewed(7)
    squares, products = [], []
    for i, j, k, m in permutations(range(7), 4):
        first, second = x[i] - x[j], x[k] - x[m]
        squares.append((first @ second) ** 2)
        products.append((first @ first) * (second @ second))
    want = np.mean(products) / np.mean(squares)
    assert spectrum(x).participation_ratio(corrected=True) == pytest.approx(want)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6), shift=st.floats(-100, 100))
def test_participation_ratio_ignores_rotation_scale_and_shift(seed, scale, shift):
    x = skewed(15, seed=seed)
    moved = (x @ ortho_group.rvs(6, random_state=seed) + shift) * scale
    for corrected in (False, True):
        want = spectrum(x).participation_ratio(corrected=corrected)
        np.testing.assert_allclose(spectrum(moved).participation_ratio(corrected=corrected), want, rtol=1e-6)


@given(n=st.integers(2, 50), cuts=st.lists(st.integers(0, 50), max_size=5), merged=st.booleans())
def test_blocks_and_merges_equal_one_shot(n, cuts, merged):
    x = skewed(n, seed=n)
    whole, parts = spectrum(x), SpectrumAccumulator(6)
    for start, stop in pairwise([0, *sorted(min(c, n) for c in cuts), n]):
        if merged:
            other = SpectrumAccumulator(6)
            other.update(x[start:stop])
            parts.merge(other)
        else:
            parts.update(x[start:stop])
    found = parts.spectrum()
    assert found.n == n
    np.testing.assert_allclose(found.eigenvalues, whole.eigenvalues, rtol=1e-8, atol=1e-10)
    assert found.fourth == pytest.approx(whole.fourth, rel=1e-9)


def test_a_part_can_be_taken_back():
    x = skewed(30)
    both, part = SpectrumAccumulator(6), SpectrumAccumulator(6)
    both.update(x)
    part.update(x[:10])
    rest = both.without(part)
    found, want = rest.spectrum(), spectrum(x[10:])
    np.testing.assert_allclose(rest.mean, x[10:].mean(axis=0))
    np.testing.assert_allclose(found.eigenvalues, want.eigenvalues)
    assert found.fourth == pytest.approx(want.fourth)
    assert both.n == 30
    with pytest.raises(DataError, match="part"):
        part.without(both)


def test_large_offsets_keep_the_spectrum():
    x = skewed(300) + 1e7
    blocks = SpectrumAccumulator(6)
    for start in range(0, 300, 7):
        blocks.update(x[start : start + 7])
    np.testing.assert_allclose(blocks.spectrum().eigenvalues, np.linalg.eigvalsh(np.cov(x.T))[::-1], rtol=1e-6)


def test_layers_without_variance():
    found = spectrum(np.full((9, 4), 2.0))
    assert found.components(0.95) == 0
    assert np.isnan(found.participation_ratio())
    interval = dimensionality_interval(np.full((9, 4), 2.0), n_groups=3)
    assert interval.to_dict()["components_90"]["estimate"] == 0
    assert np.isnan(interval.to_dict()["participation_ratio"]["estimate"])


def test_wide_layers_keep_the_leading_components():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 60)) + 1e-3 * rng.normal(size=(200, 60))
    wide = spectrum_accumulator(60, exact_units=50, n_components=10)
    assert isinstance(wide, IncrementalSpectrum)
    for start in range(0, 200, 7):
        wide.update(x[start : start + 7])
    found, want = wide.spectrum(), spectrum(x)
    assert (wide.n, found.n) == (200, 200)
    assert found.truncated
    np.testing.assert_allclose(found.eigenvalues[:4], want.eigenvalues[:4], rtol=1e-6)
    assert found.variance == pytest.approx(want.variance)
    assert found.components(0.99) == want.components(0.99)
    with pytest.raises(DataError, match="do not hold"):
        found.components(1.0)
    assert np.isnan(found.participation_ratio(corrected=True))
    assert isinstance(spectrum_accumulator(50, exact_units=50), SpectrumAccumulator)


def test_interval_of_grouped_accumulators_is_that_of_the_responses():
    x = skewed(60)
    place = np.random.default_rng([3, 20]).permutation(60) % 5
    groups = []
    for g in range(5):
        groups.append(SpectrumAccumulator(6))
        groups[-1].update(x[place == g])
    found, want = jackknife(groups), dimensionality_interval(x, n_groups=5, seed=3)
    np.testing.assert_allclose(found.pseudovalues, want.pseudovalues, rtol=1e-6)
    left_out = np.array([spectrum(x[place != g]).participation_ratio() for g in range(5)])
    whole = spectrum(x).participation_ratio()
    np.testing.assert_allclose(want.pseudovalues[:, 3], 5 * whole - 4 * left_out)


def test_more_units_than_images_give_the_same_interval_as_their_coordinates():
    x = skewed(40)
    wide = np.hstack([x, np.zeros((40, 60))]) @ ortho_group.rvs(66, random_state=0)
    found, want = dimensionality_interval(wide, n_groups=4), dimensionality_interval(x, n_groups=4)
    np.testing.assert_allclose(found.estimate, want.estimate)
    np.testing.assert_allclose(found.high, want.high, rtol=1e-6)
    assert found.spectrum.n_units == 66


@pytest.mark.slow
def test_intervals_cover():
    rng = np.random.default_rng(0)
    scales = np.sqrt(np.array([8.0, 4, 2, 1, 0.5, 0.25]))
    truth = (scales**2).sum() ** 2 / (scales**4).sum()
    covered = []
    for _ in range(200):
        found = dimensionality_interval(rng.normal(size=(150, 6)) * scales, n_groups=15)
        covered.append(found.low[4] <= truth <= found.high[4])
    assert 0.90 <= np.mean(covered) <= 0.99


def test_differences_are_paired_over_images():
    x = skewed(200)
    nearly = x + 1e-3 * np.random.default_rng(1).normal(size=x.shape)
    first, second = dimensionality_interval(x), dimensionality_interval(nearly)
    apart = first.minus(second)["participation_ratio"]
    assert apart["estimate"] == pytest.approx(first.estimate[3] - second.estimate[3])
    assert apart["high"] - apart["low"] < 0.01 * (first.high[3] - first.low[3])
    with pytest.raises(DataError, match="same images"):
        first.minus(dimensionality_interval(x[:100]))


def test_refusals():
    with pytest.raises(OptionError, match="share"):
        spectrum(skewed(10)).components(95)
    with pytest.raises(DataError, match="not finite"):
        spectrum([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(DataError, match="several images"):
        spectrum(np.ones((1, 3)))
    with pytest.raises(DataError, match="does not fit"):
        SpectrumAccumulator(3).update(np.ones((2, 4)))
    with pytest.raises(DataError, match="different width"):
        SpectrumAccumulator(3).merge(SpectrumAccumulator(4))
    with pytest.raises(DataError, match="at least 2 images"):
        SpectrumAccumulator(3).spectrum()
    with pytest.raises(DataError, match="too few images"):
        dimensionality_interval(skewed(30))
    with pytest.raises(DataError, match="as many images"):
        IncrementalSpectrum(8, 4).spectrum()
    with pytest.raises(OptionError, match="than units"):
        IncrementalSpectrum(8, 9)
