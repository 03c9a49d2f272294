"""What follows ``--data``: a place, and options after a question mark."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import parse_qsl

from auditor.errors import OptionError, unknown_name

# A question mark is also a wildcard, and begins the query of a URL: only a list of name=value at the end is meant.
_OPTIONS = re.compile(r"\?(\w+=[^&?]*(?:&\w+=[^&?]*)*)$")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?!:)")


def is_url(text: str) -> bool:
    """Whether this begins with a scheme, as ``https:`` and ``pipe:`` (one letter is a Windows drive)."""
    return _URL.match(text) is not None


def split_options(text: str, known: Collection[str], what: str) -> tuple[str, dict[str, str]]:
    """Divide ``PLACE?name=value&name=value``.

    Parameters
    ----------
    text : str
        Without the source's own prefix.
    known : collection of str
        Names of options. The query of a URL is part of the place, unless all its names are known.
    what : str
        For the message.

    Returns
    -------
    place : str
    options : dict of str to str

    Raises
    ------
    OptionError
        If an option is unknown or given twice.
    """
    found = _OPTIONS.search(text)
    if found is None:
        return text, {}
    pairs = parse_qsl(found[1], keep_blank_values=True)
    unknown = [name for name, _ in pairs if name not in known]
    if unknown and is_url(text):
        return text, {}
    if unknown:
        raise unknown_name(f"option of {what}", unknown[0], known)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise OptionError(f"An option of {what} is given twice.", got=f"?{found[1]}")
    return text[: found.start()], options
