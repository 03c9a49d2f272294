"""Give each call of a layer a module of its own, for libraries that address layers by module.

Captum hooks modules, not calls: on a module that runs twice in a forward pass it measures the last call. A tap is an
identity module fed with one call's output, so a library that hooks the tap reads and replaces just that call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from auditor.hooks.calls import on_calls
from auditor.units import Site


@contextmanager
def taps(model: nn.Module, sites: Sequence[Site]) -> Iterator[Mapping[str, nn.Identity]]:
    """Route every site's output through an identity module for the length of the block.

    Yields
    ------
    mapping of str to torch.nn.Identity
        Site name to the module whose output is that call's output.
    """
    identities = {site.name: nn.Identity() for site in sites}

    def through(site: Site, output: Tensor) -> Tensor:
        tapped: Tensor = identities[site.name](output)
        return tapped

    with on_calls(model, sites, through):
        yield identities
