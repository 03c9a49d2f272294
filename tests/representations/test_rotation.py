import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, kstest, ortho_group

from auditor.errors import DataError, OptionError
from auditor.representations import best_rotation
from auditor.representations.orthogonal import FLOOR, climb, random_rotation, selectivity, starting_points
from auditor.selectivity import ClassSelectivityIndex

QUICK = {"n_permutations": 0, "n_random": 0}


def planted(n=400, n_units=12, n_classes=4, seed=0, noise=0.05):
    """Units that respond to one class each and hardly to the others."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    own = labels[:, None] == np.arange(n_units) % n_classes
    return own * rng.gamma(4.0, 0.25, (n, n_units)) + noise * rng.gamma(1.0, 1.0, (n, n_units)), labels


def turned(x, seed=0):
    return x @ ortho_group.rvs(x.shape[1], random_state=seed)


def index_by_hand(rectified, labels, floor=0.0):
    means = np.stack([rectified[labels == c].mean(axis=0) for c in np.unique(labels)])
    count = np.bincount(labels)
    return np.nan_to_num(ClassSelectivityIndex(eps=floor).values(means, np.empty(0), count)).mean()


def test_selective_axes_are_found_again_after_a_rotation():
    x, labels = planted()
    unrotated = best_rotation(x, labels, max_iterations=20, n_starts=1, **QUICK)
    found = best_rotation(turned(x), labels, max_iterations=60, **QUICK)
    assert unrotated.axis_aligned.estimate == pytest.approx(0.90, abs=0.03)
    assert found.axis_aligned.estimate < 0.7
    assert found.rotated.estimate > unrotated.axis_aligned.estimate - 0.03
    assert found.difference.low > 0.2
    assert found.difference.estimate == pytest.approx(found.rotated.estimate - found.axis_aligned.estimate)
    np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(12), atol=1e-5)


def test_two_units_reach_the_best_angle_of_a_grid():
    x, labels = planted(n=600, n_units=2, n_classes=2, noise=0.3)
    x = turned(x, seed=3)

    def rotated(angle, flip=1.0):
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s * flip], [s, c * flip]])

    def objective(rotation):
        return index_by_hand(np.maximum(x @ rotation, 0), labels, floor=FLOOR * np.sqrt(np.mean(x**2)))

    def loss(angle, flip):
        return -objective(rotated(angle, flip))

    grid = np.linspace(0, 2 * np.pi, 361)
    highest = 0.0
    for flip in (1.0, -1.0):
        start = grid[np.argmin([loss(angle, flip) for angle in grid])]
        near = minimize_scalar(loss, bounds=(start - 0.02, start + 0.02), args=(flip,), method="bounded")
        highest = max(highest, -near.fun)
    starts = [rotated(angle, flip) for angle in (0.0, 1.5, 3.0, 4.5) for flip in (1.0, -1.0)]
    reached = max(climb(x, labels, start, objective, max_iterations=60)[1] for start in starts)
    assert reached == pytest.approx(highest, abs=0.005)


def test_noise_has_no_selective_direction():
    rng = np.random.default_rng(0)
    x, labels = rng.gamma(1.0, 1.0, (600, 8)), np.arange(600) % 4
    found = best_rotation(x, labels, n_permutations=9, n_random=20, n_starts=2)
    assert max(start["fit"] for start in found.starts.values()) > 0.05
    assert found.rotated.low < 0.05
    assert found.p > 0.1
    assert found.null_mean < 0.1
    assert found.random.shape == (20,)


@pytest.mark.slow
def test_p_values_of_noise_are_not_too_small():
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, labels = rng.gamma(1.0, 1.0, (90, 3)), np.arange(90) % 3
        found = best_rotation(x, labels, n_starts=1, n_permutations=9, n_random=0, max_iterations=5, seed=seed)
        p.append(found.p)
    for level in (0.1, 0.3, 0.5):
        small = int((np.array(p) <= level + 1e-9).sum())
        assert binomtest(small, len(p), level, alternative="greater").pvalue > 0.01


@pytest.mark.slow
def test_planted_selectivity_is_above_its_null():
    x, labels = planted(n=240, n_units=6, n_classes=3)
    found = best_rotation(turned(x), labels, n_permutations=19, max_iterations=20, n_random=50)
    assert found.p == pytest.approx(0.05)
    assert found.null.max() < found.rotated.low
    assert found.random.max() < found.rotated.estimate


def test_same_seed_same_result_whatever_the_global_state():
    x, labels = planted(n=120, n_units=5)
    options = {"n_permutations": 2, "n_random": 3, "n_starts": 5, "max_iterations": 20}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = best_rotation(x, labels, seed=7, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert best_rotation(x, labels, seed=7, **options).to_dict() == first.to_dict()
    assert best_rotation(x, labels, seed=8, **options).to_dict() != first.to_dict()
    assert list(first.starts) == ["axes", "class_means", "pca", "random_1", "random_2"]
    assert first.rotated.estimate == first.starts[first.best_start]["score"]


def test_dead_units_and_scale_change_nothing():
    x, labels = planted(n=120, n_units=5)
    padded = np.zeros((120, 8))
    padded[:, [0, 2, 3, 5, 7]] = 1e-3 * x
    want = best_rotation(x, labels, max_iterations=20, **QUICK)
    found = best_rotation(padded, labels, max_iterations=20, **QUICK)
    assert (found.n_units, found.n_live, found.n_directions) == (8, 5, 5)
    assert found.axis_aligned.estimate == pytest.approx(want.axis_aligned.estimate, rel=1e-4)
    assert found.rotated.estimate == pytest.approx(want.rotated.estimate, abs=1e-3)
    assert not found.rotation[[1, 4, 6]].any()


def test_wide_layers_are_projected():
    x, labels = planted(n_units=40)
    found = best_rotation(turned(x), labels, max_directions=6, max_iterations=40, **QUICK)
    squares = np.sort(np.linalg.svd(x, compute_uv=False) ** 2)[::-1]
    assert found.variance_kept == pytest.approx(squares[:6].sum() / squares.sum())
    assert (found.n_directions, found.rotation.shape) == (6, (40, 6))
    np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(6), atol=1e-5)
    assert found.rotated.estimate > found.axis_aligned.estimate


def test_classes_are_divided_evenly():
    x, labels = planted(n=160)
    found = best_rotation(x, 10 * labels - 3, max_iterations=1, n_starts=1, **QUICK)
    assert (found.n_fit, found.n_select, found.n_score) == (80, 40, 40)


def test_starting_points():
    x, labels = planted(n=80, n_units=5, n_classes=3)
    starts = starting_points(x, labels, np.eye(5), 4, np.random.default_rng(0))
    for start in starts.values():
        np.testing.assert_allclose(start.T @ start, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(starts["axes"], np.eye(5), atol=1e-12)
    scores = np.cov((x @ starts["pca"]).T)
    np.testing.assert_allclose(scores, np.diag(np.sort(np.diag(scores))[::-1]), atol=1e-10)
    # On class means at right angles, the nearest frame is their directions.
    means = np.diag([3.0, 2.0, 1.0])
    found = starting_points(means[np.arange(9) % 3], np.arange(9) % 3, np.eye(3), 2, np.random.default_rng(0))
    np.testing.assert_allclose(found["class_means"], np.eye(3), atol=1e-12)


def test_random_rotations_are_uniform():
    rng = np.random.default_rng(0)
    drawn = np.array([random_rotation(3, rng) for _ in range(2000)])
    # A coordinate of a uniform point of the sphere is uniform (Archimedes).
    for i, j in ((0, 0), (1, 2), (2, 2)):
        assert kstest(drawn[:, i, j], "uniform", args=(-1, 2)).pvalue > 0.01


def test_the_objective_is_the_index_of_the_toolkit():
    x, labels = planted(n=60, n_units=5, n_classes=3)
    responses = np.hstack([turned(x), -np.ones((60, 1))])
    averaging = np.stack([(labels == c) / (labels == c).sum() for c in range(3)])
    found = selectivity(torch.tensor(responses), torch.tensor(averaging))
    assert float(found.mean()) == pytest.approx(index_by_hand(np.maximum(responses, 0), labels), rel=1e-5)


def test_a_random_start_is_the_most_selective_of_some():
    x, labels = planted(n=80, n_units=5, n_classes=3)
    start = starting_points(x, labels, np.eye(5), 4, np.random.default_rng(0))["random_1"]
    rng = np.random.default_rng(0)
    drawn = [index_by_hand(np.maximum(x @ random_rotation(5, rng), 0), labels) for _ in range(10)]
    assert index_by_hand(np.maximum(x @ start, 0), labels) == pytest.approx(max(drawn))


def test_a_silent_direction_is_turned_round():
    x, labels = planted(n=80, n_units=3, n_classes=3)
    reached = climb(x, labels, -np.eye(3), lambda q: index_by_hand(np.maximum(x @ q, 0), labels), max_iterations=1)
    assert reached[2] >= index_by_hand(x, labels)


def test_refusals():
    x, labels = planted(n=40)
    with pytest.raises(DataError, match="too few classes"):
        best_rotation(x[:12], labels[:12])
    with pytest.raises(DataError, match="too few classes"):
        best_rotation(x, labels * 0)
    with pytest.raises(DataError, match="do not fit"):
        best_rotation(x, labels[:-1])
    with pytest.raises(DataError, match="dead"):
        best_rotation(0 * x, labels)
    with pytest.raises(OptionError, match="n_starts"):
        best_rotation(x, labels, n_starts=0)
