"""Settings of the verbs that decide numbers, with their defaults and limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from auditor.errors import OptionError, unknown_name
from auditor.registry import registry
from auditor.store import COMPRESSIONS

ALPHA = 0.05
ALL = "all"
SIGNED = ("dprime", "auc")
KEEP = ("pooled", "full", "none")
DTYPES = ("float32", "float16")
MOST_SHARDS = 1024


@dataclass(frozen=True)
class SelectivitySettings:
    """How selectivity is scored.

    Parameters
    ----------
    metrics : tuple of str
        Names of metrics; ``index`` is always among them. ``all`` stands for every registered metric and is replaced
        by their names.
    shuffles : int
        Label permutations of the null.
    bootstraps : int
        Resamples of the interval.
    confidence : float
        Of every interval.
    signed : tuple of str
        Metrics that score, beside `metrics`, the layers in which a unit has negative responses on the select split;
        the first stands in for the index there. Each must be defined for such responses.
    """

    metrics: tuple[str, ...] = ("index",)
    shuffles: int = 1000
    bootstraps: int = 1000
    confidence: float = 0.95
    signed: tuple[str, ...] = SIGNED

    def __post_init__(self) -> None:
        object.__setattr__(self, "signed", tuple(self.signed))
        for name in self.signed:
            if not registry().metric(name).signed:
                raise OptionError(f"The metric {name!r} is not defined for signed responses.", wanted="one that is")
        named = [each for name in self.metrics for each in (registry().metrics() if name == ALL else [name])]
        first = [] if "index" in named and ALL not in self.metrics else ["index"]
        object.__setattr__(self, "metrics", tuple(dict.fromkeys([*first, *named])))
        at_least("shuffles", self.shuffles, 19, "fewer cannot reach p = 0.05")
        at_least("bootstraps", self.bootstraps, 39, "fewer cannot bound a 95 % interval")
        check_confidence(self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {**asdict(self), "metrics": list(self.metrics), "signed": list(self.signed)}


@dataclass(frozen=True)
class StoreSettings:
    """What is kept of the responses.

    Parameters
    ----------
    keep : str
        ``pooled``: one number per unit and image. ``full``: every layer's whole output, too. ``none``: neither; the
        pooled responses are held in memory until they are scored, and an interrupted run begins again.
    dtype : str
        ``float32`` or ``float16``. What is scored is what is stored: rounded to this type.
    compression : str, optional
        ``lz4`` compresses the finished file (needs ``hdf5plugin``).
    shard : str, optional
        ``"2/4"``: only the second quarter of the images. Each shard may be a process of its own, on any machine that
        sees the folder; the last one to finish scores the run.
    """

    keep: str = "pooled"
    dtype: str = "float32"
    compression: str | None = None
    shard: str | None = None

    def __post_init__(self) -> None:
        if self.keep not in KEEP:
            raise unknown_name("way to store", self.keep, KEEP)
        if self.dtype not in DTYPES:
            raise unknown_name("stored type", self.dtype, DTYPES)
        if self.compression is not None:
            if self.compression not in COMPRESSIONS:
                raise unknown_name("compression", self.compression, COMPRESSIONS)
            if find_spec("hdf5plugin") is None:
                raise OptionError(
                    "LZ4 compression needs the package hdf5plugin.",
                    fix="python -m pip install hdf5plugin (or auditor[lz4])",
                )
        if self.shard is not None:
            self.part()
            if self.keep == "none":
                raise OptionError(
                    "Shards meet on disk, so they cannot be kept in memory only.", fix="Leave out --store none."
                )

    def part(self) -> tuple[int, int]:
        """Which shard of how many, from 1; the only one without `shard`."""
        if self.shard is None:
            return 1, 1
        number, slash, count = self.shard.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= MOST_SHARDS):
            raise OptionError(
                "A shard is one part of several.",
                wanted=f"NUMBER/COUNT, such as 2/4, at most {MOST_SHARDS} parts",
                got=repr(self.shard),
            )
        return int(number), int(count)


def at_least(name: str, value: int, minimum: int, why: str = "") -> None:
    """Raise an OptionError if an integer is below its minimum."""
    if value < minimum:
        raise OptionError(
            f"{name} must be at least {minimum}" + (f": {why}." if why else "."),
            wanted=f"an integer of {minimum} or more",
            got=str(value),
            fix=f"--{name.replace('_', '-')} {minimum}",
        )


def check_confidence(value: float) -> None:
    """Raise an OptionError unless `value` can be a confidence."""
    if not 0.5 <= value < 1:
        raise OptionError("confidence must lie between 0.5 and 1.", got=str(value), fix="--confidence 0.95")
