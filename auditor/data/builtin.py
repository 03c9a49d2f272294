"""The data sources that come with auditor."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.data.base import DataSource
from auditor.data.digits import DigitsSource
from auditor.data.factory import FactorySource
from auditor.data.folder import FolderSource
from auditor.data.npz import NpzSource
from auditor.data.torchvision_sets import TorchvisionSource
from auditor.hookspecs import hookimpl


@hookimpl
def auditor_data_sources() -> Sequence[DataSource]:
    """Provide the built-in sources; what a factory's name looks like is asked last."""
    return [DigitsSource(), NpzSource(), TorchvisionSource(), FolderSource(), FactorySource()]
