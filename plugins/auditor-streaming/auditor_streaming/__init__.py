"""WebDataset tars and streamed Hugging Face data sets as data for auditor."""

from auditor.data.base import DataSource
from auditor.hookspecs import hookimpl
from auditor_streaming.huggingface import HuggingFaceStreamSource
from auditor_streaming.tars import WebDatasetSource

__all__ = ["HuggingFaceStreamSource", "WebDatasetSource", "auditor_data_sources"]


@hookimpl
def auditor_data_sources() -> list[DataSource]:
    """Return the sources of this plugin."""
    return [WebDatasetSource(), HuggingFaceStreamSource()]
