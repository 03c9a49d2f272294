"""Selectivity metrics, their label-shuffle null and their intervals: arrays in, arrays out."""

from auditor.selectivity.auc import AUC
from auditor.selectivity.average_precision import AveragePrecision
from auditor.selectivity.base import AnyMetric, Metric
from auditor.selectivity.ccmas import CCMAS
from auditor.selectivity.dprime import DPrime
from auditor.selectivity.index import ClassSelectivityIndex
from auditor.selectivity.information import MutualInformation
from auditor.selectivity.informedness import Informedness
from auditor.selectivity.localist import Localist
from auditor.selectivity.precision import Precision
from auditor.selectivity.responses import LabelledResponses, Measured, ResponseMetric
from auditor.selectivity.scoring import UnitScores, heldout_index, score_metrics, score_units
from auditor.selectivity.sparseness import LifetimeSparseness
from auditor.selectivity.top_class import TopClass

__all__ = [
    "AUC",
    "CCMAS",
    "AnyMetric",
    "AveragePrecision",
    "ClassSelectivityIndex",
    "DPrime",
    "Informedness",
    "LabelledResponses",
    "LifetimeSparseness",
    "Localist",
    "Measured",
    "Metric",
    "MutualInformation",
    "Precision",
    "ResponseMetric",
    "TopClass",
    "UnitScores",
    "heldout_index",
    "score_metrics",
    "score_units",
]
