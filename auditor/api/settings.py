"""Settings of the verbs that decide numbers, with their defaults and limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auditor.errors import OptionError, unknown_name

ALPHA = 0.05
CURVES = ("layers", "network")


@dataclass(frozen=True)
class SelectivitySettings:
    """How selectivity is scored.

    Parameters
    ----------
    metrics : tuple of str
        Names of metrics; ``index`` is always among them.
    shuffles : int
        Label permutations of the null.
    bootstraps : int
        Resamples of the interval.
    confidence : float
        Of every interval.
    """

    metrics: tuple[str, ...] = ("index",)
    shuffles: int = 1000
    bootstraps: int = 1000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if "index" not in self.metrics:
            object.__setattr__(self, "metrics", ("index", *self.metrics))
        _at_least("shuffles", self.shuffles, 19, "fewer cannot reach p = 0.05")
        _at_least("bootstraps", self.bootstraps, 39, "fewer cannot bound a 95 % interval")
        _confidence(self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {**asdict(self), "metrics": list(self.metrics)}


@dataclass(frozen=True)
class AblationSettings:
    """What is silenced and what it is compared with.

    Parameters
    ----------
    top_selective : int
        Number of units.
    by : str
        ``excess`` (index minus its null mean), ``index``, or the name or ``NAME_excess`` of another metric.
    random_sets : int
        Matched control sets; at least 100.
    random_orders : int
        Random orders of the curve.
    curve_points : int
        Numbers of silenced units at which the curve is evaluated.
    curve_over : str
        ``layers`` silences the same share of every layer, ranked within it; ``network`` ranks all units together.
    q : float
        Units must be significant against the null at this false-discovery rate.
    confidence : float
    seed : int
    limit : int, optional
        At most so many images of the score split, stratified.
    """

    top_selective: int = 100
    by: str = "excess"
    random_sets: int = 100
    random_orders: int = 5
    curve_points: int = 8
    curve_over: str = "layers"
    q: float = ALPHA
    confidence: float = 0.95
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        _at_least("top_selective", self.top_selective, 1)
        _at_least("random_sets", self.random_sets, 100, "an empirical p value needs them")
        _at_least("random_orders", self.random_orders, 2)
        _at_least("curve_points", self.curve_points, 2)
        _confidence(self.confidence)
        if self.curve_over not in CURVES:
            raise unknown_name("kind of curve", self.curve_over, CURVES)
        if not 0 < self.q <= 1:
            raise OptionError("q must lie between 0 and 1.", got=str(self.q))

    @property
    def column(self) -> str:
        """Column of the unit table that ranks the units."""
        return "index_excess" if self.by == "excess" else self.by

    @property
    def metric(self) -> str:
        """Metric whose significance is required."""
        return self.column.removesuffix("_excess")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def _at_least(name: str, value: int, minimum: int, why: str = "") -> None:
    if value < minimum:
        raise OptionError(
            f"{name} must be at least {minimum}" + (f": {why}." if why else "."),
            wanted=f"an integer of {minimum} or more",
            got=str(value),
            fix=f"--{name.replace('_', '-')} {minimum}",
        )


def _confidence(value: float) -> None:
    if not 0.5 <= value < 1:
        raise OptionError("confidence must lie between 0.5 and 1.", got=str(value), fix="--confidence 0.95")
