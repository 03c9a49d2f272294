"""Settings of the verb ``robustness``, with their defaults and limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from auditor.api.settings import at_least, check_confidence
from auditor.errors import OptionError, unknown_name
from auditor.perturbations.base import SEVERITIES
from auditor.registry import registry

ATTACKS = ("fgsm", "pgd")
EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
STEPS = (1, 5, 10, 20, 40)
ALL, NONE = "all", "none"
LEVELS = 255.0
PLUGIN = "auditor-corruptions"
STANDARD = 15


@dataclass(frozen=True)
class RobustnessSettings:
    """What the networks are put under.

    Parameters
    ----------
    corruptions : tuple of str
        Names, without repetition.
    severities : tuple of int
        Of 1 to 5.
    attacks : tuple of str
        ``fgsm``, ``pgd``.
    epsilons : tuple of float
        Radii of the attacks in the maximum norm, in 255ths of the range of pixels.
    steps : tuple of int
        Numbers of PGD's steps, at radius `step_epsilon`.
    pgd_steps : int
        Steps at every other radius.
    step_epsilon : float
        Also the radius of the transfer check.
    n_images : int
        At most so many of the score split, each class by its share.
    confidence : float
    seed : int
    """

    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    attacks: tuple[str, ...] = ATTACKS
    epsilons: tuple[float, ...] = EPSILONS
    steps: tuple[int, ...] = STEPS
    pgd_steps: int = 10
    step_epsilon: float = 2.0
    n_images: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for attack in self.attacks:
            if attack not in ATTACKS:
                raise unknown_name("attack", attack, ATTACKS)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise OptionError("There are five severities.", wanted="of 1, 2, 3, 4, 5", got=str(severity))
        if self.corruptions and not self.severities:
            raise OptionError("Corruptions need a severity.", fix="--severities 1,2,3,4,5")
        for epsilon in (*self.epsilons, self.step_epsilon):
            if not 0 < epsilon <= LEVELS:
                raise OptionError(
                    "Epsilon is given in 255ths of the range of pixels.", wanted="a number such as 2", got=str(epsilon)
                )
        if self.attacks and not self.epsilons:
            raise OptionError("Attacks need an epsilon.", fix="--epsilons 0.25,0.5,1,2,4,8,16")
        for steps in self.steps:
            at_least("steps", steps, 1)
        at_least("pgd_steps", self.pgd_steps, 1)
        if self.n_images < 2:
            raise OptionError("n_images must be at least 2.", got=str(self.n_images), fix="--images 2")
        check_confidence(self.confidence)
        for name in ("severities", "epsilons", "steps"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    def pgd_grid(self) -> dict[float, tuple[int, ...]]:
        """Numbers of steps at which PGD is looked at, by radius."""
        if "pgd" not in self.attacks:
            return {}
        grid = {epsilon: {self.pgd_steps} for epsilon in self.epsilons}
        grid.setdefault(self.step_epsilon, {self.pgd_steps}).update(self.steps)
        return {epsilon: tuple(sorted(steps)) for epsilon, steps in sorted(grid.items())}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def numbers(name: str, values: Iterable[float] | str, *, whole: bool = False) -> tuple[float, ...]:
    """Numbers of an option; none is cut to a whole one or read out of a text.

    Raises
    ------
    OptionError
        If they are not numbers, or not whole where they must be.
    """
    try:
        found = None if isinstance(values, str) else tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = None
    if found is None or (whole and any(value % 1 for value in found)):
        wanted = f"{'whole ' if whole else ''}numbers such as (1, 2, 4)"
        raise OptionError(f"These {name} cannot be used.", wanted=wanted, got=repr(values))
    return found


def chosen(names: str | Sequence[str], known: Sequence[str], kind: str) -> tuple[str, ...]:
    """Resolve ``"all"``, ``"none"`` and lists of names.

    Raises
    ------
    UnknownNameError
        With near matches.
    """
    if isinstance(names, str):
        names = list(known) if names == ALL else [] if names == NONE else [names]
    for name in names:
        if name not in known:
            fix = None
            if kind == "corruption" and not has_plugin():
                fix = f"The plugin package {PLUGIN} has the others of the {STANDARD} standard ones."
            raise unknown_name(kind, name, known, fix=fix)
    return tuple(dict.fromkeys(names))


def has_plugin() -> bool:
    """Whether the package with the standard corruptions is installed."""
    module = PLUGIN.replace("-", "_")
    return any(type(each).__module__.startswith(module) for each in registry().corruptions().values())


def corruption_identity(names: Sequence[str], severities: Sequence[int], size: int) -> dict[str, Any]:
    """Parameters of corruptions at a size in pixels, and the packages that hold them, for the manifest."""
    known = registry().corruptions()
    packages = packages_distributions() if names else {}
    found: dict[str, Any] = {}
    for name in names:
        corruption = known[name]
        module = type(corruption).__module__
        homes = packages.get(module.partition(".")[0], [])
        found[name] = {
            "class": f"{module}.{type(corruption).__qualname__}",
            "package": ", ".join(f"{home} {_version(home)}" for home in sorted(set(homes))),
            "parameters": {str(severity): _plain(corruption.parameters(severity, size)) for severity in severities},
        }
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return values if isinstance(values, str | bool | int | float | None) else repr(values)
