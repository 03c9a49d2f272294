"""The built-in edits, registered like a plugin's."""

from __future__ import annotations

from auditor.ablation.edits import Clamp, Edit, Mean, Noise, Resample, ResampleClass, Zero
from auditor.hookspecs import hookimpl


@hookimpl
def auditor_edits() -> list[Edit]:
    """Every edit that comes with the package, with its default parameter."""
    return [Zero(), Mean(), Resample(), ResampleClass(), Noise(), Clamp()]
