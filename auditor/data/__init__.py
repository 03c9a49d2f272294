"""Labelled images: where they come from and how they are divided.

Nothing here needs torch but :mod:`auditor.data.torch_data`, which is therefore not imported with the package.
"""

from auditor.data.base import SPLITS, DataSource, LabelledData, Skipped, UnreadableImageError
from auditor.data.dataset import MapDataset, from_dataset
from auditor.data.load import load_data
from auditor.data.splits import DEFAULT_FRACTIONS, stratified_splits

__all__ = [
    "DEFAULT_FRACTIONS",
    "SPLITS",
    "DataSource",
    "LabelledData",
    "MapDataset",
    "Skipped",
    "UnreadableImageError",
    "from_dataset",
    "load_data",
    "stratified_splits",
]
