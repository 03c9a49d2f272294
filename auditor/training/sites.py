"""Which layers are in the selectivity term."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from auditor.errors import ModelError, OptionError, unknown_name
from auditor.units import Site

_END = re.compile(r"(first|last):([1-9]\d*)")


def choose_sites(sites: Sequence[Site], regularize: str | Sequence[str], *, defined: Sequence[Site]) -> list[Site]:
    """Find the sites that are regularized.

    Parameters
    ----------
    sites : sequence of Site
        All that were profiled, in network order.
    regularize : str or sequence of str
        ``all``; ``first:K`` or ``last:K`` of `defined`; or globs over names of layers and of their calls
        (``layer4.*``, ``layer1.0.relu@2``).
    defined : sequence of Site
        Those on which the metric is defined.

    Raises
    ------
    UnknownNameError
        With near matches, if a glob matches no site.
    OptionError
        If there are fewer than K sites, or nothing is asked for.
    ModelError
        If a glob matches only sites on which the metric is not defined.
    """
    wanted = (regularize,) if isinstance(regularize, str) else tuple(regularize)
    if wanted == ("all",):
        return list(defined)
    match = _END.fullmatch(wanted[0]) if len(wanted) == 1 else None
    if match is not None:
        count = int(match[2])
        if count > len(defined):
            raise OptionError(
                f"There are not {count} layers to regularize.", wanted=f"at most {len(defined)}", got=wanted[0]
            )
        return list(defined[:count] if match[1] == "first" else defined[-count:])
    if not wanted:
        raise OptionError("No layers to regularize were named.", wanted="all, first:K, last:K, or globs over names")
    found: set[str] = set()
    for pattern in wanted:
        names = {site.name for site in sites if fnmatchcase(site.name, pattern) or fnmatchcase(site.layer, pattern)}
        if not names:
            known = [name for site in sites for name in (site.name, site.layer)]
            raise unknown_name("profiled layer", pattern, known, fix="all, first:K, last:K, or globs over names.")
        usable = names & {site.name for site in defined}
        if not usable:
            raise ModelError(
                f"Every layer that matches {pattern!r} has negative responses, for which the class selectivity index "
                "is not defined.",
                fix="--signed rectify, or --metric dprime.",
            )
        found |= usable
    return [site for site in defined if site.name in found]
