"""Capture and edit contexts: the only room that registers hooks on a model."""

from auditor.hooks.calls import on_calls
from auditor.hooks.capture import Capture, capture, pool
from auditor.hooks.edit import silence
from auditor.hooks.taps import taps

__all__ = ["Capture", "capture", "on_calls", "pool", "silence", "taps"]
