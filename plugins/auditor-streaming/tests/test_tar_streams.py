from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from auditor.errors import DataError
from auditor_streaming.cursor import Cursor

Load = Callable[..., Any]
Tars = Callable[..., list[Path]]
Digits = tuple[np.ndarray, np.ndarray]

needs_curl = pytest.mark.skipif(which("curl") is None, reason="WebDataset reads the web with curl")


def pixels(data: Any, row: int) -> list[list[int]]:
    found: list[list[int]] = np.asarray(data.read(row))[..., 0].tolist()
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve the folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_a_program_is_started_once_for_each_tar(
    tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load, opened: list[str]
) -> None:
    digit_tars(tmp_path)
    data = load(f"wds:pipe:cat {tmp_path}/digits-{{000..002}}.tar")
    assert data.ids[50] == "digits-001/000050"
    places = [f"pipe:cat {tmp_path}/digits-00{part}.tar" for part in range(3)]
    assert opened == places
    opened.clear()
    rows = data.splits["select"]
    assert [pixels(data, row) for row in rows] == [digits[0][row].tolist() for row in rows]
    assert opened == places
    opened.clear()
    for row in (149, 60, 70, 60):  # the last tar is still open. Backwards, only the tar that is meant begins again
        assert pixels(data, row) == digits[0][row].tolist()
    assert opened == [places[1], places[1]]


def test_a_compressed_tar_is_opened_once(
    tmp_path: Path, digit_tars: Tars, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auditor_streaming import tar_reader

    digit_tars(tmp_path, suffix=".tar.gz", mode="w:gz")
    data = load(f"wds:{tmp_path}")
    begun: list[str] = []
    original = tar_reader.members
    monkeypatch.setattr(tar_reader, "members", lambda shard: begun.append(shard.name) or original(shard))
    for row in range(0, 150, 3):
        data.read(row)
    assert begun == ["digits-000", "digits-001", "digits-002"]


@needs_curl
def test_tars_on_a_server(tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load, server: str) -> None:
    digit_tars(tmp_path)
    data = load(f"wds:{server}/digits-{{000..002}}.tar")
    assert data.ids[149] == "digits-002/000149"
    for row in (0, 49, 50, 149, 3):
        assert pixels(data, row) == digits[0][row].tolist()
    assert data.fingerprint() == load(f"wds:{tmp_path}").fingerprint()


@needs_curl
def test_a_file_that_the_server_has_not(tmp_path: Path, digit_tars: Tars, load: Load, server: str) -> None:
    digit_tars(tmp_path)
    with pytest.raises(DataError, match=r"digits-003\.tar cannot be read: the program that reads it ended with status"):
        load(f"wds:{server}/digits-{{000..003}}.tar")


def test_a_server_that_cannot_be_reached_is_named_at_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(DataError, match=r"127\.0\.0\.1 cannot be reached"):
        load(f"wds:http://127.0.0.1:{port}/a.tar")
    assert time.monotonic() - began < 10


def test_a_program_that_fails_or_does_not_exist(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    one = digit_tars(tmp_path)[0]
    with pytest.raises(DataError, match="ended with status 3"):
        load(f"wds:pipe:head -c 3000 {one}; exit 3")
    with pytest.raises(DataError, match="cannot be read"):
        load(f"wds:pipe:head -c 3000 {one}")
    with pytest.raises(DataError, match="ended with status 127"):
        load("wds:pipe:no-such-program-at-all 2>/dev/null")


def test_a_stream_that_has_become_another(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    one, two, _ = digit_tars(tmp_path)
    data = load(f"wds:pipe:cat {one}")
    one.write_bytes(two.read_bytes())
    with pytest.raises(DataError, match="has changed since it was indexed"):
        data.read(0)


def test_programs_end_with_their_stream(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    one = digit_tars(tmp_path)[0]
    data = load(f"wds:pipe:cat {one}; exec sleep 600")
    began = time.monotonic()
    data.read(0)
    data.read._cursor.close()
    assert time.monotonic() - began < 5


def test_the_cursor_agrees_with_lists_in_any_order() -> None:
    parts = [list(range(10 * part, 10 * part + size)) for part, size in enumerate((7, 1, 0, 9))]
    cursor: Cursor[int] = Cursor(lambda part: (value for value in parts[part]))
    generator = np.random.default_rng(0)
    for _ in range(300):
        part = int(generator.choice([0, 1, 3]))
        place = int(generator.integers(len(parts[part])))
        assert cursor.read(part, place) == parts[part][place]
    with pytest.raises(DataError, match="have become shorter"):
        cursor.read(2, 0)
    with pytest.raises(DataError, match="have become shorter"):
        cursor.read(0, 7)
    assert cursor.read(0, 6) == 6


def test_the_cursor_closes_what_failed() -> None:
    closed: list[bool] = []

    def failing(_: int) -> Iterator[int]:
        try:
            yield 0
            raise DataError("cut off")
        finally:
            closed.append(True)

    cursor: Cursor[int] = Cursor(failing)  # type: ignore[arg-type]
    assert cursor.read(0, 0) == 0
    with pytest.raises(DataError, match="cut off"):
        cursor.read(0, 1)
    assert closed == [True]
    assert cursor.read(0, 0) == 0
