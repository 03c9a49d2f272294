"""Processes that read images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# What a worker does when it hands over a tensor: a thread waits for who fetches it.
PROGRAM = """
import socket
from multiprocessing import connection, process, resource_sharer

from auditor.data.torch_data import prepare_worker

{prepare}
address = resource_sharer.DupFd(1)._id[0]
{meanwhile}
resource_sharer.DupFd(1).detach()  # the thread serves one after the other: it is through with what was before
print("fetched")
"""
GONE = "socket.socket(socket.AF_UNIX).connect(address)"  # interrupted in the middle of a fetch
WRONG = "connection.Client(address, authkey=process.current_process().authkey).send(('no such key', 0))"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tensors travel otherwise")


def run(folder: Path, meanwhile: str, prepare: str = "prepare_worker(0)") -> str:
    program = PROGRAM.format(prepare=prepare, meanwhile=meanwhile)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "fetched\n"), done
    return done.stderr


def test_a_broken_connection_is_no_traceback(tmp_path: Path) -> None:
    assert "in _serve" in run(tmp_path, GONE, prepare="")  # or the next line would show nothing
    assert run(tmp_path, GONE) == ""


def test_other_errors_are_printed(tmp_path: Path) -> None:
    assert "KeyError: 'no such key'" in run(tmp_path, WRONG)
