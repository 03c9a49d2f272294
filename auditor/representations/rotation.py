"""Is selectivity gone, or only rotated off the axes? The most selective orthonormal basis of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from auditor.errors import DataError, OptionError
from auditor.representations.dimensionality import checked_responses
from auditor.representations.orthogonal import climb, random_rotation, starting_points
from auditor.selectivity import ClassSelectivityIndex, heldout_index
from auditor.selectivity.resample import bootstrap_moments, class_members
from auditor.stats import Interval, bootstrap_interval, check_confidence, empirical_p

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FEWEST = 4  # images of a class: two to fit, one to select, one to score
INDEX = ClassSelectivityIndex()


@dataclass(frozen=True, eq=False)
class RotationResult:
    """Mean class selectivity index of a layer along its axes and along the best orthonormal directions found.

    All indices are means over directions on the score images, each direction's class fixed by the fit images, so one
    without class signal averages 0, or less where it fires rarely: down to ``-(C - 2) / C`` for one that fires once, as
    the class is then most often another. One that is silent on the score images counts as 0.

    Attributes
    ----------
    axis_aligned, rotated, difference : Interval
        Scalars: the live units; the best rotation; rotated minus axis-aligned. Intervals over the score images,
        resampled within classes, for the rotation found.
    null : ndarray of float64, shape (P,)
        `rotated` under permuted labels, each searched for anew in the same way.
    p : float
        One-sided Monte Carlo p value of `rotated` against `null`; NaN without permutations. At least 1 / (P + 1).
    random : ndarray of float64, shape (R,)
        Index of random rotations, not optimized.
    starts : dict of str to dict
        For each start ``fit`` (what was maximized: the index on the fit images, its maximum taken there, its
        denominator raised by a hundredth of the responses' root mean square), ``select`` and ``score``.
    best_start : str
        The start with the highest ``select``.
    rotation : ndarray of float64, shape (U, K)
        Orthonormal columns; zero rows for dead units.
    n_units, n_live, n_directions : int
        U, those that are not 0 on all images, and K.
    variance_kept : float
        Share of the responses' sum of squares inside the K directions; 1 unless the layer was projected.
    n_fit, n_select, n_score : int
        Images.
    """

    axis_aligned: Interval
    rotated: Interval
    difference: Interval
    null: FloatArray
    p: float
    random: FloatArray
    starts: dict[str, dict[str, float]]
    best_start: str
    rotation: FloatArray
    n_units: int
    n_live: int
    n_directions: int
    variance_kept: float
    n_fit: int
    n_select: int
    n_score: int

    @property
    def null_mean(self) -> float:
        """Mean of `null`; NaN without permutations."""
        return float(self.null.mean()) if len(self.null) else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """All but `rotation`, as numbers and lists."""
        intervals = {
            name: dict(zip(Interval._fields, (float(part) for part in getattr(self, name)), strict=True))
            for name in ("axis_aligned", "rotated", "difference")
        }
        counts = ("n_units", "n_live", "n_directions", "variance_kept", "n_fit", "n_select", "n_score")
        return {
            **intervals,
            "null": self.null.tolist(),
            "null_mean": self.null_mean,
            "p": self.p,
            "random": self.random.tolist(),
            "starts": self.starts,
            "best_start": self.best_start,
            **{name: getattr(self, name) for name in counts},
        }


def best_rotation(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    n_starts: int = 4,
    n_permutations: int = 19,
    n_random: int = 100,
    max_directions: int = 128,
    max_iterations: int = 100,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> RotationResult:
    """Search the orthonormal rotation of a layer with the highest mean class selectivity index.

    Parameters
    ----------
    responses : array_like, shape (N, U)
        Not centred.
    labels : array_like of int, shape (N,)
        Four images of each class at least; dozens, for a result that means something.
    n_starts : int
        Climbs: from the units' axes, the class means, the principal axes, then from random rotations.
    n_permutations : int
        Searches with permuted labels; each takes as long as the search itself. 0 leaves the null out.
    n_random : int
        Random rotations.
    max_directions : int
        Wider layers are first projected on as many principal axes (about 0), and the index averaged over these.
    max_iterations : int
        Of each climb.
    n_resamples : int
        Resamples of the score images.
    confidence : float
    seed : int

    Returns
    -------
    RotationResult

    Raises
    ------
    DataError
        If shapes do not fit, a response is not finite, there are fewer than two classes, a class has too few images, or
        all units are dead.
    OptionError
        If a count is out of range.

    Notes
    -----
    The index is that of ``relu(responses @ Q)``. It needs responses that are not negative, and a rotated basis has
    signed ones; rectified, ``Q = I`` gives the units themselves, and each direction is what a following unit with these
    weights would respond. Shifting by the minimum instead would let one extreme image decide about the index.

    Rectification is not neutral: a signed direction subtracts what all classes have in common, so that the best
    rotation is more selective than the axes even where the data have selective axes, and a layer from which classes can
    be read linearly has selective directions. So a `rotated` above `axis_aligned` does not mean that training has
    turned selectivity away from the axes. That is for the comparison with networks trained otherwise to show, of
    `rotated` and of `difference`; `random` says what rectification does by itself.

    Half of the images of each class are climbed on, a quarter selects the start and when to stop, the rest scores. The
    result is a lower bound of the best rotation's selectivity: the surface has many maxima, from few images it is
    learnt badly, and directions that fire rarely are held back (:data:`auditor.representations.orthogonal.FLOOR`). A
    rotation of more dimensions than fit images learns noise.
    """
    for name, value, least in (
        ("n_starts", n_starts, 1),
        ("n_permutations", n_permutations, 0),
        ("n_random", n_random, 0),
        ("max_directions", max_directions, 2),
        ("max_iterations", max_iterations, 1),
        ("n_resamples", n_resamples, 2),
    ):
        if value < least:
            raise OptionError(f"{name} is too small.", wanted=f"{least} or more", got=repr(value))
    check_confidence(confidence)
    values, classes = _checked(responses, labels)
    live = np.flatnonzero((values != 0).any(axis=0))
    if len(live) == 0:
        raise DataError("All units of the layer are dead.", got="responses of 0")
    alive = values[:, live] / np.abs(values).max()
    basis, kept = _basis(alive, max_directions)
    points = alive @ basis
    limits = {"n_starts": n_starts, "max_iterations": max_iterations}
    rng = np.random.default_rng([seed, 30])
    found = _Search(points, basis, classes, rng, **limits)
    null = np.array(
        [_Search(points, basis, rng.permutation(classes), rng, **limits).score for _ in range(n_permutations)]
    )
    random = [found.index(random_rotation(points.shape[1], rng), found.third) for _ in range(n_random)]
    axes, rotated, apart = _intervals(found, alive, n_resamples, confidence, seed)
    rotation = np.zeros((values.shape[1], basis.shape[1]))
    rotation[live] = basis @ found.rotation
    return RotationResult(
        axis_aligned=axes,
        rotated=rotated,
        difference=apart,
        null=null,
        p=float(empirical_p(found.score, null)) if n_permutations else float("nan"),
        random=np.array(random, dtype=np.float64),
        starts=found.starts,
        best_start=found.best,
        rotation=rotation,
        n_units=values.shape[1],
        n_live=len(live),
        n_directions=points.shape[1],
        variance_kept=kept,
        n_fit=len(found.first),
        n_select=len(found.second),
        n_score=len(found.third),
    )


class _Search:
    """Climbs from all starts on one division of the images."""

    def __init__(
        self,
        points: FloatArray,
        basis: FloatArray,
        labels: IntArray,
        rng: np.random.Generator,
        *,
        n_starts: int,
        max_iterations: int,
    ) -> None:
        self.points, self.labels = points, labels
        self.first, self.second, self.third = _divided(labels, rng)
        fit, fit_labels = points[self.first], labels[self.first]
        self.starts: dict[str, dict[str, float]] = {}
        rotations = {}
        for name, start in starting_points(fit, fit_labels, basis, n_starts, rng).items():
            rotations[name], fitted, judged = climb(
                fit, fit_labels, start, lambda q: self.index(q, self.second), max_iterations=max_iterations
            )
            score = self.index(rotations[name], self.third)
            self.starts[name] = {"fit": fitted, "select": judged, "score": score}
        self.best = max(self.starts, key=lambda name: self.starts[name]["select"])
        self.rotation = rotations[self.best]

    @property
    def score(self) -> float:
        """Index of the best rotation on the score images."""
        return self.starts[self.best]["score"]

    def index(self, rotation: FloatArray, rows: IntArray) -> float:
        """Mean index of a rotation on some images, its classes fixed by the fit images."""
        return float(np.mean(_indices(self.points @ rotation, self.labels, self.first, rows)))


def _indices(responses: FloatArray, labels: IntArray, first: IntArray, rows: IntArray) -> FloatArray:
    """Index of each column on `rows`, of the class preferred on `first`; 0 for columns silent there."""
    rectified = np.maximum(responses, 0.0)
    values = heldout_index(_class_means(rectified, labels, rows), *_preferred(rectified, labels, first, rows))
    return np.nan_to_num(values)


def _preferred(rectified: FloatArray, labels: IntArray, first: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Class preferred on `first`, and the number of images of each class among `rows`."""
    return _class_means(rectified, labels, first).argmax(axis=0), np.bincount(labels[rows], minlength=labels.max() + 1)


def _class_means(responses: FloatArray, labels: IntArray, rows: IntArray) -> FloatArray:
    """Mean response to each class on `rows`, where each has images, shape (C, U)."""
    averaging = np.zeros((int(labels.max()) + 1, len(rows)))
    averaging[labels[rows], np.arange(len(rows))] = 1.0
    means: FloatArray = (averaging @ responses[rows]) / averaging.sum(axis=1, keepdims=True)
    return means


def _intervals(
    found: _Search, alive: FloatArray, n_resamples: int, confidence: float, seed: int
) -> tuple[Interval, Interval, Interval]:
    """Index of the axes and of the best rotation, and the difference, on the same resamples of the score images."""
    both = np.maximum(np.hstack([alive, found.points @ found.rotation]), 0.0)
    n_units, labels, rows = alive.shape[1], found.labels, found.third
    n_classes = int(labels.max()) + 1
    preferred, count = _preferred(both, labels, found.first, rows)

    def averaged(means: FloatArray) -> FloatArray:
        each = np.nan_to_num(INDEX.values_at(means, np.empty(0), count, preferred))
        return np.stack([each[..., :n_units].mean(axis=-1), each[..., n_units:].mean(axis=-1)])

    observed = averaged(_class_means(both, labels, rows))
    members = class_members(labels[rows], n_classes)
    drawn = bootstrap_moments(both[rows], members, n=n_resamples, variance=False, seed=seed)
    replicates = np.concatenate([averaged(means) for means, _ in drawn], axis=1)
    axes, rotated = (bootstrap_interval(replicates[i], observed[i], confidence) for i in (0, 1))
    return axes, rotated, bootstrap_interval(replicates[1] - replicates[0], observed[1] - observed[0], confidence)


def _divided(labels: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray, IntArray]:
    """Half, a quarter and the rest of the images of each class."""
    parts: tuple[list[IntArray], list[IntArray], list[IntArray]] = ([], [], [])
    for members in class_members(labels, int(labels.max()) + 1):
        shuffled = rng.permutation(members)
        edges = [len(shuffled) // 2, len(shuffled) // 2 + max(len(shuffled) // 4, 1)]
        for part, rows in zip(parts, np.split(shuffled, edges), strict=True):
            part.append(rows)
    first, second, third = (np.sort(np.concatenate(part)) for part in parts)
    return first, second, third


def _basis(alive: FloatArray, max_directions: int) -> tuple[FloatArray, float]:
    """Orthonormal directions to rotate within, and the share of the sum of squares that they hold."""
    n_live = alive.shape[1]
    if n_live <= max_directions:
        return np.eye(n_live), 1.0
    squares, axes = linalg.eigh(alive.T @ alive, check_finite=False)
    return axes[:, : -max_directions - 1 : -1], float(squares[-max_directions:].sum() / squares.sum())


def _checked(responses: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    values, given = checked_responses(responses), np.asarray(labels)
    if given.shape != values.shape[:1] or not np.issubdtype(given.dtype, np.integer):
        raise DataError(
            "Responses and labels do not fit.", wanted=f"{len(values)} integers", got=f"{given.dtype} {given.shape}"
        )
    # Numbered without gaps: a class without images says nothing here.
    present, classes, counts = np.unique(given, return_inverse=True, return_counts=True)
    if len(present) < 2 or counts.min() < FEWEST:
        raise DataError(
            "There are too few classes or images to search a rotation and to score it on other images.",
            wanted=f"two classes, and {FEWEST} images of each",
            got=f"{len(present)} classes, the smallest with {counts.min()} images",
            fix="Use more images.",
        )
    return values, classes.astype(np.int64)
