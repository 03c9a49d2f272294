"""What a linear classifier reads out of a layer."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError
from auditor.representations.dimensionality import checked_responses
from auditor.stats import wilson

FloatArray = NDArray[np.float64]

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
ITERATIONS = 1000


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy of a linear probe.

    Attributes
    ----------
    accuracy, low, high : float
        On the test images, with its Wilson interval: over images, for this one fit.
    chance : float
        Share of the test images in the class that is most frequent among the training images.
    C : float
        Inverse strength of the L2 penalty, on standardized units.
    cross_validated : dict of float to float
        Mean accuracy of each C in cross-validation; empty where C was given.
    n_train, n_test, n_units : int
    converged : bool
    """

    accuracy: float
    low: float
    high: float
    chance: float
    C: float
    cross_validated: dict[float, float]
    n_train: int
    n_test: int
    n_units: int
    converged: bool

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def linear_probe(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    test_y: ArrayLike,
    *,
    C: float | None = None,
    folds: int = 3,
    seed: int = 0,
    confidence: float = 0.95,
) -> ProbeResult:
    """Fit a multinomial logistic regression on one set of images and score it on another.

    Parameters
    ----------
    train_x, test_x : array_like, shape (N, U) and (M, U)
        Responses; standardized here with mean and deviation of the training images.
    train_y, test_y : array_like of int, shape (N,) and (M,)
        Classes.
    C : float, optional
        Inverse strength of the L2 penalty. By default the best of :data:`GRID` in stratified cross-validation on the
        training images; the stronger penalty wins ties.
    folds : int
        Of the cross-validation.
    seed : int
        Of the folds.
    confidence : float

    Returns
    -------
    ProbeResult

    Raises
    ------
    DataError
        If shapes do not fit, there is no test image, or a training class has too few images for the folds.
    OptionError
        If `C` is not positive or `folds` below 2.

    References
    ----------
    Alain & Bengio (2017), "Understanding intermediate layers using linear classifier probes".
    """
    if C is not None and not (C > 0 and np.isfinite(C)):
        raise OptionError("The penalty must be a positive number.", wanted="C such as 1.0", got=repr(C))
    train, test, labels, wanted = _checked(train_x, train_y, test_x, test_y)
    mean, spread = train.mean(axis=0), train.std(axis=0)
    # Rounding of a constant unit must not be blown up to unit variance.
    alive = spread > 1e-7 * np.abs(mean)
    spread[~alive] = 1.0
    train, test = np.where(alive, (train - mean) / spread, 0.0), np.where(alive, (test - mean) / spread, 0.0)
    tried = {} if C is not None else _cross_validate(train, labels, folds, seed)
    chosen = C if C is not None else max(sorted(tried), key=lambda c: tried[c])
    model, converged = _fit(train, labels, chosen)
    hits = int((model.predict(test) == wanted).sum())
    share = wilson(hits, len(wanted), confidence)
    classes, counts = np.unique(labels, return_counts=True)
    return ProbeResult(
        accuracy=float(share.estimate),
        low=float(share.low),
        high=float(share.high),
        chance=float((wanted == classes[counts.argmax()]).mean()),
        C=float(chosen),
        cross_validated=tried,
        n_train=len(train),
        n_test=len(test),
        n_units=train.shape[1],
        converged=converged,
    )


def _checked(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike
) -> tuple[FloatArray, FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    train = checked_responses(train_x)
    test = np.asarray(test_x, dtype=np.float64)
    labels, wanted = np.asarray(train_y), np.asarray(test_y)
    fits = test.ndim == 2 and len(test) > 0 and test.shape[1] == train.shape[1]
    if not fits or labels.shape != train.shape[:1] or wanted.shape != test.shape[:1]:
        raise DataError(
            "Responses and labels of a probe do not fit.",
            wanted=f"responses (N, {train.shape[1]}) with one label per image, for training and test",
            got=f"{train.shape} with {labels.shape} and {test.shape} with {wanted.shape}",
        )
    if not np.isfinite(test).all():
        raise DataError("Responses of the test images are not finite.", wanted="finite numbers")
    if len(np.unique(labels)) < 2:
        raise DataError("A probe needs training images of two classes at least.", got="one class")
    return train, test, labels, wanted


def _cross_validate(train: FloatArray, labels: NDArray[np.int64], folds: int, seed: int) -> dict[float, float]:
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if folds < 2:
        raise OptionError("Cross-validation needs folds.", wanted="folds of 2 or more", got=repr(folds))
    if fewest < folds:
        raise DataError(
            f"{folds}-fold cross-validation needs {folds} training images of each class.",
            got=f"a class with {fewest}",
            fix="Use fewer folds, more images, or a fixed C.",
        )
    parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(train, labels))
    return {
        c: float(np.mean([_fit(train[fit], labels[fit], c)[0].score(train[test], labels[test]) for fit, test in parts]))
        for c in GRID
    }


def _fit(features: FloatArray, labels: NDArray[np.int64], penalty: float) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=penalty, max_iter=ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
