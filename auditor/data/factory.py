"""Data sets that a function of the user's own makes."""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from auditor.data.base import DataSource, LabelledData, printable
from auditor.data.dataset import MapDataset, from_dataset
from auditor.errors import AuditorError, DataError, OptionError

_NAME = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
_WANTED = "package.module:factory, importable here or from the current folder"
PLUGIN_SCHEMES = {"hf": "auditor-huggingface", "hfs": "auditor-streaming", "wds": "auditor-streaming"}
"""Beginnings of names that a plugin of ours understands, for a hint where it is not installed."""


class FactorySource(DataSource):
    """``package.module:factory``: a function that returns a map-style data set or :class:`LabelledData`.

    It is called without arguments; a ``root`` that the user gives goes to its argument of that name.
    """

    name = "factory"

    def claims(self, text: str) -> bool:
        """Tell whether `text` has the form ``package.module:name``."""
        return _NAME.match(text) is not None and text.partition(":")[0] not in PLUGIN_SCHEMES

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Call the factory; see :meth:`DataSource.load`. Splits that it has made are kept."""
        factory = _find(text)
        options = {} if root is None else {"root": root}
        if options and not takes(factory, "root"):
            raise OptionError(f"{text} takes no argument `root`.", got=f"--root {root}", fix="Leave --root out.")
        try:
            made = factory(**options)
        except AuditorError:
            raise
        except Exception as error:
            raise DataError(f"{text} failed: {type(error).__name__}: {printable(str(error))}") from error
        if isinstance(made, LabelledData):
            return made
        if not isinstance(made, MapDataset) or isinstance(made, str | bytes | dict):
            raise DataError(
                f"{text} did not make a data set.",
                wanted="a data set with len() whose items are (image, class number), or LabelledData",
                got=type(made).__name__,
            )
        return from_dataset(made, fractions=fractions, seed=seed, name=text.partition(":")[2], origin=text)


def takes(function: Any, name: str) -> bool:
    """Whether `function` has an argument of this name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _find(text: str) -> Any:
    module_name, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # Left in place after the import: the factory may import its neighbours later, and so may workers.
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module_name), attribute, None)
    except ModuleNotFoundError as error:
        raise DataError(
            f"There is no module {error.name!r} for --data {text}.", wanted=_WANTED, got=repr(text)
        ) from None
    except Exception as error:
        raise DataError(
            f"The module {module_name!r} failed to import: {type(error).__name__}: {printable(str(error))}"
        ) from error
    if not callable(found):
        raise DataError(f"The module {module_name!r} has no function {attribute!r}.", wanted=_WANTED, got=repr(text))
    return found
