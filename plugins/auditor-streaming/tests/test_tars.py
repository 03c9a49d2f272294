from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.errors import DataError, OptionError, UnknownNameError
from auditor.registry import Registry
from auditor_streaming import tar_index
from auditor_streaming.shards import find_shards

Load = Callable[..., Any]
Tars = Callable[..., list[Path]]
Digits = tuple[np.ndarray, np.ndarray]


def check_equal(data: Any, digits: Digits) -> None:
    assert data.classes == tuple("0123456789")
    np.testing.assert_array_equal(data.labels, digits[1])
    assert data.ids == tuple(f"digits-{row // 50:03d}/{row:06d}" for row in range(150))
    for row in (149, 0, 51, 50, 7):
        np.testing.assert_array_equal(np.asarray(data.read(row)), np.repeat(digits[0][row][..., None], 3, axis=2))


@pytest.mark.parametrize("pattern", ["digits-{000..002}.tar", "digits-*.tar", "", "digits-00[0-2].tar", "list.txt"])
def test_every_way_to_name_the_tars(tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load, pattern: str) -> None:
    digit_tars(tmp_path)
    (tmp_path / "list.txt").write_text("# three\ndigits-000.tar\n\ndigits-{001..002}.tar\n")
    data = load(f"wds:{tmp_path / pattern}")
    check_equal(data, digits)
    assert data.name == "digits-of-yours"  # which is the embedded data's own name


def test_several_patterns_and_file_urls(tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load) -> None:
    one, two, three = digit_tars(tmp_path)
    check_equal(load(f"wds:{one}::file:{two}::{three}"), digits)


@pytest.mark.parametrize("suffix,mode", [(".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz"), (".tar", "w:bz2")])
def test_compressed_tars(tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load, suffix: str, mode: str) -> None:
    digit_tars(tmp_path, suffix=suffix, mode=mode)
    check_equal(load(f"wds:{tmp_path}/digits-*{suffix}"), digits)


def test_labels_from_json(tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load) -> None:
    digit_tars(tmp_path / "label", label="label")
    check_equal(load(f"wds:{tmp_path}/label"), digits)
    digit_tars(tmp_path / "species", label="species")
    check_equal(load(f"wds:{tmp_path}/species?label=species"), digits)
    data = load(f"wds:{tmp_path}/species?label=text")
    assert data.classes == tuple(f"digit {number}" for number in range(10))
    np.testing.assert_array_equal(data.labels, digits[1])


