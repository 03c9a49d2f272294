"""Reduce every site's output to one number per unit while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.hooks.calls import on_calls
from auditor.units import Site


def pool(output: Tensor, site: Site) -> Tensor:
    """Mean over every axis but batch and units.

    Parameters
    ----------
    output : Tensor
        A site's output, batch first.
    site : Site
        Tells the unit axis.

    Returns
    -------
    Tensor
        Shape (batch, units), float32 at least; gradients flow.
    """
    axis = site.unit_axis % output.ndim
    rest = [a for a in range(1, output.ndim) if a != axis]
    # Half precision sums overflow and lose digits on large maps.
    wide = output.float() if output.dtype.itemsize < 4 else output
    return wide.mean(dim=rest) if rest else wide.clone()


class Capture:
    """Pooled responses of the latest forward pass, and on demand the whole outputs."""

    def __init__(self, sites: Sequence[Site], *, grad: bool, whole: torch.dtype | None = None) -> None:
        self.sites = tuple(sites)
        self._grad = grad
        self._whole = whole
        self._found: dict[str, Tensor] = {}
        self._maps: dict[str, Tensor] = {}

    def __call__(self, site: Site, output: Tensor) -> None:
        """Keep one site's pooled output."""
        self._found[site.name] = pool(output if self._grad else output.detach(), site)
        if self._whole is not None:
            # A copy: what follows may work in place.
            self._maps[site.name] = output.detach().to("cpu", self._whole, copy=True)

    def take(self) -> dict[str, Tensor]:
        """Hand over the responses, site name to (batch, units), in the order of the sites.

        Raises
        ------
        ModelError
            If a site was not reached by the forward pass.
        """
        found, self._found = self._found, {}
        for site in self.sites:
            if site.name not in found:
                raise ModelError(
                    f"Layer {site.name!r} was not reached by this forward pass.",
                    fix="The model takes another path for this input; leave the layer out with --layers.",
                )
        return {site.name: found[site.name] for site in self.sites}

    def take_maps(self) -> dict[str, Tensor]:
        """Hand over the whole outputs on the CPU, site name to (batch, ...); call it after :meth:`take`."""
        found, self._maps = self._maps, {}
        return {site.name: found[site.name] for site in self.sites} if self._whole is not None else {}


@contextmanager
def capture(
    model: nn.Module, sites: Sequence[Site], *, grad: bool = False, whole: torch.dtype | None = None
) -> Iterator[Capture]:
    """Pool every site's output inside its hook for the length of the block.

    Reduction happens before the hook returns, so an in-place operation that follows cannot change it.

    Parameters
    ----------
    model : torch.nn.Module
        Model to watch.
    sites : sequence of Site
        Where.
    grad : bool
        Keep the graph, so that a loss on the responses reaches the weights.
    whole : torch.dtype, optional
        Keep the whole outputs, too, as this type.

    Yields
    ------
    Capture
        ``take()`` it after each forward pass.
    """
    found = Capture(sites, grad=grad, whole=whole)
    with on_calls(model, sites, found):
        yield found
