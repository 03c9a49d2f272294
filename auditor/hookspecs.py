"""What a plugin may provide. Built-ins come in through the same hooks.

A plugin is a module (or object) with functions of these names marked ``auditor.hookspecs.hookimpl``, announced by its
package under the entry-point group ``auditor``::

    [project.entry-points.auditor]
    gini = "auditor_gini"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from auditor.ablation.edits import Edit
    from auditor.data.base import DataSource
    from auditor.perturbations.base import Corruption
    from auditor.selectivity.base import AnyMetric
    from auditor.training.metrics import TrainingMetric

PROJECT = "auditor"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def auditor_metrics() -> Sequence[AnyMetric]:  # type: ignore[empty-body]
    """Selectivity metrics.

    Each is an instance of :class:`auditor.selectivity.base.Metric` (class moments in) or, where moments do not say
    enough, of :class:`auditor.selectivity.base.ResponseMetric` (every response in).
    """


@hookspec
def auditor_data_sources() -> Sequence[DataSource]:  # type: ignore[empty-body]
    """Data sources, each an instance of :class:`auditor.data.base.DataSource`.

    A source is asked, in order of registration, whether it :meth:`claims` what follows ``--data``.
    """


@hookspec
def auditor_edits() -> Sequence[Edit]:  # type: ignore[empty-body]
    """Ways to ablate a unit, each an instance of :class:`auditor.ablation.edits.Edit` with its default parameter."""


@hookspec
def auditor_corruptions() -> Sequence[Corruption]:  # type: ignore[empty-body]
    """Natural corruptions of images, each an instance of :class:`auditor.perturbations.base.Corruption`."""


@hookspec
def auditor_training_metrics() -> Sequence[TrainingMetric]:  # type: ignore[empty-body]
    """Differentiable selectivity metrics, each an instance of :class:`auditor.training.metrics.TrainingMetric`.

    `auditor finetune --metric NAME` puts one in the place of the class selectivity index in ``CE - alpha * SI``.
    """