def test_classes_are_named_by_a_list(tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load) -> None:
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    digit_tars(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"shardlist": []}))
    assert load(f"wds:{tmp_path}").classes == tuple("0123456789")
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": names}))
    assert load(f"wds:{tmp_path}").classes == tuple(names)
    (tmp_path / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    assert load(f"wds:{tmp_path}").classes == tuple(reversed(names))
    np.testing.assert_array_equal(load(f"wds:{tmp_path}").labels, digits[1])
    assert load(f"wds:{tmp_path}?classes={tmp_path / 'dataset.json'}").classes == tuple(names)
    (tmp_path / "classes.txt").write_text("zero\n")
    with pytest.raises(DataError, match="labels that name no class"):
        load(f"wds:{tmp_path}")
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json cannot be read as a list of classes"):
        load(f"wds:{tmp_path}")


def test_text_labels_are_numbered_by_the_list(
    tmp_path: Path, write_tar: Callable[..., Path], png: Callable[..., bytes], load: Load
) -> None:
    picture = png(np.zeros((4, 4), np.uint8))
    members = [
        one
        for row, name in enumerate(["owl", "cat"] * 4)
        for one in ((f"{row}.png", picture), (f"{row}.cls", name.encode()))
    ]
    write_tar(tmp_path / "pets.tar", members)
    data = load(f"wds:{tmp_path / 'pets.tar'}")
    assert (data.name, data.classes, data.labels.tolist()) == ("pets", ("cat", "owl"), [1, 0] * 4)
    (tmp_path / "classes.txt").write_text("owl\ndog\ncat\n")
    assert load(f"wds:{tmp_path / 'pets.tar'}").labels.tolist() == [0, 2] * 4
    (tmp_path / "classes.txt").write_text("owl\ndog\ncat\n", encoding="utf-8-sig")  # as some editors write it
    assert load(f"wds:{tmp_path / 'pets.tar'}").labels.tolist() == [0, 2] * 4
    (tmp_path / "classes.txt").write_text("owl\n")
    with pytest.raises(DataError, match="'cat' is not in the list"):
        load(f"wds:{tmp_path / 'pets.tar'}")


def test_members_in_any_order_and_of_other_kinds(
    tmp_path: Path, write_tar: Callable[..., Path], digits: Digits, png: Callable[..., bytes], load: Load
) -> None:
    labels = [(f"a/{row}.cls", b" 1\n" if row % 2 else b"0") for row in range(8)]
    images = [(f"./a/{row}.PNG", png(digits[0][row])) for row in (3, 0, 1, 2, 7, 6, 5, 4)]
    evil = [(f"a/{row}.pyd", b"cos\nsystem\n(S'false'\ntR.") for row in range(8)]  # would run if it were unpickled
    write_tar(tmp_path / "mixed.tar", [*labels, ("__meta__/x.json", b"{"), ("README", b"text"), *evil, *images])
    data = load(f"wds:{tmp_path / 'mixed.tar'}")
    assert data.ids == tuple(f"mixed/a/{row}" for row in (3, 0, 1, 2, 7, 6, 5, 4))
    assert data.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    for index, row in enumerate((3, 0, 1, 2, 7, 6, 5, 4)):
        np.testing.assert_array_equal(np.asarray(data.read(index))[..., 0], digits[0][row])


def test_the_image_is_chosen_by_its_extension(
    tmp_path: Path, write_tar: Callable[..., Path], png: Callable[..., bytes], load: Load
) -> None:
    members = [
        one
        for row in range(8)
        for one in (
            (f"{row}.left.png", png(np.full((2, 2), row, np.uint8))),
            (f"{row}.right.png", png(np.full((2, 2), 100 + row, np.uint8))),
            (f"{row}.cls", str(row % 2).encode()),
        )
    ]
    path = write_tar(tmp_path / "pairs.tar", members)
    with pytest.raises(DataError, match="no labelled images"):
        load(f"wds:{path}")
    assert np.asarray(load(f"wds:{path}?image=right.png").read(3)).flat[0] == 103


def test_extensions_in_capitals(
    tmp_path: Path, write_tar: Callable[..., Path], png: Callable[..., bytes], load: Load
) -> None:
    picture = png(np.zeros((4, 4), np.uint8))
    members = [one for row in range(8) for one in ((f"{row}.PNG", picture), (f"{row}.CLS", str(row % 2).encode()))]
    path = write_tar(tmp_path / "pets.tar", members)
    for options in ("", "?image=PNG", "?image=.png"):
        assert load(f"wds:{path}{options}").labels.tolist() == [0, 1] * 4


def test_the_folders_of_a_tar_can_be_the_classes(
    tmp_path: Path, write_tar: Callable[..., Path], digits: Digits, png: Callable[..., bytes], load: Load
) -> None:
    members = [(f"./pets.v1/{('cat', 'dog')[row % 2]}/{row}.png", png(digits[0][row])) for row in range(8)]
    data = load(f"wds:{write_tar(tmp_path / 'pets.tar', members)}?label=folder")
    assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [0, 1] * 4)
    assert data.ids[1] == "pets/pets.v1/dog/1"
    flat = write_tar(tmp_path / "flat.tar", [("1.png", png(digits[0][1]))])
    with pytest.raises(DataError, match="image without a label"):
        load(f"wds:{flat}?label=folder")


