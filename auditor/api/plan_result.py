"""What a job will take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from auditor.api.frames import records
from auditor.api.plan_clock import NO_TIME, Part, Timed
from auditor.store.space import format_bytes

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Plan:
    """What jobs will take: counts, which are exact, and times, which are estimates with a range.

    Attributes
    ----------
    about : dict
        Network, data, machine, calibration.
    layers : pandas.DataFrame
        One row per site: units, shape, operations of one image that depend on it.
    parts : list of Part
    devices : int
    notes : list of str
        What the numbers assume.
    """

    about: dict[str, Any]
    layers: pd.DataFrame
    parts: list[Part]
    devices: int = 1
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return self.summary()

    @property
    def jobs(self) -> list[str]:
        """Names of the jobs, in order."""
        return list(dict.fromkeys(part.job for part in self.parts))

    def to_frame(self) -> pd.DataFrame:
        """One row per part: ``job``, ``part``, ``scales``, ``operations``, ``seconds`` with ``low`` and ``high`` on one
        device, ``disk`` and ``memory`` in bytes, and whether several devices divide it (``parallel``).
        """  # noqa: D205
        return pd.DataFrame(
            [
                {
                    "job": part.job, "part": part.part, "scales": part.scales,
                    "operations": np.nan if part.operations is None else float(part.operations),
                    **part.span._asdict(), "disk": part.disk, "memory": part.memory, "parallel": part.parallel,
                }
                for part in self.parts
            ]
        )  # fmt: skip

    def seconds(self, job: str | None = None, *, devices: int | None = None) -> Timed:
        """Wall time of one job or of all: what divides is divided, what does not is not (Amdahl's law).

        Parameters
        ----------
        job : str, optional
        devices : int, optional
            Default: those of the plan.
        """
        n = self.devices if devices is None else devices
        chosen = [part for part in self.parts if job in (None, part.job)]
        return NO_TIME.plus(*(part.span.times(1 / n if part.parallel else 1) for part in chosen))

    def totals(self) -> pd.DataFrame:
        """One row per job and one for all: ``serial``, ``parallel`` (seconds on one device), ``seconds``, ``low`` and
        ``high`` on the plan's devices, ``speedup`` over one, and the largest possible, ``limit``.
        """  # noqa: D205
        rows = []
        for job in [*self.jobs, None]:
            chosen = [part for part in self.parts if job in (None, part.job)]
            serial, parallel = (sum(p.time.seconds for p in chosen if p.parallel is kind) for kind in (False, True))
            whole = self.seconds(job)
            rows.append(
                {
                    "job": job or "all", "serial": serial, "parallel": parallel, **whole._asdict(),
                    "speedup": (serial + parallel) / whole.seconds if whole.seconds else np.nan,
                    "limit": (serial + parallel) / serial if serial else np.nan,
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values (the document that ``--json`` prints)."""
        return {
            "about": self.about,
            "devices": self.devices,
            "layers": records(self.layers),
            "parts": records(self.to_frame()),
            "totals": records(self.totals()),
            "notes": self.notes,
        }

    def summary(self) -> str:
        """The plan in some lines."""
        about = self.about
        n_images = ", ".join(f"{n:,} {split}" for split, n in about["images"].items())
        lines = [
            f"{about['model']} on {about['data']}: {len(self.layers)} sites, {about['units']:,} units; "
            f"{about['classes']:,} classes; images: {n_images}.",
            f"One image: {about['operations']:,} operations ({shown(about['operations'] / 2)} multiply-adds).",
        ]
        for row in self.totals().to_dict("records"):
            time = Timed(row["seconds"], row["low"], row["high"])
            lines.append(
                f"{row['job']}: {time_text(time)} on {devices_text(self.devices)} "
                f"({duration(row['serial'])} of it do not divide)."
            )
        disk = sum(part.disk for part in self.parts)
        memory = max((part.memory for part in self.parts), default=0)
        return "\n".join(
            [*lines, f"Disk: {format_bytes(disk)}. Memory beside the network: {format_bytes(memory)}.", *self.notes]
        )


def devices_text(n: int) -> str:
    """``1 device``, ``8 devices``."""
    return "1 device" if n == 1 else f"{n} devices"


def duration(seconds: float) -> str:
    """``45 s``, ``3.2 min``, ``5.1 h``, ``2.3 d``; two figures are all that an estimate has."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{_two(seconds / size)} {unit}"
    return f"{_two(seconds)} s"


def time_text(time: Timed) -> str:
    """``45 s [38, 54]``, in one unit."""
    size, unit = next(((s, u) for s, u in _UNITS if time.seconds >= 2 * s), (1.0, "s"))
    seconds, low, high = (_two(value / size) for value in time)
    return f"{seconds} {unit} [{low}, {high}]"


def shown(number: float) -> str:
    """``4.1 G``: a number with a prefix."""
    for size, prefix in _PREFIXES:
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.0f}"


def _two(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
