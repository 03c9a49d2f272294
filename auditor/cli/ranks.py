"""A command as one of several processes: one of them speaks, and none is left behind when another is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from auditor.distributed.launch import Launch
from auditor.errors import AuditorError, OptionError

if TYPE_CHECKING:
    from auditor.distributed.watch import Watch

SHARED = ("profile", "ablate", "finetune", "sweep")
"""Commands whose work is divided among ranks."""
INTERRUPTED = "\nInterrupted. What was finished is kept: repeat the command to go on."


def check_shared(name: str, launch: Launch) -> None:
    """Refuse to run in several processes what does not divide its work.

    Raises
    ------
    OptionError
    """
    if name not in SHARED:
        raise OptionError(
            f"`auditor {name}` runs in one process.",
            wanted=f"one process, or one of {', '.join(SHARED)}",
            got=f"{launch.size} processes",
            fix="Leave out torchrun or srun.",
        )


def invoke_as_rank(launch: Launch, invoke: Callable[[], Any]) -> Any:
    """Run a command as a rank of `launch`; what goes wrong is said once, by one rank."""
    if launch.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the rest of the process
    # When a rank is lost, torch's own warnings of broken connections fill screens around what is said here.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from auditor.distributed.joining import joined

    try:
        with joined(launch) as world:
            assert world.watch is not None
            return _watched(world.watch, invoke, speaks=world.main)
    except (AuditorError, KeyboardInterrupt):  # they did not meet: it is the same for all ranks of a machine
        if launch.local_rank == 0:
            raise
        sys.exit(1)


def _watched(watch: Watch, invoke: Callable[[], Any], *, speaks: bool) -> Any:
    try:
        return invoke()
    except (click.exceptions.Exit, SystemExit):  # --help and its like
        watch.leave()
        raise
    except click.ClickException:
        watch.fail("the command was not understood")
        if speaks:
            raise
        sys.exit(2)
    except AuditorError as error:
        if watch.fail(str(error)):
            click.echo(f"Error: {error}", err=True)
    except KeyboardInterrupt:
        told = watch.interrupted()
        if told is not None:
            click.echo(f"\nError: {told}", err=True)
        elif speaks:
            click.echo(INTERRUPTED, err=True)
    except Exception as error:
        # A collective operation fails on all ranks when one is lost: that one is what there is to tell.
        watch.blame()
        watch.fail(f"{type(error).__name__}: {error}")
        raise
    # Not sys.exit: threads of libraries may wait for a rank that is gone.
    sys.stderr.flush()
    os._exit(1)
