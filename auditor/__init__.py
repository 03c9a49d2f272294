"""Find out whether the neurons that are easy to interpret are causally important."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.api.ablate import ablate
    from auditor.api.ablation_result import Ablation
    from auditor.api.audit import audit
    from auditor.api.audit_result import Audit
    from auditor.api.audit_settings import AuditSettings, Margins
    from auditor.api.compare import Comparison, compare
    from auditor.api.finetune import FineTuned, finetune
    from auditor.api.geometry import Geometry, geometry
    from auditor.api.profile import profile
    from auditor.api.robustness import Robustness, robustness
    from auditor.api.run import Run
    from auditor.api.sweep import Sweep, sweep
    from auditor.cli.console import TerminalReporter
    from auditor.errors import AuditorError
    from auditor.models.preprocessing import Preprocessing

__version__ = "0.1.0"

# Imported at first use: `auditor --help` and plugins must not wait for torch.
_HOMES = {
    "Ablation": "auditor.api.ablation_result",
    "Audit": "auditor.api.audit_result",
    "AuditSettings": "auditor.api.audit_settings",
    "AuditorError": "auditor.errors",
    "Comparison": "auditor.api.compare",
    "FineTuned": "auditor.api.finetune",
    "Geometry": "auditor.api.geometry",
    "Margins": "auditor.api.audit_settings",
    "Preprocessing": "auditor.models.preprocessing",
    "Robustness": "auditor.api.robustness",
    "Run": "auditor.api.run",
    "Sweep": "auditor.api.sweep",
    "TerminalReporter": "auditor.cli.console",
    "ablate": "auditor.api.ablate",
    "audit": "auditor.api.audit",
    "compare": "auditor.api.compare",
    "finetune": "auditor.api.finetune",
    "geometry": "auditor.api.geometry",
    "plan": "auditor.api.plan",
    "profile": "auditor.api.profile",
    "robustness": "auditor.api.robustness",
    "sweep": "auditor.api.sweep",
}

__all__ = [
    "Ablation",
    "Audit",
    "AuditSettings",
    "AuditorError",
    "Comparison",
    "FineTuned",
    "Geometry",
    "Margins",
    "Preprocessing",
    "Robustness",
    "Run",
    "Sweep",
    "TerminalReporter",
    "__version__",
    "ablate",
    "audit",
    "compare",
    "finetune",
    "geometry",
    "plan",
    "profile",
    "robustness",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'auditor' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