def test_held_out_tars_are_not_trained_on(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    one, two, three = digit_tars(tmp_path)
    data = load(f"wds:{one}::{two}?held_out={three}")
    assert data.splits["train"].tolist() == list(range(100))
    assert sorted([*data.splits["select"], *data.splits["score"]]) == list(range(100, 150))


def test_ids_and_splits_do_not_depend_on_the_folder_or_the_order(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    digit_tars(tmp_path / "here")
    digit_tars(tmp_path / "there")
    here, there = load(f"wds:{tmp_path}/here"), load(f"wds:{tmp_path}/there")
    assert here.fingerprint() == there.fingerprint()
    assert here.split_fingerprint() == there.split_fingerprint()
    turned = load(f"wds:{tmp_path}/here/digits-{{002..000}}.tar")
    assert turned.ids != here.ids
    assert {turned.ids[row] for row in turned.splits["score"]} == {here.ids[row] for row in here.splits["score"]}


def test_tars_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, digit_tars: Tars) -> None:
    for part in ("train", "val"):
        digit_tars(tmp_path / part)
    names = [shard.name for shard in find_shards(f"{tmp_path}/{{train,val}}/digits-00{{0..1}}.tar")]
    assert names == ["train/digits-000", "train/digits-001", "val/digits-000", "val/digits-001"]
    urls = find_shards("https://host/a/x.tar?token=1::pipe:curl -s https://host/b/y.tar.gz | gunzip")
    assert [shard.name for shard in urls] == ["x", "y"]


def test_the_index_is_made_once_and_anew_when_a_tar_changes(
    tmp_path: Path, digit_tars: Tars, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = digit_tars(tmp_path)
    indexed: list[str] = []
    original = tar_index.index_tar
    monkeypatch.setattr(tar_index, "index_tar", lambda shard, rule: indexed.append(shard.name) or original(shard, rule))
    first = load(f"wds:{tmp_path}")
    assert indexed == ["digits-000", "digits-001", "digits-002"]
    assert load(f"wds:{tmp_path}/digits-*.tar").fingerprint() == first.fingerprint()
    assert len(indexed) == 3
    os.utime(tars[1], ns=(1, 1))
    load(f"wds:{tmp_path}")
    assert indexed[3:] == ["digits-001"]
    cache = Path(os.environ["AUDITOR_CACHE"]) / "streaming"
    assert len(list(cache.glob("*.npz"))) == 3
    next(iter(cache.glob("*.npz"))).write_bytes(b"PK\x03\x04 torn")
    assert load(f"wds:{tmp_path}").fingerprint() == first.fingerprint()
    assert len(indexed) == 5


def test_a_first_pass_that_is_cut_off_goes_on_at_its_tar(
    tmp_path: Path, digit_tars: Tars, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    digit_tars(tmp_path)
    indexed: list[str] = []
    original = tar_index.index_tar

    def cut_off(shard: Any, rule: Any) -> Any:
        indexed.append(shard.name)
        if len(indexed) == 3:
            raise KeyboardInterrupt
        return original(shard, rule)

    monkeypatch.setattr(tar_index, "index_tar", cut_off)
    with pytest.raises(KeyboardInterrupt):
        load(f"wds:{tmp_path}")
    assert len(load(f"wds:{tmp_path}")) == 150
    assert indexed == ["digits-000", "digits-001", "digits-002", "digits-002"]


def test_the_data_can_be_sent_to_a_worker_with_open_files(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    digit_tars(tmp_path)
    data = load(f"wds:{tmp_path}")
    data.read(3)
    again = pickle.loads(pickle.dumps(data))
    for row in (3, 140):
        np.testing.assert_array_equal(np.asarray(again.read(row)), np.asarray(data.read(row)))


def test_no_more_files_are_open_than_wanted(
    tmp_path: Path, digit_tars: Tars, digits: Digits, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    digit_tars(tmp_path)
    monkeypatch.setattr("auditor_streaming.tar_reader.OPEN_FILES", 2)
    data = load(f"wds:{tmp_path}")
    for row in (0, 50, 100, 1, 51, 101):
        assert np.asarray(data.read(row))[..., 0].tolist() == digits[0][row].tolist()
        assert len(data.read._files) <= 2


@pytest.mark.slow
def test_a_hundred_thousand_samples_take_little_memory(
    tmp_path: Path, write_tar: Callable[..., Path], png: Callable[..., bytes], load: Load, monkeypatch: Any
) -> None:
    picture, n = png(np.zeros((1, 1), np.uint8)), 5_000
    rows = range(n)
    first = write_tar(
        tmp_path / "many-00.tar",
        (one for row in rows for one in ((f"{row:08d}.png", picture), (f"{row:08d}.cls", b"%d" % (row % 100)))),
    )
    for part in range(1, 20):
        os.link(first, tmp_path / f"many-{part:02d}.tar")
    index = tar_index.index_tar(find_shards(str(first))[0], tar_index.Rule())
    monkeypatch.setattr(tar_index, "index_tar", lambda *_: index)  # they are all the same
    load(f"wds:{tmp_path}")
    tracemalloc.start()
    try:
        data = load(f"wds:{tmp_path}")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == 20 * n
    assert held < 250 * len(data)  # bytes: the id as text, some numbers, and places in the splits


@pytest.mark.parametrize(
    "text,kind,message",
    [
        ("wds:", DataError, "No tar file"),
        ("wds:nowhere.tar", DataError, "no tar file 'nowhere.tar'"),
        ("wds:nowhere-*.tar", DataError, "No tar file is there"),
        ("wds:nowhere.txt", DataError, "list nowhere.txt cannot be read"),
        ("wds:a-{000..", OptionError, "cannot be expanded"),
        ("wds:gopher://host/a.tar", OptionError, "scheme 'gopher'"),
        ("wds:a.tar?colour=red", UnknownNameError, "colour"),
        ("wds:a.tar?label=a&label=b", OptionError, "given twice"),
        ("wds:.", DataError, "No tar file is there"),
    ],
)
def test_patterns_that_name_nothing(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, text: str, kind: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        load(text)


def test_a_root_is_refused(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    digit_tars(tmp_path)
    with pytest.raises(OptionError, match="takes no --root"):
        load(f"wds:{tmp_path}", root=str(tmp_path))


def test_a_tar_that_is_named_twice_is_refused(tmp_path: Path, digit_tars: Tars, load: Load) -> None:
    one = digit_tars(tmp_path)[0]
    with pytest.raises(DataError, match="named 2 times"):
        load(f"wds:{one}::{one}")


def test_the_registry_finds_both_sources_once_installed() -> None:
    if not any(entry.name == "streaming" for entry in entry_points(group="auditor")):
        pytest.skip("auditor-streaming is not installed")
    registry = Registry()
    registry.load_installed()
    assert "streaming" not in registry.broken
    names = list(registry.data_sources())
    assert max(names.index("wds"), names.index("hfs")) < names.index("digits")
