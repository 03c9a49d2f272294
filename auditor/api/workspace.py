"""Where runs live: naming, finding, claiming and never overwriting them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from auditor.errors import OptionError, RunError, unknown_name
from auditor.manifest import Manifest
from auditor.store.files import write_json, write_text

MANIFEST = "manifest.json"
LATEST = ".latest"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+=-]{0,119}$")

Claim = Literal["new", "resume", "done"]


class Busy(RunError):
    """Another process works on the same folder."""


@dataclass(frozen=True)
class Claimed:
    """A folder for some work, and how far it is.

    Attributes
    ----------
    path : Path
    state : str
        ``new``, ``resume`` (same identity, unfinished) or ``done`` (same identity, finished).
    """

    path: Path
    state: Claim


def slug(text: str) -> str:
    """Make `text` fit for a folder name."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text).strip("-.")[:60] or "run"


def check_name(name: str) -> str:
    """Refuse run names that are not plain folder names.

    Raises
    ------
    OptionError
        With the rule.
    """
    if not _NAME.match(name):
        raise OptionError(
            "A run's name must be a plain folder name.",
            wanted="letters, digits, '.', '_', '+', '=' and '-', at most 120, starting with a letter or digit",
            got=repr(name),
        )
    return name


def read_manifest(folder: Path) -> Manifest:
    """Read a run's manifest.

    Raises
    ------
    RunError
        If it is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest.from_dict(content)
    except FileNotFoundError:
        raise RunError(f"{folder} is not a run: it has no {MANIFEST}.", fix="`auditor runs` lists the runs.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}).", fix="Profile again under another --name.") from error
    if content.get("digest") != manifest.digest():
        raise RunError(
            f"{path} was changed after it was written: its digest does not match its content.",
            wanted=str(content.get("digest")),
            got=manifest.digest(),
            fix="Restore the file, or profile again under another --name.",
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a run's manifest in one step."""
    write_json(folder / MANIFEST, manifest.to_dict())


def claim(folder: Path, manifest: Manifest, *, beside: Iterable[str] = ()) -> Claimed:
    """Take `folder` for the work that `manifest` describes.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    beside : iterable of str
        Names that an earlier step of the same work may have left in the folder.

    Raises
    ------
    RunError
        If the folder holds other work; every differing field is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.joinpath(MANIFEST).exists():
        there = read_manifest(folder)
        changes = there.diff(manifest)
        if there.kind != manifest.kind:
            raise RunError(
                f"{folder} holds a {there.kind} run.", got=f"a {manifest.kind}", fix="Choose another --name."
            )
        if changes:
            raise RunError(
                f"{folder} holds a run with other settings; it is left as it is.",
                wanted="; ".join(str(change) for change in changes[:5]) + ("; ..." if len(changes) > 5 else ""),
                fix="Choose another --name, or go back to the settings of that run.",
            )
        if there.complete:
            return Claimed(folder, "done")
        _sweep(folder)
        return Claimed(folder, "resume")
    if {p.name for p in folder.iterdir() if not p.name.startswith(".")} - set(beside):
        raise RunError(f"{folder} exists and is not a run; it is left as it is.", fix="Choose another --name.")
    _sweep(folder)  # a process may have been killed while it wrote the manifest
    write_manifest(folder, manifest)
    return Claimed(folder, "new")


def _sweep(folder: Path) -> None:
    """Remove files that a killed process left half written; shards, which lie deeper, are others' to write."""
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a run for this process alone; with `wait`, once the others are done with it.

    Raises
    ------
    Busy
        If another process works on it.
    RunError
        If nothing can be written there.
    """
    lock = FileLock(str(folder / ".lock"), timeout=-1 if wait else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise Busy(f"Another process is working on {folder}.", fix="Wait for it, or choose another --name.") from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written: {error.strerror or error}.", fix="Choose another folder with --runs."
        ) from error
    try:
        yield
    finally:
        lock.release()


def mark_latest(folder: Path) -> None:
    """Make `folder` the run that later commands find by themselves."""
    write_text(folder.parent / LATEST, folder.name + "\n")


def run_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a manifest, newest first."""
    found = [path.parent for path in root.glob(f"*/{MANIFEST}")]
    return sorted(found, key=lambda p: p.joinpath(MANIFEST).stat().st_mtime, reverse=True)


def find_run(name: str | None, root: Path, *, original: bool = False) -> Path:
    """Folder of the named run, or of the latest finished one.

    Parameters
    ----------
    name : str or None
        A run's name or path; None for the latest.
    root : Path
        Folder that holds the runs.
    original : bool
        Without a name, pass over networks that were fine-tuned here.

    Raises
    ------
    RunError, UnknownNameError
        If there is none.
    """
    folders = run_folders(root)
    if name is not None:
        for candidate in (root / name, Path(name)):
            if candidate.joinpath(MANIFEST).exists():
                return candidate
        raise unknown_name("run", name, [p.name for p in folders], fix="`auditor runs` lists the runs.")
    pointer = root / LATEST
    if pointer.exists():
        folders.insert(0, root / pointer.read_text(encoding="utf-8").strip())
    for folder in folders:
        if folder.joinpath(MANIFEST).exists():
            manifest = read_manifest(folder)
            if manifest.kind == "profile" and manifest.complete and not (original and "finetune" in manifest.identity):
                return folder
    raise RunError(
        f"There is no finished run in {root}.",
        wanted="the latest run",
        got="none" if not folders else f"{len(folders)} unfinished",
        fix="Run `auditor profile --model resnet18` first, or name a run with --run.",
    )
