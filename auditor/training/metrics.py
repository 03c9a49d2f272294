"""Differentiable measures of selectivity, for the regularizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from auditor.errors import AuditorError, PluginError, unknown_name
from auditor.training.classes import ClassStatistics

EPSILON = 1e-7


class TrainingMetric(ABC):
    """A differentiable selectivity of every unit, from statistics of its responses to each class.

    Units are scored independently of each other, so all layers can be scored at once.

    Attributes
    ----------
    name : str
        What follows ``--metric``.
    label : str
        For figures.
    non_negative : bool
        Whether it is defined for non-negative responses only.
    needs_variance : bool
        Whether it needs the variances of the classes, too.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    non_negative: ClassVar[bool]
    needs_variance: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, classes: ClassStatistics) -> Tensor:
        """Score units: statistics of K classes, at least two of them, and U units in, scores (U,) out.

        Must be bounded, or training with a positive alpha diverges, and have a finite gradient everywhere: a unit that
        is silent on the whole batch should score 0 and get none.
        """


class SelectivityIndex(TrainingMetric):
    """The class selectivity index, ``(mu_max - mu_rest) / (mu_max + mu_rest + epsilon)``.

    ``mu_rest`` is the unweighted mean of the other classes' means (Morcos et al. 2018); as a regularizer in Leavitt &
    Morcos (2020), "Selectivity considered harmful: evaluating the causal impact of class selectivity in DNNs".

    Parameters
    ----------
    epsilon : float
        Added to the denominator.
    """

    name: ClassVar[str] = "index"
    label: ClassVar[str] = "class selectivity index"
    non_negative: ClassVar[bool] = True

    def __init__(self, epsilon: float = EPSILON) -> None:
        self.epsilon = epsilon

    def __call__(self, classes: ClassStatistics) -> Tensor:
        """Score units; see :meth:`TrainingMetric.__call__`."""
        top = classes.mean.amax(0)
        rest = (classes.total - top) / (len(classes.mean) - 1)
        total = top + rest
        # Where everything is zero the quotient's gradient is 1 / epsilon; a silent unit must not receive it.
        silent = total <= 0
        index = (top - rest) / (torch.where(silent, 1.0, total) + self.epsilon)
        return torch.where(silent, 0.0, index)


class BoundedDPrime(TrainingMetric):
    """The sensitivity index d' in the bounded form ``d' / sqrt(d'^2 + 4)``; defined for signed responses.

    d' of a class is ``(mu_in - mu_out) / sqrt((var_in + var_out) / 2)`` against all samples of the others, and the
    largest over classes counts. d' itself has no upper bound, and its gradient grows as the variance shrinks; the
    bounded form is the correlation between response and class that belongs to it in two groups of equal size (Cohen
    1988, *Statistical Power Analysis*, eq. 2.2.6), and lies in (-1, 1). Classes of one sample cannot be the preferred
    one; where every class is, units score 0.
    """

    name: ClassVar[str] = "dprime"
    label: ClassVar[str] = "d' / sqrt(d'² + 4)"
    non_negative: ClassVar[bool] = False
    needs_variance: ClassVar[bool] = True

    def __call__(self, classes: ClassStatistics) -> Tensor:
        """Score units; see :meth:`TrainingMetric.__call__`."""
        assert classes.variance is not None
        n_in, n_all = classes.count[:, None], classes.count.sum()
        n_out = n_all - n_in
        grand = (n_in * classes.mean).sum(0) / n_all
        each = classes.mean - grand
        within = (n_in - 1) * classes.variance
        around = n_in * each.square()
        # Sum of squares of the samples outside of a class around their own mean.
        outside = (within + around).sum(0) - within - around - n_in.square() / n_out * each.square()
        spread = 2 * (classes.variance + outside.clamp(min=0) / (n_out - 1).clamp(min=1))
        difference = each * n_all / n_out
        size = difference.square() + spread
        usable = (n_in > 1) & (n_out > 1) & (size > torch.finfo(size.dtype).tiny)
        score = difference / torch.where(usable, size, 1.0).sqrt()
        best = torch.where(usable, score, -torch.inf).amax(0)
        return torch.where(torch.isfinite(best), best, 0.0)


def score_units(metric: TrainingMetric, classes: ClassStatistics) -> Tensor:
    """Call a metric, which may be a plugin's.

    Raises
    ------
    PluginError
        If it fails, or gives anything but one score per unit.
    """
    try:
        found: object = metric(classes)
    except AuditorError:
        raise
    except Exception as error:
        raise PluginError(f"The training metric {metric.name!r} failed: {type(error).__name__}: {error}") from error
    units = classes.mean.shape[1:]
    if not isinstance(found, Tensor) or found.shape != units:
        raise PluginError(
            f"The training metric {metric.name!r} broke its contract.",
            wanted=f"a tensor of shape {tuple(units)}, one score per unit",
            got=f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__,
        )
    return found


def training_metric(name: str) -> TrainingMetric:
    """Look up a training metric.

    Raises
    ------
    UnknownNameError
        With near matches, if there is none of that name.
    """
    from auditor.registry import registry

    metrics = registry().training_metrics()
    if name not in metrics:
        raise unknown_name("training metric", name, metrics, fix="`auditor plugins` lists what is installed.")
    return metrics[name]
