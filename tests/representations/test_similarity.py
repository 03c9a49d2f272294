import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from scipy.stats import ortho_group
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA

from auditor.errors import DataError, OptionError
from auditor.representations import cca, distances, linear_cka, pwcca, subspace, svcca


def pair(seed=0, n=200, p=5, q=4):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x = shared @ rng.normal(size=(3, p)) + rng.normal(size=(n, p)) + 2
    y = shared @ rng.normal(size=(3, q)) + rng.normal(size=(n, q)) - 1
    return x, y


def generalized_eigenvalues(x, y):
    """Canonical correlations from the covariances (Hotelling 1936)."""
    p = x.shape[1]
    c = np.cov(np.hstack([x, y]).T)
    explained = c[:p, p:] @ np.linalg.solve(c[p:, p:], c[p:, :p])
    return np.sqrt(linalg.eigh(explained, c[:p, :p], eigvals_only=True)[::-1][: y.shape[1]])


def test_cca_agrees_with_hotelling_and_scikit_learn():
    x, y = pair()
    found = cca(x, y)
    np.testing.assert_allclose(found, generalized_eigenvalues(x, y), rtol=1e-10)
    a, b = CCA(2, max_iter=5000, tol=1e-12).fit_transform(x, y)
    np.testing.assert_allclose(found[:2], [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)], rtol=1e-5)


def test_known_correlations():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 6))
    z = np.linalg.qr(z - z.mean(axis=0))[0]
    want = np.array([0.9, 0.5, 0.0])
    y = want * z[:, :3] + np.sqrt(1 - want**2) * z[:, 3:]
    np.testing.assert_allclose(cca(z[:, :3] * [3.0, 1, 1], y), want, atol=1e-12)
    assert svcca(z[:, :3] * [3.0, 1, 1], y, share=1.0) == pytest.approx(want.mean())
    # Each unit of x lies along one variate, so the weights are the units' norms.
    assert pwcca(z[:, :3] * [3.0, 1, 1], y) == pytest.approx((3 * 0.9 + 0.5) / 5)


def test_a_rotated_and_scaled_copy_is_at_no_distance():
    x, _ = pair()
    found = distances(x, 3.7 * x @ ortho_group.rvs(5, random_state=0) + 11)
    np.testing.assert_allclose(list(found.values()), 0.0, atol=1e-10)


@given(seed=st.integers(0, 1000))
def test_cca_ignores_invertible_linear_maps(seed):
    x, y = pair(seed, n=60)
    rng = np.random.default_rng([seed, 1])
    mixing = ortho_group.rvs(5, random_state=seed) * rng.uniform(0.1, 10, 5) @ ortho_group.rvs(5, random_state=seed + 1)
    np.testing.assert_allclose(cca(x @ mixing + 4, y), cca(x, y), atol=1e-9)
    np.testing.assert_allclose(cca(y, x), cca(x, y), atol=1e-12)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_cka_ignores_rotation_and_scale_only(seed, scale):
    x, y = pair(seed, n=60)
    for debiased in (False, True):
        plain = linear_cka(x, y, debiased=debiased)
        turned = scale * x @ ortho_group.rvs(5, random_state=seed) - 3
        assert linear_cka(turned, y, debiased=debiased) == pytest.approx(plain, rel=1e-8)
        assert linear_cka(y, x, debiased=debiased) == pytest.approx(plain, rel=1e-10)
        assert abs(linear_cka(x * [100, 1, 1, 1, 1], y, debiased=debiased) - plain) > 1e-6


def test_cka_is_the_alignment_of_centred_kernels():
    x, y = pair(n=30)
    centring = np.eye(30) - 1 / 30
    k, m = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    want = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    assert linear_cka(x, y) == pytest.approx(want)


def test_debiased_cka_is_the_ratio_of_unbiased_criteria():
    x, y = pair(n=12)

    def criterion(a, b):  # Song et al. 2012, equation 5, on kernels that are not centred
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        ones, n = np.ones(12), 12
        whole = np.trace(k @ m) + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (whole - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3))

    want = criterion(x, y) / np.sqrt(criterion(x, x) * criterion(y, y))
    assert linear_cka(x, y, debiased=True) == pytest.approx(want)


def test_independent_layers():
    rng = np.random.default_rng(0)
    plain, debiased, squared = [], [], []
    for _ in range(40):
        x, y = rng.normal(size=(100, 40)), rng.normal(size=(100, 20))
        plain.append(linear_cka(x, y))
        debiased.append(linear_cka(x, y, debiased=True))
        squared.append(np.mean(cca(x, y) ** 2))
    assert np.mean(plain) > 0.2
    assert abs(np.mean(debiased)) < 0.01
    assert np.mean(squared) == pytest.approx(40 / 99, rel=0.03)


def test_svcca_is_the_correlation_of_principal_components():
    x, y = pair(p=8, q=7)
    x, y = x * np.logspace(0, -2, 8), y * np.logspace(0, -2, 7)
    a = PCA(0.9, svd_solver="full").fit_transform(x)
    b = PCA(0.9, svd_solver="full").fit_transform(y)
    assert 1 <= a.shape[1] < 8
    assert svcca(x, y, 0.9) == pytest.approx(generalized_eigenvalues(*sorted((a, b), key=lambda z: -z.shape[1])).mean())


def test_pwcca_follows_its_definition():
    x, y = pair()
    x = x * [10, 1, 1, 1, 1]
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    c = np.cov(np.hstack([a, b]).T)
    explained = c[:5, 5:] @ np.linalg.solve(c[5:, 5:], c[5:, :5])
    squares, directions = linalg.eigh(explained, c[:5, :5])
    variates = (a @ directions)[:, ::-1][:, :4]  # of unit variance
    weights = np.abs(variates.T @ a).sum(axis=1)
    want = weights @ np.sqrt(squares[::-1][:4]) / weights.sum()
    assert pwcca(x, y) == pytest.approx(want)
    assert abs(pwcca(y, x) - want) > 1e-3


def test_dead_and_repeated_units_change_nothing():
    x, y = pair()
    padded = np.hstack([x, np.zeros((200, 2)), x[:, :1] + x[:, 1:2]]).astype(np.float32)
    assert subspace(padded).rank == 5
    np.testing.assert_allclose(cca(padded, y), cca(x, y), rtol=1e-4)
    assert svcca(np.hstack([x, np.zeros((200, 2))]), y) == pytest.approx(svcca(x, y))


def test_decomposed_layers_give_the_same_distances():
    x, y = pair()
    assert distances(subspace(x), subspace(y)) == distances(x, y)


def test_too_few_images_are_refused_or_marked():
    x, y = pair(n=10)
    with pytest.raises(DataError, match="too few images"):
        cca(x, y)
    found = distances(x, y)
    assert np.isnan([found["cca"], found["pwcca"]]).all()
    assert 0 <= found["cka"] <= 1
    assert cca(*pair(n=11)).max() < 1 - 1e-6


def test_layers_that_do_not_vary_are_refused_or_marked():
    x, _ = pair()
    with pytest.raises(DataError, match="alike"):
        cca(x, np.ones((200, 3)))
    assert np.isnan(list(distances(x, np.zeros((200, 3))).values())).all()


def test_refusals():
    x, y = pair()
    with pytest.raises(DataError, match="same images"):
        distances(x, y[:100])
    with pytest.raises(OptionError, match="share"):
        distances(x, y, share=99)
    with pytest.raises(DataError, match="4 images"):
        linear_cka(x[:3, :1], y[:3, :1], debiased=True)
