"""Contexts that watch, replace and spare single calls of a model's modules, and leave no trace."""

from auditor.hooks.calls import on_calls
from auditor.hooks.capture import Capture, capture, pool
from auditor.hooks.taps import taps

__all__ = ["Capture", "capture", "on_calls", "pool", "taps"]
