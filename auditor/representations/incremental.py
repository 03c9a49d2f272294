"""Spectra of layers too wide for a covariance matrix: the leading components, one block at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import DataError, OptionError
from auditor.representations.dimensionality import Spectrum, SpectrumAccumulator
from auditor.stats.moments import check_finite

FloatArray = NDArray[np.float64]

EXACT_UNITS = 4096
"""Widest layer with an exact spectrum: its covariance takes 128 MiB, its eigenvalues some ten seconds."""


class IncrementalSpectrum:
    """The leading eigenvalues of responses that come in blocks, with scikit-learn's `IncrementalPCA`.

    Parameters
    ----------
    n_units : int
        U.
    n_components : int
        Components kept. Memory is about ``24 n_components U`` bytes.

    Notes
    -----
    What a block adds beyond the components kept is forgotten, so the eigenvalues are lower bounds, close where the
    spectrum has fallen off before the cut. The total variance is exact.

    References
    ----------
    Ross et al. (2008), "Incremental learning for robust visual tracking".
    """

    def __init__(self, n_units: int, n_components: int = 512) -> None:
        if not 1 <= n_components <= n_units:
            raise OptionError(
                "There are no more components than units.", wanted=f"1 to {n_units}", got=repr(n_components)
            )
        from sklearn.decomposition import IncrementalPCA  # slow to import, and only needed here

        self.n_units, self.n_components = n_units, n_components
        self._pca = IncrementalPCA(n_components=n_components)
        self._waiting: list[FloatArray] = []
        self._n_waiting = 0
        self._fitted = 0

    @property
    def n(self) -> int:
        """Images seen."""
        return self._fitted + self._n_waiting

    def update(self, block: ArrayLike) -> None:
        """Add responses of shape (B, U); B may be 0.

        Raises
        ------
        DataError
            If the shape does not fit or a response is not finite. Nothing is added then.
        """
        rows = np.array(block, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.n_units:
            raise DataError("The block does not fit.", wanted=f"shape (B, {self.n_units})", got=f"shape {rows.shape}")
        check_finite(rows)
        self._waiting.append(rows)
        self._n_waiting += len(rows)
        # The first fit needs one row for each component.
        if self._n_waiting >= self.n_components:
            self._fit()

    def _fit(self) -> None:
        rows = np.concatenate(self._waiting)
        self._pca.partial_fit(rows)
        self._fitted += len(rows)
        self._waiting, self._n_waiting = [], 0

    def spectrum(self) -> Spectrum:
        """Spectrum of everything seen; truncated to `n_components` eigenvalues.

        Raises
        ------
        DataError
            If that is fewer than `n_components` images.
        """
        if self.n < max(self.n_components, 2):
            raise DataError(
                f"{self.n_components} components need as many images.",
                got=f"{self.n} images",
                fix="Keep fewer components.",
            )
        if self._n_waiting and self._fitted:
            self._fit()
        values = np.asarray(self._pca.explained_variance_, dtype=np.float64)[: self.n - 1]
        total = float(np.sum(self._pca.var_) * self.n / (self.n - 1))
        return Spectrum(values, self.n, self.n_units, total, float("nan"))


def spectrum_accumulator(
    n_units: int, *, exact_units: int = EXACT_UNITS, n_components: int = 512
) -> SpectrumAccumulator | IncrementalSpectrum:
    """Accumulator that fits a layer's width: exact up to `exact_units` units, truncated beyond."""
    if n_units <= exact_units:
        return SpectrumAccumulator(n_units)
    return IncrementalSpectrum(n_units, min(n_components, n_units))
