"""How many dimensions a layer's responses fill: principal components and participation ratio, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from auditor.errors import DataError, OptionError
from auditor.stats.moments import check_finite

FloatArray = NDArray[np.float64]

# Eigenvalues below this share of the largest are rounding of zero.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variances of a layer's responses along their principal axes.

    Attributes
    ----------
    eigenvalues : ndarray of float64, shape (K,)
        Of the covariance (``ddof=1``), in the responses' units squared, descending. K is ``min(n - 1, U)``, or less
        for a truncated spectrum.
    n : int
        Images.
    n_units : int
        U.
    variance : float
        Trace of the covariance: the sum of all eigenvalues, those cut off included.
    fourth : float
        Sum over images of the fourth power of the distance from the mean, for the correction of
        :meth:`participation_ratio`; NaN for a truncated spectrum.
    """

    eigenvalues: FloatArray
    n: int
    n_units: int
    variance: float
    fourth: float

    @property
    def truncated(self) -> bool:
        """Whether eigenvalues were cut off."""
        return len(self.eigenvalues) < min(self.n - 1, self.n_units)

    def shares(self) -> FloatArray:
        """Share of the variance that the first 1, 2, ..., K components hold, shape (K,); NaN without variance."""
        with np.errstate(invalid="ignore"):
            result: FloatArray = np.cumsum(self.eigenvalues) / np.float64(self.variance)
        return result

    def components(self, share: float) -> int:
        """Fewest principal components that hold `share` of the variance; 0 for responses without variance.

        Never more than ``n - 1``: from few images the number comes out too small.

        Raises
        ------
        OptionError
            If `share` is not in (0, 1].
        DataError
            If the spectrum is truncated before `share`.
        """
        if not 0 < share <= 1:
            raise OptionError("A share of variance lies in (0, 1].", wanted="a number such as 0.95", got=repr(share))
        if self.variance <= 0:
            return 0
        held = self.shares()
        reached = held >= share * (1 - ROUNDING)
        if not reached.any():
            if not self.truncated:
                return len(held)
            raise DataError(
                f"The first {len(held)} components do not hold {share:.0%} of the variance.",
                got=f"{held[-1]:.1%}",
                fix="Ask for a smaller share, or keep more components.",
            )
        return int(reached.argmax()) + 1

    def participation_ratio(self, *, corrected: bool = False) -> float:
        """Effective number of dimensions, ``(sum l)^2 / sum l^2``.

        Parameters
        ----------
        corrected : bool
            Use unbiased estimators of ``tr(S)^2`` and ``tr(S^2)`` (Himeno & Yamada 2014, Theorem 1), which need no
            assumption on the distribution. The ratio of the two is then free of the bias of first order in 1 / n.

        Returns
        -------
        float
            1 for one direction, k for k equal eigenvalues; NaN without variance, or where the correction is not
            defined (a truncated spectrum, fewer than 4 images, an estimate of ``tr(S^2)`` that is not positive).

        Notes
        -----
        The plain ratio is biased downward at small n, because noise spreads the sample eigenvalues: n Gaussian images
        of d equal dimensions give about ``d n / (n + d)``. On a truncated spectrum it is an upper bound, as what was
        cut off counts in the numerator only.

        References
        ----------
        Gao et al. (2017), "A theory of multineuronal dimensionality, dynamics and measurement"; Himeno & Yamada
        (2014), "Estimations for some functions of covariance matrix in high dimension under non-normality and its
        applications", J. Multivariate Anal. 130.
        """
        squares = float(self.eigenvalues @ self.eigenvalues)
        return participation(self.variance, squares, self.fourth, self.n, corrected=corrected)


def participation(trace: float, squares: float, fourth: float, n: int, *, corrected: bool = False) -> float:
    """Participation ratio from ``tr(S)``, ``tr(S^2)`` and the fourth moment; see :class:`Spectrum`."""
    if not trace > 0:
        return float("nan")
    if not corrected:
        return trace**2 / squares
    if n < 4:
        return float("nan")
    kurtosis = n * fourth / (n - 1)
    above = 2 * squares + (n**2 - 3 * n + 1) * trace**2 - kurtosis
    below = (n - 1) * (n - 2) * squares + trace**2 - kurtosis
    return above / below if below > 0 else float("nan")


def spectrum(responses: ArrayLike) -> Spectrum:
    """Spectrum of a layer's responses.

    Parameters
    ----------
    responses : array_like, shape (N, U)

    Returns
    -------
    Spectrum
        Untruncated. Of the smaller of the Gram and the covariance matrix, so ``min(N, U)`` decides on the time.

    Raises
    ------
    DataError
        If there are fewer than 2 images, no units, or a response that is not finite.
    """
    centred = checked_responses(responses)
    centred = centred - centred.mean(axis=0)
    n, n_units = centred.shape
    gram = centred @ centred.T if n < n_units else centred.T @ centred
    distances = np.einsum("nu,nu->n", centred, centred)
    return _from_scatter(gram, n, n_units, float(distances @ distances))


