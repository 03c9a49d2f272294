"""``auditor report``."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.cli.console import print_json, print_lines, reporter
from auditor.cli.options import output_options, runs_option


@click.command("report")
@click.option("--run", "run_name", metavar="NAME", help="Name or path of a run.  [default: the one audited last]")
@runs_option
@click.option("--audit", "audit_name", metavar="NAME", help="Audit of the run.  [default: the latest]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@output_options
def command(
    *, run_name: str | None, runs: str, audit_name: str | None, device: str, as_json: bool, quiet: bool
) -> None:
    """Build the report of a run's audit again, figures included."""
    from auditor.api.audit_result import Audit
    from auditor.api.forward import Execution
    from auditor.api.run import Run

    audit = Audit.open(Run.open(run_name or _audited(runs), runs=runs), audit_name)
    audit.save_figures()
    path = audit.write_report(execution=Execution(device=device), reporter=reporter(quiet=quiet))
    if as_json:
        print_json({"report": str(path), "audit": str(audit.path)})
    else:
        print_lines([f"Report: {path}"])


def _audited(runs: str) -> str | None:
    """Folder of the run that was audited last; the latest run may be a network that was fine-tuned for an audit."""
    found = sorted(Path(runs).glob("*/audits/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    return str(found[-1].parents[2]) if found else None
