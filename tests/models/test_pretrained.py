from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from auditor.errors import ModelError, WeightsUnavailableError
from auditor.models import build_module, find_model, load_model, pretrained, state_hash

TIMM = "timm:test_resnet"
TORCHVISION = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, and a network that refuses."""
    from huggingface_hub import constants

    def refuse(*_: object) -> Any:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("_open_hub", "_open_url", "_download_from_hub"):
        monkeypatch.setattr(pretrained, name, refuse)


def random(text: str) -> nn.Module:
    return build_module(find_model(text), n_outputs=None, pretrained=False, seed=11)


def load(text: str, n_outputs: int | None = None, *, new_head: bool = False) -> nn.Module:
    return build_module(find_model(text), n_outputs=n_outputs, pretrained=True, seed=0, new_head=new_head)


def fill_hub(tmp_path: Path, text: str) -> nn.Module:
    """Put the weights of a random network where huggingface_hub keeps downloads."""
    from timm.models import get_pretrained_cfg

    source = random(text)
    repo: str = get_pretrained_cfg(find_model(text).name).hf_hub_id
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    safetensors.torch.save_file(source.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    return source


def fill_torch_hub(tmp_path: Path, text: str) -> nn.Module:
    from torchvision.models import get_model_weights

    source = random(text)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = get_model_weights(find_model(text).name).DEFAULT.url
    torch.save(source.state_dict(), folder / url.rpartition("/")[2])
    return source


@pytest.mark.parametrize("text", [TIMM, TORCHVISION])
def test_without_a_network_the_choices_are_named(text: str) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        load(text)
    assert "no network in tests" in str(caught.value)
    assert "--checkpoint FILE" in str(caught.value)
    assert "--weights none" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("text", [TIMM, TORCHVISION])
def test_a_server_that_never_answers_is_given_up(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(pretrained, "REACH_SECONDS", 0.05)
    for name in ("_open_hub", "_open_url"):
        monkeypatch.setattr(pretrained, name, lambda *_: release.wait(60))
    start = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match="could not be fetched") as caught:
        load(text)
    assert caught.value.got == "no answer within 0.05 seconds"
    assert time.monotonic() - start < 30  # far from the stuck request's minute, whatever the machine
    release.set()


@pytest.mark.parametrize("text, fill", [(TIMM, fill_hub), (TORCHVISION, fill_torch_hub)])
def test_the_local_cache_is_asked_first(tmp_path: Path, text: str, fill: Any) -> None:
    source = fill(tmp_path, text)
    module = load(text)
    assert state_hash(module) == state_hash(source)
    assert not module.training
    loaded = load_model(text)
    assert (loaded.weights, loaded.state_hash) == ("pretrained", state_hash(source))


@pytest.mark.parametrize("text, fill", [(TIMM, fill_hub), (TORCHVISION, fill_torch_hub)])
def test_another_number_of_classes_needs_a_new_head(tmp_path: Path, text: str, fill: Any) -> None:
    source = fill(tmp_path, text)
    with pytest.raises(ModelError, match="another number of classes") as caught:
        load(text, 7)
    assert caught.value.got == "1000 classes"
    module = load(text, 7, new_head=True)
    own, theirs = module.state_dict(), source.state_dict()
    assert {name for name in own if own[name].shape != theirs[name].shape} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[name], theirs[name]) for name in own if not name.startswith("fc."))
    assert state_hash(load(text, 7, new_head=True)) == state_hash(module)


def test_timm_interpolates_position_embeddings(tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    source = fill_hub(tmp_path, "timm:test_vit").state_dict()
    loaded = load_model("timm:test_vit", image_size=(64, 64))
    found = loaded.module.state_dict()
    assert (loaded.weights, loaded.image_size) == ("pretrained", (64, 64))
    other = {name for name in found if not torch.equal(found[name], source[name])}
    assert other == {"pos_embed"}
    prefix = loaded.module.num_prefix_tokens
    assert torch.equal(
        found["pos_embed"], resample_abs_pos_embed(source["pos_embed"], [4, 4], num_prefix_tokens=int(prefix))
    )
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_torchvisions_position_embeddings_are_interpolated() -> None:
    from torchvision.models import VisionTransformer

    def vit(size: int) -> nn.Module:
        return VisionTransformer(size, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)

    small, large = vit(32), vit(64)
    state = small.state_dict()
    ramp = torch.arange(4.0).repeat(4, 1)  # grows from left to right
    state["encoder.pos_embedding"][0, 1:] = ramp.flatten()[:, None]
    pretrained.load_torchvision_state(large, pretrained.resized_state(large, state), new_head=False)
    found = large.state_dict()["encoder.pos_embedding"]
    assert found.shape == (1, 65, 8)
    assert torch.equal(found[:, 0], state["encoder.pos_embedding"][:, 0])
    grid = found[0, 1:].unflatten(0, (8, 8))
    assert torch.allclose(grid, grid[:1].expand_as(grid), atol=1e-6)
    assert torch.allclose(grid[0, [0, -1], 0], torch.tensor([0.0, 3.0]), atol=1e-6)
    assert bool((grid[0].diff(dim=0) > 0).all())
    assert pretrained.resized_state(nn.Linear(1, 1), state) is state


def test_what_is_not_cached_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = random(TIMM)
    file = tmp_path / "downloaded.safetensors"
    safetensors.torch.save_file(source.state_dict(), file)
    asked: list[object] = []
    monkeypatch.setattr(pretrained, "_open_hub", lambda repo, names: asked.append((repo, names)) or names[0])
    monkeypatch.setattr(pretrained, "_download_from_hub", lambda repo, name: asked.append((repo, name)) or str(file))
    assert state_hash(load(TIMM)) == state_hash(source)
    repo = "timm/test_resnet.r160_in1k"
    assert asked == [(repo, ["model.safetensors", "pytorch_model.bin"]), (repo, "model.safetensors")]


def test_a_download_that_breaks_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_open_hub", lambda _, names: names[0])
    with pytest.raises(WeightsUnavailableError, match="could not be fetched"):
        load(TIMM)


def test_weights_that_do_not_exist() -> None:
    import timm

    without = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(WeightsUnavailableError, match="has no pretrained weights"):
        load(f"timm:{without}")


def test_a_damaged_cached_file_is_a_model_error(tmp_path: Path) -> None:
    fill_torch_hub(tmp_path, TORCHVISION)
    (file,) = (tmp_path / "torch" / "hub" / "checkpoints").iterdir()
    file.write_bytes(b"half a file")
    with pytest.raises(ModelError):
        load(TORCHVISION)


def test_the_libraries_still_have_what_we_call() -> None:
    """What the fakes above stand in for: names and arguments that a new version could change."""
    import inspect

    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    inspect.signature(get_hf_file_metadata).bind("url", timeout=1.0)
    inspect.signature(hf_hub_url).bind("repo", "file", revision=None)
    inspect.signature(hf_hub_download).bind("repo", "file", revision=None)
    inspect.signature(try_to_load_from_cache).bind("repo", "file", revision=None)
