"""Start ``auditor`` commands as real processes, without paying for their imports each time.

Run as a script. Every line on stdin is an order: what to start, or what to wait for; every answer is a line on stdout.
A command is a fork that leaves the loop and becomes ``python -m auditor``: its signals, exit codes and messages are
those of a process of its own. Nothing here may start a thread: forks of threaded processes hang.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

WARM = (
    "auditor.api.compare",
    "auditor.api.profile",
    "auditor.cli.compare",
    "auditor.cli.profile",
    "auditor.cli.ranks",
    "auditor.data.builtin",
    "auditor.distributed.joining",
    "auditor.report.selectivity",
    "auditor.report.tuning",
    "auditor.selectivity.builtin",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)


def warm_up() -> None:
    """Import what a profile needs."""
    for name in WARM:
        importlib.import_module(name)
    import torch
    from matplotlib.font_manager import findfont

    torch.set_num_threads(1)
    findfont("DejaVu Sans")


def threads() -> list[str]:
    """Names of this process's threads, those of libraries included."""
    tasks = Path("/proc/self/task").glob("*/comm")
    names = [path.read_text("utf-8").strip() for path in tasks]
    # That of pandas' pyarrow stops for a fork by itself.
    return [name for name in names if name != "jemalloc_bg_thd"]


def become(order: dict[str, Any]) -> list[str]:
    """Turn a fresh fork into the command that was ordered; returns its arguments."""
    # Ignored where the tests themselves run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "err")):
        handle = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.setsid()  # Ctrl-C reaches a whole group: the command and its workers, not the tests
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    sys.path[:0] = order["path"]
    if order["file_limit"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    if not order["figures"]:
        from auditor.api.run import Run

        Run.save_figures = lambda _: []  # type: ignore[method-assign]
        if order["argv"][0] == "sweep":
            from auditor.api import finetune
            from auditor.api.compare import Comparison
            from auditor.api.sweep import Sweep

            finetune._save_history_figure = lambda _: None
            Comparison.save = lambda *_: None  # type: ignore[method-assign]
            Sweep.save_figures = lambda _: []  # type: ignore[method-assign]
        if order["argv"][0] == "ablate":
            from auditor.api.ablation_result import Ablation

            Ablation.save_figures = lambda _: []  # type: ignore[method-assign]
        if order["argv"][0] == "audit":
            from auditor.api.audit_result import Audit

            Audit.save_figures = lambda _: []  # type: ignore[method-assign]
        if order["argv"][0] == "robustness":
            from auditor.api.robustness_result import Robustness

            Robustness.save_figures = lambda _: []  # type: ignore[method-assign]
    return list(order["argv"])


def serve() -> list[str]:
    """Answer orders until stdin ends; returns in the forks only."""
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if "wait" in order:
            answer: dict[str, Any] = {"status": os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])}
        elif len(threads()) > 1:
            answer = {"error": f"the server has threads: {threads()}"}
        else:
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                return become(order)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


def end(code: int) -> NoReturn:
    """End as an interpreter does, but for the seconds that it takes to clear away what the server imported."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    warm_up()
    gc.freeze()
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    sys.argv = ["auditor", *serve()]
    try:
        runpy.run_module("auditor", run_name="__main__")
    except SystemExit as stop:
        end(stop.code if isinstance(stop.code, int) else 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        end(1)
    end(0)
