"""Built-in metrics, registered through the same hook as a plugin's."""

from __future__ import annotations

from auditor.hookspecs import hookimpl
from auditor.selectivity.auc import AUC
from auditor.selectivity.average_precision import AveragePrecision
from auditor.selectivity.base import AnyMetric
from auditor.selectivity.ccmas import CCMAS
from auditor.selectivity.dprime import DPrime
from auditor.selectivity.index import ClassSelectivityIndex
from auditor.selectivity.information import MutualInformation
from auditor.selectivity.informedness import Informedness
from auditor.selectivity.localist import Localist
from auditor.selectivity.precision import Precision
from auditor.selectivity.sparseness import LifetimeSparseness
from auditor.selectivity.top_class import TopClass


@hookimpl
def auditor_metrics() -> list[AnyMetric]:
    """Return the metrics that come with auditor."""
    return [
        ClassSelectivityIndex(),
        CCMAS(),
        DPrime(),
        AUC(),
        AveragePrecision(),
        Informedness(),
        Precision(),
        MutualInformation(),
        TopClass(),
        Localist(),
        LifetimeSparseness(),
    ]
