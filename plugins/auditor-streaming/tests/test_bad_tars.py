from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.data.base import UnreadableImageError
from auditor.errors import DataError

Load = Callable[..., Any]
WriteTar = Callable[..., Path]


@pytest.fixture
def members(png: Callable[..., bytes]) -> dict[str, bytes]:
    """Eight samples of two classes, ``0.png`` and ``0.cls`` and so on."""
    found: dict[str, bytes] = {}
    for row in range(8):
        found[f"{row}.png"] = png(np.full((20, 20), row, np.uint8))
        found[f"{row}.cls"] = str(row % 2).encode()
    return found


@pytest.mark.parametrize(
    "change,message",
    [
        ({"3.cls": None}, "image without a label: 3"),
        ({"3.cls": b""}, "3.cls, whose label is empty"),
        ({"3.cls": b"\xff\xfe"}, "3.cls, which is not text"),
        ({"3.cls": b"cat"}, "partly numbers, partly text"),
        ({"3.cls": b"1.5"}, "partly numbers, partly text"),
        ({"3.cls": b"x" * 2_000_000}, "a label of 2,000,000 bytes"),
        ({"3.cls": b"-1"}, "labels that name no class"),
        ({"3.cls": b"9" * 17}, "not class numbers"),
        ({"3.cls": None, "3.json": b'{"label": %s}' % (b"9" * 30)}, "3.json, whose label is too large"),
        ({"3.cls": None, "3.json": b"{"}, "3.json, which is not JSON"),
        ({"3.cls": None, "3.json": b"[" * 100_000}, "3.json, which is not JSON"),
        ({"3.cls": None, "3.json": b"[1]"}, "image without a label: 3"),
        ({"3.cls": None, "3.json": b'{"label": 1.0}'}, "3.json, whose label is of type float"),
        ({"3.cls": None, "3.json": b'{"label": true}'}, "3.json, whose label is of type bool"),
        ({"3.jpg": b""}, r"several images of 3: \.png and \.jpg"),
        ({f"{row}.png": None for row in range(8)}, "no labelled images"),
        ({f"{row}.{kind}": None for row in range(8) for kind in ("png", "cls")}, "no labelled images"),
    ],
)
def test_unusable_samples(
    tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load, change: Any, message: str
) -> None:
    kept = {name: content for name, content in (members | change).items() if content is not None}
    path = write_tar(tmp_path / "pets.tar", kept.items())
    with pytest.raises(DataError, match=message) as caught:
        load(f"wds:{path}")
    assert not isinstance(caught.value, UnreadableImageError)


def test_a_broken_or_missing_image_is_that_images_matter(
    tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load
) -> None:
    members["2.png"] = members["2.png"][:40]
    members["4.png"] = b""
    del members["6.png"]
    for path in (
        write_tar(tmp_path / "pets.tar", members.items()),
        write_tar(tmp_path / "pets.tar.gz", members.items(), "w:gz"),
    ):
        data = load(f"wds:{path}")
        assert data.ids == tuple(f"pets/{row}" for row in (0, 1, 2, 3, 4, 5, 7, 6))
        reasons = {2: "pets/2 cannot be read", 4: "pets/4 cannot be read: the file is empty", 7: "pets/6 has no image"}
        for index in range(8):
            if index in reasons:
                with pytest.raises(UnreadableImageError, match=reasons[index]):
                    data.read(index)
            else:
                assert np.asarray(data.read(index)).max() == int(data.ids[index][-1])


def test_a_name_that_occurs_twice(tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load) -> None:
    path = write_tar(tmp_path / "pets.tar", [*members.items(), ("3.png", members["3.png"])])
    with pytest.raises(DataError, match=r"holds 3\.png twice"):
        load(f"wds:{path}")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("end", ["in a header", "in an image", "between members", "after one block", "at once"])
def test_a_truncated_tar(
    tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load, compressed: bool, end: str
) -> None:
    whole = write_tar(tmp_path / "whole.tar", members.items()).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        last = tar.getmembers()[-2]  # the last image
    at = {
        "in a header": last.offset + 100,
        "in an image": last.offset_data + 10,
        "between members": last.offset,
        "after one block": 512,
        "at once": 0,
    }[end]
    path = tmp_path / "pets.tar"
    path.write_bytes(gzip.compress(whole[:at]) if compressed else whole[:at])
    with pytest.raises(DataError, match=r"pets\.tar cannot be read"):
        load(f"wds:{path}")


@pytest.mark.parametrize("content", [b"no tar at all" * 100, b"\x1f\x8b broken", b"\x00" * 100])
def test_what_is_no_tar(tmp_path: Path, load: Load, content: bytes) -> None:
    path = tmp_path / "pets.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pets\.tar cannot be read"):
        load(f"wds:{path}")


def test_a_header_that_is_damaged_in_the_middle(
    tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load
) -> None:
    path = write_tar(tmp_path / "pets.tar", members.items())
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        content[tar.getmembers()[5].offset] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(DataError, match="bad checksum"):
        load(f"wds:{path}")


@pytest.mark.parametrize("suffix,mode", [(".tar", "w"), (".tar.gz", "w:gz")])
def test_a_tar_that_changes_or_vanishes_while_it_is_in_use(
    tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load, suffix: str, mode: str
) -> None:
    path = write_tar(tmp_path / f"pets{suffix}", members.items(), mode)
    data = load(f"wds:{path}")
    write_tar(path, [*members.items(), ("8.png", members["0.png"]), ("8.cls", b"1")], mode)
    with pytest.raises(DataError, match="has changed since it was indexed"):
        data.read(3)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file") as caught:
        data.read(3)
    assert not isinstance(caught.value, UnreadableImageError)


def test_two_samples_of_one_key(tmp_path: Path, write_tar: WriteTar, members: dict[str, bytes], load: Load) -> None:
    write_tar(tmp_path / "a" / "x.tar", [(f"b/{name}", content) for name, content in members.items()])
    write_tar(tmp_path / "a" / "x" / "b.tar", members.items())
    write_tar(tmp_path / "b" / "x" / "b.tar", members.items())
    assert len(load(f"wds:{tmp_path}/a/x.tar::{tmp_path}/a/x/b.tar")) == 16
    link = tarfile.TarInfo("9.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a" / "x.tar", "a") as tar:
        tar.addfile(link)
    assert len(load(f"wds:{tmp_path}/a/x.tar")) == 8  # a link is no file of the tar


def test_a_list_may_not_hold_commands(tmp_path: Path, load: Load) -> None:
    (tmp_path / "list.txt").write_text(f"pipe:touch {tmp_path / 'ran'}\n")
    with pytest.raises(DataError, match="holds a command, which is refused"):
        load(f"wds:{tmp_path / 'list.txt'}")
    assert not (tmp_path / "ran").exists()
