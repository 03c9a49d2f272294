"""``auditor plugins``."""

from __future__ import annotations

import click

from auditor.cli.console import print_json, print_lines, print_table


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(*, as_json: bool) -> None:
    """List plugins and what they and auditor itself provide."""
    from auditor.registry import registry

    found = registry()
    metrics = {name: metric.label for name, metric in found.metrics().items()}
    sources = list(found.data_sources())
    edits, corruptions, training = list(found.edits()), list(found.corruptions()), list(found.training_metrics())
    broken = {name: error.message for name, error in found.broken.items()}
    if as_json:
        provided = {
            "metrics": metrics,
            "data_sources": sources,
            "edits": edits,
            "corruptions": corruptions,
            "training_metrics": training,
        }
        print_json({"plugins": found.plugins(), **provided, "broken": broken})
        return
    print_table("Plugins", [("name", "left"), ("module", "left")], list(found.plugins().items()))
    print_table("Selectivity metrics", [("name", "left"), ("what it is", "left")], list(metrics.items()))
    print_lines(
        [
            f"Data sources: {', '.join(sources)}.",
            f"Edits: {', '.join(edits)}.",
            f"Corruptions: {', '.join(corruptions)}.",
            f"Training metrics: {', '.join(training)}.",
            *broken.values(),
        ]
    )
