"""How strongly each unit's response depends on the pixels of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.errors import ModelError, OptionError
from auditor.hooks.capture import capture
from auditor.models.trace import evaluating
from auditor.units import Site


def sample_units(n_units: int, n: int, *, seed: int, site: int = 0) -> NDArray[np.int64]:
    """Draw `n` of a site's units without replacement, sorted; all of them where there are no more.

    Parameters
    ----------
    n_units, n : int
    seed : int
    site : int
        The site's number, so that sites of equal width get different units.
    """
    if n >= n_units:
        return np.arange(n_units, dtype=np.int64)
    return np.sort(np.random.default_rng([seed, 71, site]).choice(n_units, size=n, replace=False)).astype(np.int64)


def input_unit_gradients(
    model: nn.Module,
    pixels: Tensor,
    sites: Sequence[Site],
    units: Mapping[str, NDArray[np.int64]],
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Euclidean norm of the gradient of every unit's pooled response with respect to every image's pixels.

    ``||d a_u / d x||_2`` (Leavitt & Morcos 2020, "On the relationship between class selectivity, dimensionality, and
    robustness", where its variability over samples and units is set against selectivity). The model runs forward
    once for all sites; each unit then takes one backward pass from its own site down to the pixels, for all images at
    once and without gradients of weights. The cost is that of ``sum over sites of units x depth of the site``
    backward passes.

    Parameters
    ----------
    model : torch.nn.Module
        Put into eval mode for the length of the call: batch statistics would let images depend on one another.
    pixels : Tensor, shape (B, C, H, W)
        Images before the normalisation, so that norms are in responses per unit of pixel intensity.
    sites : sequence of Site
    units : mapping of str to ndarray of int64
        Which units of each site, by the site's name.
    forward : callable, optional
        From pixels to an output that depends on that of `model`, which it calls: the model with its normalisation
        inside. Default: the model itself.

    Returns
    -------
    dict
        Site name to an array of shape (B, number of the site's units); 0 where a unit is silent.

    Raises
    ------
    OptionError
        If a unit does not exist.
    ModelError
        If responses do not depend on the pixels in a way that autograd can follow.
    """
    for site in sites:
        wanted = units[site.name]
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < site.n_units):
            raise OptionError(
                f"The layer {site.name!r} has no such unit.",
                wanted=f"0 to {site.n_units - 1}",
                got=f"{wanted.min()} to {wanted.max()}",
            )
    found: dict[str, NDArray[np.float32]] = {}
    with torch.enable_grad(), evaluating(model), capture(model, sites, grad=True) as responses:
        leaf = pixels.detach().clone().requires_grad_()
        (model if forward is None else forward)(leaf)
        for name, pooled in responses.take().items():
            if not pooled.requires_grad:
                raise ModelError(
                    f"The layer {name!r} has no gradient with respect to the image.",
                    fix="The model detaches it or runs without gradients; leave the layer out with --layers.",
                )
            norms = [_norm(pooled[:, int(unit)], leaf) for unit in units[name]]
            found[name] = torch.stack(norms, dim=1).cpu().numpy() if norms else np.empty((len(leaf), 0), np.float32)
    return found


def _norm(response: Tensor, leaf: Tensor) -> Tensor:
    """Norm of each image's gradient; images do not depend on one another, so one pass does for all."""
    (gradient,) = torch.autograd.grad(response.sum(), leaf, retain_graph=True)
    norm: Tensor = gradient.flatten(1).float().norm(dim=1)
    return norm
