"""Settings of the verb ``ablate``, with their defaults and limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auditor.ablation import METHODS
from auditor.api.engines import check_engine
from auditor.api.settings import ALPHA, at_least, check_confidence
from auditor.errors import OptionError, unknown_name
from auditor.registry import registry

CURVES = ("layers", "network")


@dataclass(frozen=True)
class AblationSettings:
    """What is silenced and what it is compared with.

    Parameters
    ----------
    top_selective : int
        Number of units.
    by : str
        ``excess`` (index minus its null mean; d' minus its own where every layer has signed responses), ``index``, or
        the name or ``NAME_excess`` of another metric.
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
    keep_only : bool
        Also draw the curves along which all but the first units are silenced.
    all_units : bool
        Also measure every other unit of the run alone, and draw the curves by importance, too.
    screen : int, optional
        Also measure the `screen` units alone whose first-order estimate is largest, and 50 random ones, which tell how
        well the estimate ranks.
    top_important : int, optional
        Also find so many most important units by a race over images, with error probability `delta`.
    delta : float
        Of the race.
    edit : str
        What replaces a unit's response: ``zero``, ``mean``, ``resample``, ``resample-class``, ``noise=SCALE``,
        ``clamp=VALUE``, or a plugin's.
    methods : tuple of str
        Captum's layer attributions to compute beside ablation.
    engine : str
        ``exact``, ``captum`` or ``hooks``.
    dtype : str
        In which the exact engine computes: ``float32``, ``bfloat16`` or ``float16``.
    memory : float, optional
        GiB that a batch may take. Default: 2, or 60 % of a GPU's.
    check : int
        Random units to compare with Captum; 0 for none.
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
    keep_only: bool = False
    all_units: bool = False
    screen: int | None = None
    top_important: int | None = None
    delta: float = ALPHA
    edit: str = "zero"
    methods: tuple[str, ...] = ()
    engine: str = "exact"
    dtype: str = "float32"
    memory: float | None = None
    check: int = 4

    def __post_init__(self) -> None:
        check_engine(self.engine, self.dtype)
        registry().edit(self.edit)
        for method in self.methods:
            if method not in METHODS:
                raise unknown_name("method", method, METHODS)
        at_least("check", self.check, 0)
        for name in ("screen", "top_important"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if not 0 < self.delta < 1:
            raise OptionError("delta must lie between 0 and 1.", got=str(self.delta), fix="--delta 0.05")
        if self.memory is not None and not 0 < self.memory < float("inf"):
            raise OptionError("memory must be a positive number of GiB.", got=str(self.memory), fix="--memory 2")
        at_least("top_selective", self.top_selective, 1)
        at_least("random_sets", self.random_sets, 100, "an empirical p value needs them")
        at_least("random_orders", self.random_orders, 2)
        at_least("curve_points", self.curve_points, 2)
        check_confidence(self.confidence)
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
        return asdict(self) | {"methods": list(self.methods)}
