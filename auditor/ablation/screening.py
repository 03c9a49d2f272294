"""First-order estimates of single-unit ablation, for all units at once, and how well they rank the exact effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.errors import DataError, ModelError, OptionError
from auditor.hooks import on_calls
from auditor.stats.intervals import bootstrap_interval, check_confidence
from auditor.units import Site

Delta = Callable[[Site, Tensor], Tensor]
"""From a site and its maps, shape (B, units, *positions), to the change of each value by the edit."""


@dataclass(frozen=True, eq=False)
class Screening:
    """Estimated effects of editing each unit of one site alone.

    Attributes
    ----------
    loss_change : Tensor, shape (B, n_units)
        Cross-entropy after the edit minus before, in nats, for each image; float32, on the CPU.
    target_logit_drop : Tensor, shape (B, n_units)
        The label's logit before the edit minus after.
    """

    loss_change: Tensor
    target_logit_drop: Tensor


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's rank correlation of two measures over units, with a percentile bootstrap interval.

    Attributes
    ----------
    rho, low, high : float
        NaN where not defined.
    n : int
        Number of units.
    reason : str
        Why `rho` is not defined; empty if it is.
    """

    rho: float
    low: float
    high: float
    n: int
    reason: str = ""


def first_order(
    model: nn.Module, images: Tensor, labels: Tensor, sites: Sequence[Site], *, delta: Delta | None = None
) -> dict[str, Screening]:
    """Estimate the effect of editing every unit of every site, each alone.

    Changing a unit's map from a to a + delta changes a function f of the output by about ``df/da * delta``, summed over
    the map's positions, and by just that where f is linear in it. With delta = -a it is minus gradient x activation.
    One forward and two backward passes (from the loss and from the label's logit) give it for all units of all sites.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; left as it was. Parameters may require gradients or not, and get none.
    images, labels : Tensor
        Shapes (B, C, H, W) and (B,); the labels index the model's outputs. The maps of all sites are held at once.
    sites : sequence of Site
        Calls of layers; a module that is called several times is told apart by call.
    delta : callable, optional
        Returns the change of a site's maps, shape (B, units, *positions). Default: zero-ablation, ``-maps``.

    Returns
    -------
    dict of str to Screening
        By name of the site, in the order of `sites`. Zero where the output does not depend on the site.

    Raises
    ------
    ModelError
        If a site is not in the model, or is not reached by the forward pass.
    """
    if not sites:
        return {}
    kept: dict[str, Tensor] = {}

    def keep(site: Site, output: Tensor) -> Tensor:
        # Tensors of our own: others may hold the output (in-place modules, identities) and change or use it elsewhere.
        own = output.clone() if output.requires_grad else output.detach().clone().requires_grad_()
        kept[site.name] = own
        return own.clone()

    with torch.enable_grad():
        with on_calls(model, sites, keep):
            logits = model(images.detach())
        missing = [site.name for site in sites if site.name not in kept]
        if missing:
            raise ModelError(
                f"Layer {missing[0]!r} was not reached by this forward pass.",
                fix="The model takes another path for this input; leave the layer out.",
            )
        maps = [kept[site.name] for site in sites]
        # A sum of nothing, for an output that depends on no site: autograd would not start from it.
        nothing = maps[0].flatten()[:0].sum()
        labels = labels.to(logits.device)
        logit = logits.gather(1, labels[:, None]).sum() + nothing
        loss = cross_entropy(_wide(logits), labels, reduction="sum") + nothing
    logit_slopes = torch.autograd.grad(logit, maps, retain_graph=True, materialize_grads=True)
    loss_slopes = torch.autograd.grad(loss, maps, materialize_grads=True)
    found = {}
    with torch.no_grad():
        for site, *triple in zip(sites, maps, logit_slopes, loss_slopes, strict=True):
            own, logit_slope, loss_slope = (_wide(t.detach()).movedim(site.unit_axis, 1) for t in triple)
            change = -own if delta is None else delta(site, own).expand_as(own)
            found[site.name] = Screening(_by_unit(loss_slope * change), _by_unit(-logit_slope * change))
    return found


def rank_agreement(
    estimate: ArrayLike, exact: ArrayLike, *, confidence: float = 0.95, bootstraps: int = 1000, seed: int = 0
) -> RankAgreement:
    """Spearman's rank correlation of an estimate with the exact effects, over units.

    Parameters
    ----------
    estimate, exact : array_like, shape (n,)
        One value per unit, in the same order.
    confidence : float
        Of the percentile interval.
    bootstraps : int
        Resamples of units. Those in which a side is constant are left out.
    seed : int
        Of the resampling.

    Returns
    -------
    RankAgreement

    Raises
    ------
    DataError
        If the two are not lists of equal length.
    OptionError
        If `confidence` or `bootstraps` is out of range.
    """
    check_confidence(confidence)
    if bootstraps < 1:
        raise OptionError("An interval needs resamples.", wanted="bootstraps of 1 or more", got=str(bootstraps))
    first, second = np.asarray(estimate, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        got = f"{first.shape} and {second.shape}"
        raise DataError("A rank correlation needs two lists of equal length.", wanted="(n,) and (n,)", got=got)
    if reason := _undefined(first, second):
        return RankAgreement(math.nan, math.nan, math.nan, len(first), reason)
    from scipy.stats import spearmanr  # slow to import, and only needed here

    rho = float(spearmanr(first, second).statistic)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(first), size=len(first)) for _ in range(bootstraps))
    replicates = [_spearman(first[draw], second[draw]) for draw in draws]
    _, low, high = bootstrap_interval(replicates, rho, confidence, method="percentile")
    return RankAgreement(rho, float(low), float(high), len(first))


def _undefined(estimate: NDArray[np.float64], exact: NDArray[np.float64]) -> str:
    if len(estimate) < 3:
        return "fewer than 3 units"
    if not (np.isfinite(estimate).all() and np.isfinite(exact).all()):
        return "a value is not finite"
    if not np.ptp(estimate) > 0:
        return "the estimate is the same for all units"
    return "" if np.ptp(exact) > 0 else "the exact effect is the same for all units"


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    if not (np.ptp(first) > 0 and np.ptp(second) > 0):
        return math.nan
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _by_unit(maps: Tensor) -> Tensor:
    return maps.reshape(*maps.shape[:2], -1).sum(-1).float().cpu()
