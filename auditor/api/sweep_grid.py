"""Which networks a sweep consists of, and what makes two sweeps the same."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from auditor.api.finetune import finetune
from auditor.api.run import Run
from auditor.errors import OptionError, unknown_name
from auditor.training import TrainingPlan

# Where and how the work runs, and what the sweep itself decides: no part of what a network is.
EXECUTION = ("device", "workers", "max_bad", "cache_images")
OWN = ("run", "alpha", "seed", "name", "runs", "reporter")
PLANNED = tuple(field.name for field in fields(TrainingPlan) if field.name not in OWN)


@dataclass(frozen=True, order=True)
class Cell:
    """One network of a sweep.

    Attributes
    ----------
    alpha : float
    seed : int
    """

    alpha: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder; different alphas have different names."""
        short = f"{self.alpha:g}"
        return f"alpha-{short if float(short) == self.alpha else repr(self.alpha)}-seed{self.seed}"

    def __str__(self) -> str:
        return f"alpha {self.alpha:g}, seed {self.seed}"


def grid(alphas: Iterable[float], seeds: int | Sequence[int]) -> list[Cell]:
    """Every alpha with every seed, alpha 0 among them, in the order of the work.

    The first seed comes first with all alphas, so that a sweep that is stopped shows the whole range.

    Parameters
    ----------
    alphas : iterable of float
    seeds : int or sequence of int
        A count stands for 0, 1, 2, ...

    Raises
    ------
    OptionError
        If one is not a number, or there is none.
    """
    chosen = sorted({float(alpha) + 0.0 for alpha in alphas}, key=lambda alpha: (abs(alpha), alpha))
    if not chosen or not all(map(math.isfinite, chosen)):
        raise OptionError("A sweep needs finite values of alpha.", wanted="such as -2,-1,0,1,2", got=str(chosen))
    if isinstance(seeds, int):
        if seeds < 1:
            raise OptionError("A sweep needs a seed.", wanted="a count of 1 or more, or the seeds", got=str(seeds))
        seeds = range(seeds)
    numbers = list(dict.fromkeys(int(seed) for seed in seeds))
    if not numbers or min(numbers) < 0:
        raise OptionError("A sweep's seeds are integers of 0 or more.", got=str(numbers))
    if 0.0 not in chosen:
        chosen.insert(0, 0.0)
    return [Cell(alpha, seed) for seed in numbers for alpha in chosen]


def plans(cells: Iterable[Cell], training: dict[str, Any]) -> list[TrainingPlan]:
    """Plan of every cell, so that an option that cannot be is found before work is spent.

    Parameters
    ----------
    cells : iterable of Cell
    training : dict
        Options of :func:`auditor.finetune`.

    Raises
    ------
    OptionError, UnknownNameError
        If an option does not exist or cannot have its value.
    """
    free = [name for name in inspect.signature(finetune).parameters if name not in OWN]
    for name in training:
        if name not in free:
            raise unknown_name("training option", name, free)
    planned = {name: training[name] for name in PLANNED if name in training}
    return [TrainingPlan(**planned, alpha=cell.alpha, seed=cell.seed) for cell in cells]


def identity(run: Run, plan: TrainingPlan, training: dict[str, Any]) -> dict[str, Any]:
    """What all networks of a sweep share; options that are left out count with their defaults.

    Parameters
    ----------
    run : Run
        Where training starts.
    plan : TrainingPlan
        Of any of its cells.
    training : dict
    """
    known = inspect.signature(finetune).parameters
    rest = [name for name in known if name not in (*OWN, *EXECUTION, *PLANNED)]
    return {
        "parent": run.manifest.digest(),
        "plan": {name: value for name, value in plan.to_dict().items() if name not in ("alpha", "seed")},
        **{name: training.get(name, known[name].default) for name in rest},
    }
