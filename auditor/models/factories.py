"""Models that a function of the user's makes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from auditor.errors import ModelError, WeightsUnavailableError, unknown_name


def call_factory(name: str, *, n_outputs: int | None, pretrained: bool) -> object:
    """Call ``package.module:function`` with those of ``num_classes`` and ``pretrained`` that it takes.

    Parameters
    ----------
    name : str
        Importable here or from the current folder.
    n_outputs : int or None
        Number of classes; None: the factory's own.
    pretrained : bool
        Ask the factory for its weights.

    Raises
    ------
    WeightsUnavailableError
        If weights are asked for and the factory takes no ``pretrained``.
    ModelError
        If the factory cannot be imported, is no function or fails.
    """
    factory = _import_factory(name)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    options: dict[str, Any] = {}
    if n_outputs is not None and (takes_any or "num_classes" in parameters):
        options["num_classes"] = n_outputs
    if "pretrained" in parameters:
        options["pretrained"] = pretrained
    elif pretrained:
        raise WeightsUnavailableError(
            f"The factory {name} takes no `pretrained` argument, so there are no pretrained weights to ask it for.",
            fix="Use --checkpoint FILE, or --weights none for the weights that the factory itself sets.",
        )
    try:
        return factory(**options)
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ModelError(f"{name}({shown}) failed: {type(error).__name__}: {error}") from error


def _import_factory(name: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    cwd = str(Path.cwd())
    added = cwd not in sys.path and "" not in sys.path
    if added:
        # Left in place after the import: the factory may import its neighbours later, and so may workers.
        sys.path.insert(0, cwd)
    try:
        found: object = import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"The module {module_name!r} cannot be imported: {type(error).__name__}: {error}",
            wanted="package.module:factory, importable here or from the current folder",
            got=name,
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise unknown_name(f"function in {module_name}", part, public)
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        raise ModelError(
            f"{name} is not a function.", wanted="a function that returns an nn.Module", got=type(found).__name__
        )
    return found
