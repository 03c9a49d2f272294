"""Training with the selectivity regularizer."""

from auditor.training.batches import BalancedBatches, ShuffledBatches
from auditor.training.checkpoints import write_weights
from auditor.training.evaluation import evaluate_network, shuffled_labels
from auditor.training.history import EpochRecord, Evaluation, LayerEvaluation, LayerRecord, Training
from auditor.training.loop import check_precision, train
from auditor.training.metrics import TrainingMetric, training_metric
from auditor.training.plan import TrainingPlan
from auditor.training.regularizer import SelectivityRegularizer, batch_selectivity
from auditor.training.sites import choose_sites
from auditor.training.sources import InMemory, Source

__all__ = [
    "BalancedBatches",
    "EpochRecord",
    "Evaluation",
    "InMemory",
    "LayerEvaluation",
    "LayerRecord",
    "SelectivityRegularizer",
    "ShuffledBatches",
    "Source",
    "Training",
    "TrainingMetric",
    "TrainingPlan",
    "batch_selectivity",
    "check_precision",
    "choose_sites",
    "evaluate_network",
    "shuffled_labels",
    "train",
    "training_metric",
    "write_weights",
]
