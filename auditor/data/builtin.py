"""The data sources that come with auditor."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.data.base import DataSource
from auditor.data.digits import DigitsSource
from auditor.data.folder import FolderSource
from auditor.hookspecs import hookimpl


@hookimpl
def auditor_data_sources() -> Sequence[DataSource]:
    """Provide the embedded digits and folders of images."""
    return [DigitsSource(), FolderSource()]
