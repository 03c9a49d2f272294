"""What an audit claims and how it will be judged: declared before anything is ablated."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from auditor.api.ablation_settings import CURVES
from auditor.api.engines import check_engine
from auditor.api.settings import ALPHA, at_least, check_confidence
from auditor.errors import OptionError, unknown_name
from auditor.registry import registry

HYPOTHESES = ("necessity", "correlation", "own_class", "sufficiency", "metrics", "controls", "intervention")
COVARIATES = ("mean", "firing_rate", "output_norm")
MEASURES = ("accuracy", "loss")
POOLS = ("all", "others")
SECTION = "margins"


@dataclass(frozen=True)
class Margins:
    """Smallest effects that count: an effect that is surely below its margin refutes the claim.

    Parameters
    ----------
    accuracy : float
        Share of images (0.01 is one point) that silencing the selective units must cost more than the controls.
    loss : float
        The same in nats, where the loss is the measure.
    correlation : float
        Rank correlation.
    own_class : float
        Probability, above one half, that an image of the unit's preferred class suffers more than another.
    reliability : float
        Spearman-Brown reliability of the ranking that is tested.
    inferiority : float
        Loss of accuracy that still counts as no cost.
    """

    accuracy: float = 0.01
    loss: float = 0.02
    correlation: float = 0.1
    own_class: float = 0.05
    reliability: float = 0.5
    inferiority: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < float("inf"):
                raise OptionError(
                    f"The margin {name!r} must be a number of 0 or more.", got=repr(value), fix=f"{name} = 0.01"
                )


@dataclass(frozen=True)
class AuditSettings:
    """The declaration of an audit.

    Parameters
    ----------
    hypotheses : tuple of str
        Of ``necessity``, ``correlation``, ``own_class``, ``sufficiency``, ``metrics``, ``controls`` and
        ``intervention`` (which needs fine-tuned networks).
    margins : Margins
    alpha : float
        Significance level.
    by : str
        Ranking of the units; see :class:`auditor.api.ablation_settings.AblationSettings`.
    select_over : str
        ``layers`` takes the same share of every layer, for selectivity is not comparable between layers (Amjad et al.
        2018); ``network`` ranks all units together.
    measure : str
        Of set effects: lost ``accuracy`` or ``loss``.
    shares : tuple of float
        Shares of the units that are silenced together; one test over all of them.
    draws : int
        Matched random sets, at least 200. Each is nested over the shares and fixed for all images.
    match : tuple of str
        Of ``mean`` (mean activation), ``firing_rate`` and ``output_norm`` (norm of the weights that read the unit);
        always within the layer.
    pool : str
        ``all`` draws the random sets from all units of a layer, so that a selection that is no more than a random draw
        is called one at the declared rate; ``others`` leaves the selected units out, which finds smaller differences
        and errs more often (:func:`auditor.causal.matching.matched_sets`).
    neighbours : int
        Units, the nearest in rank of what is matched on, among which each stand-in is drawn. With more of them sets
        overlap less with the selection and are matched worse.
    keep_shares : tuple of float
        Shares that are kept while all others are silenced.
    keep_draws : int
        Matched random sets of these.
    q : float
        Units must be significantly selective at this false-discovery rate to be chosen.
    edit : str
        What replaces a response.
    resamples : int
        Bootstrap resamples and permutations.
    limit : int, optional
        At most so many images of the score split, stratified.
    seed : int
    engine, dtype, memory, check
        See :class:`auditor.api.ablation_settings.AblationSettings`.
    """

    hypotheses: tuple[str, ...] = HYPOTHESES[:-1]
    margins: Margins = field(default_factory=Margins)
    alpha: float = ALPHA
    by: str = "excess"
    select_over: str = "layers"
    measure: str = "accuracy"
    shares: tuple[float, ...] = (0.01, 0.025, 0.05)
    draws: int = 200
    match: tuple[str, ...] = ("mean",)
    pool: str = "all"
    neighbours: int = 4
    keep_shares: tuple[float, ...] = (0.75, 0.9)
    keep_draws: int = 20
    q: float = ALPHA
    edit: str = "zero"
    resamples: int = 1000
    limit: int | None = None
    seed: int = 0
    engine: str = "exact"
    dtype: str = "float32"
    memory: float | None = None
    check: int = 4

    def __post_init__(self) -> None:
        for name in ("hypotheses", "shares", "match", "keep_shares"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
                raise OptionError(f"{name} must be several values.", wanted=f"({value!r},)", got=repr(value))
            object.__setattr__(self, name, tuple(value))
        for name in self.hypotheses:
            if name not in HYPOTHESES:
                raise unknown_name("hypothesis", name, HYPOTHESES)
        if not self.hypotheses:
            raise OptionError("An audit needs a hypothesis.", wanted=", ".join(HYPOTHESES))
        for name in self.match:
            if name not in COVARIATES:
                raise unknown_name("covariate", name, COVARIATES)
        if not self.match:
            raise OptionError("Random sets must be matched on something.", wanted=", ".join(COVARIATES))
        if self.pool not in POOLS:
            raise unknown_name("pool", self.pool, POOLS)
        if self.measure not in MEASURES:
            raise unknown_name("measure", self.measure, MEASURES)
        if self.select_over not in CURVES:
            raise unknown_name("kind of selection", self.select_over, CURVES)
        check_engine(self.engine, self.dtype)
        registry().edit(self.edit)
        for name in ("alpha", "q"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(f"{name} must lie between 0 and 1.", got=str(getattr(self, name)), fix=f"{name}=0.05")
        check_confidence(self.confidence)
        for name in ("shares", "keep_shares"):
            _check_shares(name, getattr(self, name))
        for name in ("draws", "keep_draws", "resamples", "neighbours", "check", "seed", "limit"):
            if not isinstance(getattr(self, name), int | None) or isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be a whole number.", got=repr(getattr(self, name)))
        if self.memory is not None and not 0 < self.memory < float("inf"):
            raise OptionError("memory must be a positive number of GiB.", got=str(self.memory), fix="--memory 2")
        at_least("draws", self.draws, 200, "an empirical p value and a band need them")
        at_least("keep_draws", self.keep_draws, 20, "a band needs them")
        at_least("resamples", self.resamples, 200, "an interval needs them")
        at_least("neighbours", self.neighbours, 2)
        at_least("check", self.check, 0)
        at_least("seed", self.seed, 0)
        if self.limit is not None:
            at_least("limit", self.limit, 1)

    @property
    def confidence(self) -> float:
        """Of every interval that is compared with a margin."""
        return 1 - self.alpha

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_toml(cls, path: str | Path, **changes: Any) -> AuditSettings:
        """Read a declaration: any of the fields above, and a table ``[margins]``.

        Raises
        ------
        OptionError, UnknownNameError
            If the file cannot be read, or holds something else.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} cannot be read: {error}", wanted="a TOML file") from error
        margins = content.pop(SECTION, {})
        if not isinstance(margins, dict):
            raise OptionError(f"{SECTION!r} in {path} must be a table.", wanted=f"[{SECTION}]", got=repr(margins))
        known = {f.name: f for f in fields(cls)}
        for name in content:
            if name not in known:
                raise unknown_name("setting", name, [*known, SECTION], fix=f"See {path}.")
        for name in margins:
            if name not in {f.name for f in fields(Margins)}:
                raise unknown_name("margin", name, [f.name for f in fields(Margins)], fix=f"See {path}.")
        defaults = cls()
        values: dict[str, Any] = {}
        for name, value in content.items():
            values[name] = _typed(name, value, getattr(defaults, name))
        return replace(cls(**values, margins=Margins(**margins)), **changes)


def _typed(name: str, value: Any, default: Any) -> Any:
    """Check the type of a value from a file against that of the default."""
    if isinstance(default, tuple):
        kind: type | tuple[type, ...] = str if isinstance(default[0], str) else (int, float)
        if isinstance(value, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
            return tuple(value)
        wanted = f"a list such as {list(default)}"
    elif default is None or isinstance(default, int | float):
        whole = isinstance(default, int) or name == "limit"
        if isinstance(value, int if whole else (int, float)) and not isinstance(value, bool):
            return value
        wanted = "a whole number" if whole else "a number"
    elif isinstance(value, str):
        return value
    else:
        wanted = f"text such as {default!r}"
    raise OptionError(f"The setting {name!r} is of the wrong type.", wanted=wanted, got=repr(value))


def _check_shares(name: str, shares: tuple[float, ...]) -> None:
    if not shares or not all(0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
        raise OptionError(
            f"{name} must be rising shares of the units.", wanted="such as 0.01, 0.05", got=repr(list(shares))
        )
