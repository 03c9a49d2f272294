"""``auditor models``."""

from __future__ import annotations

import click

from auditor.cli.console import print_json, print_lines


@click.command("models")
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(*, pattern: str | None, as_json: bool) -> None:
    """List the architectures that --model takes, those that match the glob PATTERN only."""
    from auditor.models import available_models

    found = [spec.spec for spec in available_models(pattern)]
    if as_json:
        print_json(found)
    else:
        print_lines(found or [f"No architecture matches {pattern!r}; try *{pattern}*."])
