"""The built-in training metrics, registered like a plugin's."""

from __future__ import annotations

from auditor.hookspecs import hookimpl
from auditor.training.metrics import BoundedDPrime, SelectivityIndex, TrainingMetric


@hookimpl
def auditor_training_metrics() -> list[TrainingMetric]:
    """Every training metric that comes with the package."""
    return [SelectivityIndex(), BoundedDPrime()]
