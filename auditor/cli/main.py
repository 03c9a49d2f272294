"""The command ``auditor``: finds its subcommands without importing what they need."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import click

from auditor import __version__
from auditor.distributed.launch import Launch
from auditor.errors import AuditorError

# Help texts stand here so that `auditor --help` imports neither torch nor the commands.
COMMANDS = {
    "profile": "Stream data through a model, store activations, score selectivity.",
    "ablate": "Silence the most selective units, alone and together, against matched random sets.",
    "finetune": "Train on with the selectivity regularizer, profile the result, compare.",
    "sweep": "Fine-tune with many alphas and seeds: accuracy against selectivity.",
    "robustness": "Accuracy under natural corruptions and white-box attacks, for a run or a sweep.",
    "geometry": "Dimensionality of layers, input-unit gradients, and whether selectivity is only rotated.",
    "audit": "Test whether selective units are causally important; verdicts and an HTML report.",
    "report": "Build the report of an audit again.",
    "compare": "Put runs side by side: accuracy, selectivity by layer, dead units.",
    "plan": "What a job will take: units, operations, bytes and time, before anything is spent.",
    "layers": "List the sites of a model that can be audited.",
    "models": "List the architectures that --model takes.",
    "runs": "List the runs.",
    "plugins": "List plugins, metrics and data sources.",
}


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to end (SIGTERM: a scheduler, a shutdown) stop the work as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        if isinstance(ctx.obj, Launch):
            from auditor.cli.ranks import check_shared

            check_shared(cmd_name, ctx.obj)
        command: click.Command = import_module(f"auditor.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the texts above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the closest command for a misspelt one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            closest = get_close_matches(args[0], COMMANDS, n=1)
            if closest:
                raise click.UsageError(f"{error.message} Did you mean {closest[0]!r}?", ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Turn expected errors into one message and exit code 1."""
        try:
            with _terminable():
                launch = Launch.of_environment()
                if launch is None:
                    return super().invoke(ctx)
                from auditor.cli.ranks import invoke_as_rank

                ctx.obj = launch
                return invoke_as_rank(launch, partial(super().invoke, ctx))
        except AuditorError as error:
            click.echo(f"Error: {error}", err=True)
        except OSError as error:
            from auditor.store.disk import cannot_write, is_full

            if not is_full(error):
                raise
            click.echo(f"Error: {cannot_write(error.filename or 'The output', error)}", err=True)
        except KeyboardInterrupt:
            click.echo("\nInterrupted. What was finished is kept: repeat the command to go on.", err=True)
        sys.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="auditor")
def main() -> None:
    """Find out whether the neurons that are easy to interpret are causally important.

    Start with `auditor profile --model resnet18`, then `auditor ablate --top-selective 100` and
    `auditor finetune --alpha -1`. Without --data, scikit-learn's handwritten digits are used.
    """
