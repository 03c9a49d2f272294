"""Selectivity metrics, their label-shuffle null and their intervals: arrays in, arrays out."""

from auditor.selectivity.base import Metric
from auditor.selectivity.ccmas import CCMAS
from auditor.selectivity.dprime import DPrime
from auditor.selectivity.index import ClassSelectivityIndex
from auditor.selectivity.scoring import UnitScores, heldout_index, score_units

__all__ = ["CCMAS", "ClassSelectivityIndex", "DPrime", "Metric", "UnitScores", "heldout_index", "score_units"]
