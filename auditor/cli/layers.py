"""``auditor layers``."""

from __future__ import annotations

from typing import Any

import click

from auditor.cli.console import print_json, print_lines, print_table, reporter
from auditor.cli.options import Numbers, model_options, output_options, seed_option


@click.command("layers")
@model_options
@click.option(
    "--input-size",
    type=Numbers(1, 2, 3),
    metavar="SIZE",
    help="Input in pixels: SIZE, H,W or C,H,W; a network for one size is built for this one.  "
    "[default: the model's own]",
)
@seed_option
@output_options
def command(*, layers: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """List the sites of a model: calls of layers, their units and output shapes.

    The architecture is probed with one batch; no weights are loaded unless a checkpoint is named.
    """
    from auditor.api.layers import list_sites

    sites = list_sites(layers=list(layers) or "activations", reporter=reporter(quiet=quiet or as_json), **options)
    if as_json:
        print_json([{"name": site.name, **site.to_dict()} for site in sites])
        return
    print_table(
        f"Sites of {options['model']}",
        [("site", "left"), ("kind", "left"), ("units", "right"), ("output", "right"), ("unit axis", "right")],
        [(s.name, s.kind, str(s.n_units), " x ".join(map(str, s.shape)), str(s.unit_axis)) for s in sites],
    )
    print_lines([f"{len(sites)} sites, {sum(site.n_units for site in sites)} units."])
