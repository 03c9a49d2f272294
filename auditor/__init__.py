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
    from auditor.api.profile import profile
    from auditor.api.run import Run
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
    "Margins": "auditor.api.audit_settings",
    "Preprocessing": "auditor.models.preprocessing",
    "Run": "auditor.api.run",
    "TerminalReporter": "auditor.cli.console",
    "ablate": "auditor.api.ablate",
    "audit": "auditor.api.audit",
    "compare": "auditor.api.compare",
    "finetune": "auditor.api.finetune",
    "profile": "auditor.api.profile",
}

__all__ = [
    "Ablation",
    "Audit",
    "AuditSettings",
    "AuditorError",
    "Comparison",
    "FineTuned",
    "Margins",
    "Preprocessing",
    "Run",
    "TerminalReporter",
    "__version__",
    "ablate",
    "audit",
    "compare",
    "finetune",
    "profile",
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
