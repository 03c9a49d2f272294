"""Identity of a run: what decides its numbers, and what merely describes how they came about."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

FORMAT = 1
PACKAGES = ("auditor", "torch", "torchvision", "timm", "captum", "numpy", "scipy", "scikit-learn", "h5py", "pandas")


@dataclass(frozen=True)
class Change:
    """One field in which two manifests differ; a missing field reads ``None``."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.before)} -> {_short(self.after)}"


@dataclass
class Manifest:
    """What a run is and how it came about.

    Parameters
    ----------
    kind : str
        The verb that made it: ``profile``, ``finetune`` or ``ablate``.
    identity : dict
        Everything that decides the numbers (hashes of weights, data ids, splits; sites, settings, seed). Two runs of
        equal identity hold equal tables.
    provenance : dict
        Versions, device, time: recorded, not compared.
    complete : bool
        Whether the run was finished.
    """

    kind: str
    identity: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    complete: bool = False

    def digest(self) -> str:
        """SHA-256 of kind and identity, as hexadecimal digits."""
        text = json.dumps({"format": FORMAT, "kind": self.kind, "identity": self.identity}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def diff(self, other: Manifest) -> list[Change]:
        """Fields of the identity that differ from `other`'s, by dotted path."""
        mine, theirs = dict(_flatten(self.identity)), dict(_flatten(other.identity))
        names = [*mine, *(name for name in theirs if name not in mine)]
        return [Change(name, mine.get(name), theirs.get(name)) for name in names if mine.get(name) != theirs.get(name)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``manifest.json``."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "digest": self.digest(),
            "complete": self.complete,
            "identity": self.identity,
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Inverse of :meth:`to_dict`.

        Raises
        ------
        KeyError, TypeError
            If `values` is not a manifest.
        """
        return cls(
            kind=str(values["kind"]),
            identity=dict(values["identity"]),
            provenance=dict(values["provenance"]),
            complete=bool(values["complete"]),
        )


def provenance(**extra: Any) -> dict[str, Any]:
    """Versions, platform and time, with `extra` added."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        **extra,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
