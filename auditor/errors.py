"""Errors with a remedy.

Every error a user can cause says what was wanted, what came, the closest valid choice and how to mend it.
Each class also inherits the builtin that a caller is likely to catch already.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AuditorError(Exception):
    """Root of all errors raised on purpose by auditor.

    Parameters
    ----------
    message : str
        What went wrong, in one sentence.
    wanted, got : str, optional
        What was expected and what came instead.
    closest : sequence of str, optional
        The nearest valid choices.
    fix : str, optional
        What to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        wanted: str | None = None,
        got: str | None = None,
        closest: Iterable[str] = (),
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.wanted = wanted
        self.got = got
        self.closest = tuple(closest)
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        if self.wanted is not None:
            lines.append(f"  wanted:  {self.wanted}")
        if self.got is not None:
            lines.append(f"  got:     {self.got}")
        if self.closest:
            lines.append(f"  closest: {', '.join(self.closest)}")
        if self.fix is not None:
            lines.append(f"  fix:     {self.fix}")
        return "\n".join(lines)


class OptionError(AuditorError, ValueError):
    """An option or argument has a value that cannot be used."""


class UnknownNameError(AuditorError, LookupError):
    """A name (model, layer, metric, run, ...) is not known."""


class ModelError(AuditorError, ValueError):
    """A model cannot be built, loaded or audited."""


class CheckpointError(ModelError):
    """A weights file is unreadable or does not fit the model."""


class WeightsUnavailableError(ModelError, ConnectionError):
    """Pretrained weights could not be fetched."""


class DataError(AuditorError, ValueError):
    """A data set is missing, empty or unusable."""


class StoreError(AuditorError, OSError):
    """The activation store is damaged, foreign or cannot be written."""

    # OSError.__str__ would win over AuditorError.__str__ for two-argument calls.
    __str__ = AuditorError.__str__


class RunError(AuditorError, LookupError):
    """A run is missing, incomplete or does not fit the request."""


class PluginError(AuditorError, ImportError):
    """A plugin failed to load or broke its contract."""

    __str__ = AuditorError.__str__


def unknown_name(kind: str, name: str, valid: Iterable[str], *, fix: str | None = None) -> UnknownNameError:
    """Build the error for a misspelt `name`, with up to three near matches among `valid`."""
    names = sorted(set(valid))
    closest = get_close_matches(name, names, n=3, cutoff=0.5)
    wanted = f"one of {', '.join(names)}" if 0 < len(names) <= 12 else f"a known {kind} ({len(names)} exist)"
    return UnknownNameError(
        f"There is no {kind} named {name!r}.", wanted=wanted, got=repr(name), closest=closest, fix=fix
    )
