"""Built-in metrics, registered through the same hook as a plugin's."""

from __future__ import annotations

from auditor.hookspecs import hookimpl
from auditor.selectivity.base import Metric
from auditor.selectivity.ccmas import CCMAS
from auditor.selectivity.dprime import DPrime
from auditor.selectivity.index import ClassSelectivityIndex


@hookimpl
def auditor_metrics() -> list[Metric]:
    """Return the metrics that come with auditor."""
    return [ClassSelectivityIndex(), CCMAS(), DPrime()]
