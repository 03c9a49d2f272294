"""Training with the selectivity regularizer."""

from auditor.training.batches import BalancedBatches, ShuffledBatches
from auditor.training.loop import EpochRecord, TrainingPlan, train
from auditor.training.regularizer import SelectivityRegularizer, batch_selectivity

__all__ = [
    "BalancedBatches",
    "EpochRecord",
    "SelectivityRegularizer",
    "ShuffledBatches",
    "TrainingPlan",
    "batch_selectivity",
    "train",
]
