"""What a fine-tune regularizes and measures, decided from the parent's profile before work is spent."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.api.run import Run
from auditor.errors import ModelError
from auditor.progress import Reporter
from auditor.training import SelectivityRegularizer, TrainingMetric, TrainingPlan, choose_sites, training_metric
from auditor.units import Site


@dataclass(frozen=True)
class Regularization:
    """Layers, metric and treatment of signed responses.

    Attributes
    ----------
    sites : list of Site
        Those in the loss, in network order.
    measured : list of Site
        Those that are scored after each epoch: all on which the metric is defined.
    metric : TrainingMetric
    rectify : bool
        Whether pooled responses pass through a ReLU first.
    """

    sites: list[Site]
    measured: list[Site]
    metric: TrainingMetric
    rectify: bool

    def build(self, plan: TrainingPlan, n_classes: int) -> SelectivityRegularizer:
        """Build the regularizer of one training."""
        momentum = plan.momentum
        return SelectivityRegularizer(
            self.sites,
            metric=self.metric,
            rectify=self.rectify,
            momentum=momentum,
            n_classes=None if momentum is None else n_classes,
        )


def regularization(run: Run, plan: TrainingPlan, reporter: Reporter) -> Regularization:
    """Choose what to regularize; says which layers with signed responses are left out or rectified.

    Raises
    ------
    ModelError
        If there is no layer on which the metric is defined.
    UnknownNameError, OptionError
        If the layers asked for are not there.
    """
    metric = training_metric(plan.metric)
    signed = set(run.layers.loc[run.layers["signed"] > 0, "site"]) if metric.non_negative else set()
    rectify = plan.signed == "rectify" and metric.non_negative
    measured = [site for site in run.sites if rectify or site.name not in signed]
    if not measured:
        raise ModelError(
            f"Every layer of the run has negative responses, for which the {metric.label} is not defined.",
            fix="--signed rectify, --metric dprime, or profile layers with non-negative outputs (after a ReLU or "
            "Sigmoid) with --layers.",
        )
    sites = choose_sites(run.sites, plan.regularize, defined=measured)
    names = {site.name for site in sites}
    if signed and rectify:
        reporter.say(f"Regularizer: the responses of {len(signed & names)} layers are rectified: negative ones count "
                     "as 0.")  # fmt: skip
    elif signed:
        reporter.say(f"Regularizer: {len(signed)} layers with negative responses are left out.")
    if len(sites) < len(measured):
        reporter.say(f"Regularizer: {len(sites)} of {len(measured)} layers: {', '.join(site.name for site in sites)}.")
    return Regularization(sites, measured, metric, rectify)
