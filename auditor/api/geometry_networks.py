"""Which networks are measured, at which layers, and where what was measured of each is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from auditor.api.frames import read_table
from auditor.api.geometry_settings import GeometrySettings
from auditor.api.run import Run
from auditor.api.skips import SKIPPED, read_skipped
from auditor.api.workspace import claim, locked, write_manifest
from auditor.errors import OptionError, RunError, unknown_name
from auditor.manifest import Manifest, provenance
from auditor.progress import NullTask, Reporter
from auditor.store.blocks import BlockCache
from auditor.store.files import write_csv
from auditor.units import Site

if TYPE_CHECKING:
    from auditor.api.forward import Execution
    from auditor.api.sweep import Sweep

FOLDER = "geometry"


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes
    ----------
    name : str
        Distinct among those that are measured together.
    alpha : float or None
        Of its training; None for a network that was not trained with the regularizer.
    seed : int or None
    run : Run
    """

    name: str
    alpha: float | None
    seed: int | None
    run: Run

    def columns(self) -> dict[str, str | float]:
        """First columns of its tables."""
        missing = float("nan")
        return {
            "run": self.name,
            "alpha": missing if self.alpha is None else self.alpha,
            "seed": missing if self.seed is None else self.seed,
        }


def networks_of(what: Run | Sweep, others: Sequence[Run] = ()) -> list[Network]:
    """List the networks to be measured: a run, then `others`; or a sweep's by alpha and seed, then `others`.

    Raises
    ------
    RunError
        If a network has other data, other splits or left out other images, or a sweep has no finished network.
    """
    found = []
    if isinstance(what, Run):
        found.append(_network(what))
    else:
        found += [Network(member.run.name, member.alpha, member.seed, member.run) for member in what.members]
        if not found:
            raise RunError(f"{what.path} has no finished network.", fix="Repeat the `auditor sweep` that began it.")
    known = {network.run.path.resolve() for network in found}
    for run in others:
        if run.path.resolve() not in known:
            found.append(_network(run))
            known.add(run.path.resolve())
    names = [network.name for network in found]
    if len(set(names)) < len(names):
        found = [Network(str(network.run.path), network.alpha, network.seed, network.run) for network in found]
    _check_same_images(found)
    return found


def _network(run: Run) -> Network:
    plan = run.manifest.identity.get("finetune", {}).get("plan")
    return Network(run.name, None, None, run) if plan is None else Network(run.name, plan["alpha"], plan["seed"], run)


def _check_same_images(networks: Sequence[Network]) -> None:
    first = networks[0].run
    left_out = {one.id for one in read_skipped(first.path / SKIPPED)}
    for network in networks[1:]:
        for field in ("fingerprint", "split_fingerprint"):
            wanted, got = (run.manifest.identity["data"][field] for run in (first, network.run))
            if wanted != got:
                raise RunError(
                    f"{network.name} and {networks[0].name} are of different images, so they cannot be compared.",
                    wanted=str(wanted),
                    got=str(got),
                )
        if {one.id for one in read_skipped(network.run.path / SKIPPED)} != left_out:
            raise RunError(
                f"{network.name} and {networks[0].name} left out different images that could not be read, so they "
                "cannot be compared.",
                fix="Profile both again with the same files.",
            )


def chosen_sites(run: Run, patterns: Sequence[str]) -> list[Site]:
    """Sites whose name, or whose layer's name, matches one of the globs or ``re:REGEX``; all without patterns.

    Raises
    ------
    UnknownNameError
        If a pattern matches none.
    OptionError
        If a regular expression is wrong.
    """
    if not patterns:
        return list(run.sites)
    found: set[str] = set()
    for pattern in patterns:
        mine = {site.name for site in run.sites if _matches(site, pattern)}
        if not mine:
            raise unknown_name("layer of the run", pattern, [site.name for site in run.sites])
        found |= mine
    return [site for site in run.sites if site.name in found]


def _matches(site: Site, pattern: str) -> bool:
    if not pattern.startswith("re:"):
        return any(fnmatchcase(name, pattern) for name in (site.name, site.layer))
    try:
        return any(re.fullmatch(pattern[3:], name) is not None for name in (site.name, site.layer))
    except re.error as error:
        raise OptionError(f"{pattern!r} is not a regular expression: {error}.") from error


@contextmanager
def part_folder(
    network: Network, part: str, settings: GeometrySettings, execution: Execution, **more: str
) -> Iterator[tuple[Path, bool]]:
    """Hold a network's folder for one part; yields it and whether it was finished before with these settings.

    The part counts as finished when the block ends well. It lies in the network's own run, so a sweep that grows, and
    a run that is measured alone as well as in its sweep, share it. `more` is what else decides its numbers.
    """
    identity = {"run": network.run.manifest.digest(), **settings.of(part), **more}
    manifest = Manifest(f"{FOLDER}-{part}", identity, provenance(execution=execution.describe()))
    folder = network.run.path / FOLDER / "parts" / f"{part}-{manifest.digest()[:8]}"
    with locked(folder, wait=True):
        done = claim(folder, manifest).state == "done"
        yield folder, done
        if not done:
            manifest.complete = True
            write_manifest(folder, manifest)
        BlockCache(folder / "blocks").clear()  # though it is done: it may have been killed in the middle of this


def by_layer(
    folder: Path,
    sites: Sequence[Site],
    measure: Callable[[Site], pd.DataFrame],
    reporter: Reporter,
    description: str,
    *,
    done: bool = False,
) -> pd.DataFrame:
    """Measure layer by layer, each into a file of its own; what an earlier process finished is read.

    Returns
    -------
    DataFrame
        The layers' tables one below the other, with the columns ``site`` and ``n_units`` first.

    Raises
    ------
    RunError
        If the work was `done` and a file of it is gone or damaged.
    """
    parts = []
    with nullcontext(NullTask()) if done else reporter.task(description, len(sites), "layers") as task:
        for number, site in enumerate(sites):
            path = folder / "layers" / f"{number:04d}.csv"
            if done and not path.exists():
                raise RunError(f"{path} is missing.", fix=f"Delete {folder}, and it is measured again.")
            if not path.exists():
                table = measure(site)
                table.insert(0, "site", site.name)
                table.insert(1, "n_units", site.n_units)
                write_csv(path, table)
            parts.append(read_table(path))
            task.advance()
    return pd.concat(parts, ignore_index=True)
