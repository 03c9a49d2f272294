"""The Gini index of a unit's class tuning, as a selectivity metric for auditor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from auditor.hookspecs import hookimpl
from auditor.selectivity.base import FloatArray, IntArray, Metric, preferred_class

__all__ = ["GiniIndex", "auditor_metrics"]


class GiniIndex(Metric):
    """How unequally a unit's response is shared out among the classes.

    With the class means in descending order, ``c_1 >= ... >= c_C``, the index of Hurley and Rickard is
    ``1 - 2 * sum_j c_j (j - 1/2) / (C * sum(c))``. It is multiplied by ``C / (C - 1)``, so that a response to one
    class only gives 1 and a flat one 0. An equal response to k of C classes and none to the rest gives
    ``(C - k) / (C - 1)``.

    Notes
    -----
    Defined for non-negative responses; units with a negative class mean are NaN.
    """

    name: ClassVar[str] = "gini"
    label: ClassVar[str] = "Gini index of class means"
    reference: ClassVar[str] = "Hurley & Rickard 2009, Comparing measures of sparsity, IEEE Trans. Inf. Theory 55(10)"

    def score(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> tuple[FloatArray, IntArray]:
        """Score every unit; see :meth:`auditor.selectivity.base.Metric.score`."""
        return self.values(mean, variance, count), preferred_class(mean, count)

    def values(self, mean: FloatArray, variance: FloatArray, count: NDArray[np.generic]) -> FloatArray:
        """Values only, without the search for the preferred class."""
        present = np.asarray(count) > 0
        n_classes = present.sum(axis=-1)[..., None].astype(np.float64)
        means = mean if present.all() else np.where(present[..., None], mean, 0.0)
        # A class without images is a 0 at the end of the descending order, where it adds nothing.
        ascending = np.sort(means, axis=-2)
        largest = ascending[..., -1, :]
        ranks = np.arange(means.shape[-2], 0, -1, dtype=np.float64) - 0.5
        with np.errstate(invalid="ignore", divide="ignore"):
            # Shares of the largest mean first: sums of tiny or huge means would lose digits or overflow.
            shares = ascending / largest[..., None, :]
            weighted = np.einsum("...cu,c->...u", shares, ranks)
            gini = 1.0 - 2.0 * weighted / (n_classes * shares.sum(axis=-2))
            result: FloatArray = np.clip(gini * n_classes / (n_classes - 1.0), 0.0, 1.0)
        undefined = (largest <= 0) | (ascending[..., 0, :] < 0) | (n_classes < 2)
        result[np.broadcast_to(undefined, result.shape)] = np.nan
        return result


@hookimpl
def auditor_metrics() -> list[Metric]:
    """Return the one metric of this plugin."""
    return [GiniIndex()]
