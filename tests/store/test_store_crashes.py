"""Writers that die: real SIGKILLs, and a real limit on the file's size."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from auditor.store.reader import StoreReader

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs POSIX signals and limits")

SITES = {f"layer{i}.relu@2": 8 + i for i in range(12)}
CHILD = """
import resource, signal, sys
import numpy as np
from auditor.store.writer import StoreWriter

path, n_rows, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sites = {f"layer{i}.relu@2": 8 + i for i in range(12)}
if limit > 0:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with StoreWriter(path, sites=sites, n_rows=n_rows, n_outputs=3) as writer:
    print("ready", flush=True)
    if limit < 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-limit, -limit))
    for start in range(writer.committed, n_rows, 4):
        rows = np.arange(start, min(start + 4, n_rows))
        responses = {s: rows[:, None] + np.arange(u) / 64 for s, u in sites.items()}
        ids = [f"{i:05d}" for i in rows]
        writer.append(ids=ids, labels=rows, splits=rows % 3, logits=np.tile(rows, (3, 1)).T, responses=responses)
    writer.finish()
"""


def child(path, n_rows, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(n_rows), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def committed_rows_are_right(path):
    with StoreReader(path) as reader:
        rows = np.arange(reader.n_rows)
        np.testing.assert_array_equal(reader.labels, rows)
        np.testing.assert_array_equal(reader.splits, rows % 3)
        np.testing.assert_array_equal(reader.logits, np.tile(rows, (3, 1)).T)
        assert reader.ids == tuple(f"{i:05d}" for i in rows)
        for site, units in SITES.items():
            np.testing.assert_array_equal(reader.responses(site), rows[:, None] + np.arange(units) / 64)
        return reader.n_rows, reader.complete


def kill_and_resume(path, kills, seed):
    chance, n_rows, before = random.Random(seed), 40_000, 0
    for _ in range(kills):
        with child(path, n_rows) as process:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            time.sleep(chance.random() * 0.1)
            process.kill()
        after, complete = committed_rows_are_right(path)
        assert before <= after
        assert not complete
        before = after


def test_killed_at_any_moment_and_resumed_to_the_same_file(tmp_path):
    kill_and_resume(tmp_path / "a.h5", 10, seed=0)
    short, whole = tmp_path / "short.h5", tmp_path / "whole.h5"
    with child(short, 2000) as process:
        process.stdout.readline()
        process.kill()
    for path in (short, whole):
        with child(path, 2000) as process:
            _, problem = process.communicate()
            assert process.returncode == 0, problem
        assert committed_rows_are_right(path) == (2000, True)
    assert short.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_killed_fifty_times(tmp_path):
    kill_and_resume(tmp_path / "a.h5", 50, seed=1)


def test_no_room_is_a_clear_error_and_leaves_no_file(tmp_path):
    path = tmp_path / "a.h5"
    with child(path, 40_000, limit=1_000_000) as process:
        _, problem = process.communicate()
    assert process.returncode == 1
    assert "StoreError" in problem
    assert "File too large" in problem
    assert "Exception ignored" not in problem
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_writes_that_fail_midway_keep_the_committed_rows(tmp_path):
    path = tmp_path / "a.h5"
    with child(path, 4000, limit=-700_000) as process:
        _, problem = process.communicate()
    assert process.returncode == 1
    assert "rows are safe" in problem
    assert "Exception ignored" not in problem
    committed_rows_are_right(path)
    with child(path, 4000) as process:
        _, problem = process.communicate()
        assert process.returncode == 0, problem
    assert committed_rows_are_right(path) == (4000, True)