def checked_responses(responses: ArrayLike) -> FloatArray:
    """Responses as float64.

    Raises
    ------
    DataError
        Unless they are finite, of shape (N, U), with two images and one unit at least.
    """
    values = np.asarray(responses, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 1:
        raise DataError(
            "The geometry of a layer needs responses of several images.",
            wanted="an array of shape (N, U) with N of 2 or more",
            got=f"shape {values.shape}",
        )
    check_finite(values)
    return values


def _from_scatter(scatter: FloatArray, n: int, n_units: int, fourth: float) -> Spectrum:
    found = linalg.eigvalsh(scatter, check_finite=False)[::-1][: min(n - 1, n_units)] / (n - 1)
    found = np.where(found > ROUNDING * found[0], found, 0.0)
    return Spectrum(found, n, n_units, float(found.sum()), fourth)


class SpectrumAccumulator:
    """Exact spectrum of responses that come in blocks and need not fit in memory.

    Parameters
    ----------
    n_units : int
        U. The covariance takes ``8 U^2`` bytes: 32 MiB for 2,048 units.

    Attributes
    ----------
    n : int
        Images seen.
    mean : ndarray of float64, shape (U,)
    scatter : ndarray of float64, shape (U, U)
        Sum of outer products of deviations from the mean.

    Notes
    -----
    Updates and merges use the pairwise formula of Chan, Golub & LeVeque (1983), extended to the sum of ``|d|^2 d`` and
    of ``|d|^4`` over deviations d, so blocks and their order matter to rounding only.
    """

    def __init__(self, n_units: int) -> None:
        self.n = 0
        self.mean = np.zeros(n_units)
        self.scatter = np.zeros((n_units, n_units))
        self._third = np.zeros(n_units)
        self._fourth = 0.0

    def update(self, block: ArrayLike) -> None:
        """Add responses of shape (B, U); B may be 0.

        Raises
        ------
        DataError
            If the shape does not fit or a response is not finite. Nothing is added then.
        """
        rows = np.asarray(block, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise DataError("The block does not fit.", wanted=f"shape (B, {len(self.mean)})", got=f"shape {rows.shape}")
        check_finite(rows)
        if len(rows) == 0:
            return
        mean = rows.mean(axis=0)
        rows = rows - mean
        distances = np.einsum("nu,nu->n", rows, rows)
        self._combine(len(rows), mean, rows.T @ rows, distances @ rows, float(distances @ distances))

    def merge(self, other: SpectrumAccumulator) -> None:
        """Add what `other` has seen; `other` is unchanged.

        Raises
        ------
        DataError
            If the numbers of units differ.
        """
        if len(other.mean) != len(self.mean):
            raise DataError(
                "Spectra of layers of different width cannot be merged.",
                wanted=f"{len(self.mean)} units",
                got=f"{len(other.mean)} units",
            )
        if other.n:
            self._combine(other.n, other.mean, other.scatter, other._third, other._fourth)

    def without(self, part: SpectrumAccumulator) -> SpectrumAccumulator:
        """Take back what `part` has seen of this; both are unchanged.

        Raises
        ------
        DataError
            If `part` has another width or has seen more.
        """
        if len(part.mean) != len(self.mean) or part.n > self.n:
            raise DataError(
                "What is taken back must be a part.",
                wanted=f"{len(self.mean)} units and at most {self.n} images",
                got=f"{len(part.mean)} units and {part.n} images",
            )
        rest = SpectrumAccumulator(len(self.mean))
        if part.n < self.n:
            rest.merge(self)
            if part.n:
                rest._combine(-part.n, part.mean, -part.scatter, -part._third, -part._fourth)
        return rest

    def _combine(self, n: int, mean: FloatArray, scatter: FloatArray, third: FloatArray, fourth: float) -> None:
        total = self.n + n
        apart = mean - self.mean
        centre = self.mean + apart * (n / total)
        own_third, own_fourth = _shifted(self.n, self.mean - centre, self.scatter, self._third, self._fourth)
        new_third, new_fourth = _shifted(n, mean - centre, scatter, third, fourth)
        self.scatter += scatter
        self.scatter += np.outer(apart, apart * (self.n * n / total))
        self._third, self._fourth = own_third + new_third, own_fourth + new_fourth
        self.mean, self.n = centre, total

    def spectrum(self) -> Spectrum:
        """Spectrum of everything seen.

        Raises
        ------
        DataError
            If that is fewer than 2 images.
        """
        if self.n < 2:
            raise DataError("A spectrum needs at least 2 images.", got=str(self.n))
        return _from_scatter(self.scatter, self.n, len(self.mean), self._fourth)


def _shifted(
    n: int, shift: FloatArray, scatter: FloatArray, third: FloatArray, fourth: float
) -> tuple[FloatArray, float]:
    """Sums of ``|d + shift|^2 (d + shift)`` and of ``|d + shift|^4`` over deviations d that sum to 0."""
    length, trace = float(shift @ shift), float(np.trace(scatter))
    along = scatter @ shift
    moved = third + 2 * along + (trace + n * length) * shift
    return moved, fourth + 4 * float(third @ shift + along @ shift) + 2 * length * trace + n * length**2
