from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from auditor.errors import CheckpointError
from auditor.models import load_checkpoint, read_metadata, save_weights, state_hash


def small(seed: int = 0, outputs: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, outputs))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_removed(tmp_path: Path, key: str | None, prefix: str) -> None:
    source, target = small(0), small(1)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save(state if key is None else {"epoch": 3, key: state}, path)
    assert load_checkpoint(target, path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert state_hash(target) == state_hash(source)


def test_safetensors_whatever_the_name(tmp_path: Path) -> None:
    source, target = small(0), small(1)
    notes = {"note": "here", "alpha": "-1", "parent": "none"}
    save_weights(source, tmp_path / "weights.bin", notes)
    load_checkpoint(target, tmp_path / "weights.bin")
    assert state_hash(target) == state_hash(source)
    assert read_metadata(tmp_path / "weights.bin") == notes
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    for number in range(8):
        save_weights(small(0), tmp_path / str(number), {"b": "1", "a": "2", "c": "3", "d": "4"})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_metadata_of_foreign_files_is_empty(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "foreign", {"format": "pt"})
    (tmp_path / "damaged").write_bytes(b"no")
    assert read_metadata(tmp_path / "foreign") == {}
    assert read_metadata(tmp_path / "damaged") == {}


def test_shared_tensors_survive(tmp_path: Path) -> None:
    source, target = Tied(), Tied()
    save_weights(source, tmp_path / "tied.safetensors", {})
    load_checkpoint(target, tmp_path / "tied.safetensors")
    assert state_hash(target) == state_hash(source)
    assert target.one.weight is target.two.weight


def test_the_module_is_unchanged_when_the_file_does_not_fit(tmp_path: Path) -> None:
    state = small(0).state_dict()
    state["3.weight"] = torch.zeros(7, 8)
    state["extra"] = state.pop("0.bias")
    torch.save(state, tmp_path / "odd.pth")
    target = small(1)
    before = state_hash(target)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, tmp_path / "odd.pth")
    text = str(caught.value)
    assert "1 missing from the file: 0.bias" in text
    assert "1 unknown to the model: extra" in text
    assert "1 of another shape: 3.weight (2 x 8 in the model, 7 x 8 in the file)" in text
    assert state_hash(target) == before


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    torch.save({f"w{row}": torch.zeros(1) for row in range(9)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"9 unknown to the model: w0, w1, w2, w3, w4 and 4 more"):
        load_checkpoint(small(), tmp_path / "other.pth")


def test_another_number_of_classes_is_guessed(tmp_path: Path) -> None:
    torch.save(small(outputs=5).state_dict(), tmp_path / "five.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(small(), tmp_path / "five.pth")
    assert "another number of classes" in str(caught.value)


def test_code_in_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": small().state_dict()}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="is refused") as caught:
        load_checkpoint(small(), tmp_path / "code.pth")
    assert "argparse.Namespace" in str(caught.value)


def test_what_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights file"):
        load_checkpoint(small(), tmp_path / "absent.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not weights at all")
    save_weights(small(), tmp_path / "whole.safetensors", {})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-9])
    torch.save(small().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-200])
    for name in ("empty.pth", "text.safetensors", "cut.safetensors", "cut.pth"):
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            load_checkpoint(small(), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint(small(), tmp_path / "list.pth")


def test_half_precision_and_old_files_load(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in small(0).state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "half.pth")
    target = small(1)
    load_checkpoint(target, tmp_path / "half.pth")
    assert target[0].weight.dtype == torch.float32


def test_state_hash_sees_every_change() -> None:
    model = small()
    before = state_hash(model)
    assert before == state_hash(small())
    model[1].running_mean[0] += 1e-6
    assert state_hash(model) != before
    assert state_hash(nn.Linear(2, 3).bfloat16()) != state_hash(nn.Linear(2, 3).half())
    flat, tall = nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        tall.weight.copy_(flat.weight.T)
    assert state_hash(flat) != state_hash(tall)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_weights(small(), tmp_path / "absent" / "w.safetensors", {})
