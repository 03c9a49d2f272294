"""Weights in files: read without running code, compared by name before anything is changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from auditor.errors import CheckpointError

WRAPPERS = ("state_dict", "model", "model_ema", "state_dict_ema", "model_state_dict", "net")
"""Keys under which training scripts keep the weights; the first that is there is used."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What data-parallel wrappers, ``torch.compile`` and training frameworks put before every name."""

_SHOWN = 5
_MAX_HEADS = 2  # distilled transformers have a second one
# One entry: safetensors writes several in an order that changes from call to call.
_METADATA = "auditor"


def load_checkpoint(module: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load the weights in `path` into `module`, all of them or none.

    Reads safetensors and PyTorch files (``torch.load`` with ``weights_only=True``), the weights themselves or a
    training script's dictionary that holds them under one of :data:`WRAPPERS`. The :data:`PREFIXES` are removed.

    Parameters
    ----------
    module : nn.Module
        Changed only if everything fits.
    path : path
        The file.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged, needs code to be run, or does not fit: the first five missing, unexpected and
        misshapen names are given.
    """
    path = Path(path)
    own: Mapping[str, Any] = module.state_dict()
    state = _weights(module, own, path)
    _check_fit(state, own, path, type(module).__name__)
    backup = {key: value.clone() if isinstance(value, Tensor) else value for key, value in own.items()}
    try:
        module.load_state_dict(state)
    except Exception as error:
        module.load_state_dict(backup)
        raise CheckpointError(f"{path} cannot be loaded into {type(module).__name__}: {error}") from error
    return _file_sha256(path)


def checkpoint_outputs(module: nn.Module, path: str | os.PathLike[str]) -> int | None:
    """Number of outputs that the weights in `path` are for, where it is all that keeps them from fitting `module`.

    Returns
    -------
    int or None
        None if they fit, or differ in more than the length of the first axis of the same few tensors.

    Raises
    ------
    CheckpointError
        If the file cannot be read as weights.
    """
    path = Path(path)
    own: Mapping[str, Any] = module.state_dict()
    sizes = _head_sizes(_weights(module, own, path), own)
    return None if sizes is None else sizes[1]


def _weights(module: nn.Module, own: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What `path` holds, under the module's names as far as it can be."""
    state = _without_prefixes(_unwrapped(_read(path), path), own)
    if getattr(module, "aux_logits", None) is False:
        # torchvision's own files of googlenet and inception hold classifiers that are used in training only.
        state = {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2.", "AuxLogits."))}
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):  # absent from files older than PyTorch 0.4.1, and without effect
            state.setdefault(key, value)
    return state


def state_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers that ``state_dict`` holds.

    The same on every device, and the same for the same weights however they were loaded.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}\0{value!r}\0".encode())
    return digest.hexdigest()


def save_weights(module: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write the weights of `module` as safetensors; the file is whole or not there.

    Tensors that share memory are written once for each name, so :func:`load_checkpoint` finds every name.

    Parameters
    ----------
    module : nn.Module
        On any device.
    path : path
        Replaced if it exists.
    metadata : mapping of str to str
        Kept in the file's header, see :func:`read_metadata`. The same weights and metadata make the same bytes.

    Raises
    ------
    CheckpointError
        If the file cannot be written or the module holds state that is not a tensor.
    """
    path = Path(path)
    state = module.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(f"{type(module).__name__} holds state that safetensors cannot keep: {_listed(odd)}.")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        safetensors.torch.save_file(
            tensors, temporary, metadata={_METADATA: json.dumps(dict(metadata), sort_keys=True)}
        )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"The weights cannot be written to {path}: {error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return what :func:`save_weights` kept in the file's header; empty if the file is damaged or another's."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            kept = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return {}
    return {str(key): str(value) for key, value in kept.items()} if isinstance(kept, dict) else {}


def _read(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {str(path)!r}.", fix="Check the path after --checkpoint.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # safetensors: eight bytes of header length, then JSON. Told by content, since names lie.
        if start[8:9] == b"{" or path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error) or "nsupported" not in str(error):
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f"{path} is refused: loading it would run code that the file names.",
            wanted="a file of tensors only",
            got=_first_line(error),
            fix="Save the weights alone: torch.save(model.state_dict(), FILE).",
        ) from error
    except Exception as error:  # a damaged file can raise nearly anything
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript archive, not a weights file.",
                fix="Save the weights alone: torch.save(model.state_dict(), FILE).",
            ) from error
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as weights.",
        wanted="a safetensors file, or a state_dict saved by torch.save",
        got=f"{type(error).__name__}: {_first_line(error)}",
    )


def _unwrapped(content: object, path: Path) -> dict[str, Any]:
    for _ in range(2):  # {"model": {"state_dict": ...}} is seen in the wild
        if not isinstance(content, Mapping):
            break
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        got = type(content).__name__
        if isinstance(content, Mapping):
            got += f" with {_listed([str(key) for key in content]) or 'nothing'}"
        raise CheckpointError(
            f"{path} holds no weights.",
            wanted=f"a state_dict, or a dictionary with one of {', '.join(WRAPPERS)}",
            got=got,
        )
    return dict(content)


def _without_prefixes(state: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefixes, unless the module's own names begin with them."""
    while True:
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in state)), None)
        if prefix is None or all(key.startswith(prefix) for key in own):
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def _check_fit(state: Mapping[str, Any], own: Mapping[str, Any], path: Path, model: str) -> None:
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} ({_shape(own[key])} in the model, {_shape(state[key])} in the file)"
        for key in own
        if key in state and _shape(own[key]) != _shape(state[key])
    ]
    problems = [
        f"{len(names)} {what}: {_listed(names)}"
        for what, names in (
            ("missing from the file", missing),
            ("unknown to the model", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        sizes = _head_sizes(state, own)
        raise CheckpointError(
            f"{path} does not fit {model}.",
            wanted=f"{len(own)} tensors with the model's names and shapes",
            got="; ".join(problems),
            fix="Is it the right --model?"
            if sizes is None
            else f"The file is for another number of classes: {sizes[1]}, not {sizes[0]}. Build the model with "
            f"{sizes[1]} outputs (a factory gets num_classes if it takes it); where the data have other classes, "
            "--class-map FILE maps the outputs to them and --head probe fits a new head.",
        )


def _head_sizes(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[int, int] | None:
    """Number of outputs of model and file, where they are all that differs."""
    if state.keys() != own.keys():
        return None
    pairs = [(_sides(own[key]), _sides(state[key])) for key in own]
    other = {(mine[:1], theirs[:1]) for mine, theirs in pairs if mine != theirs}
    same_features = all(mine[1:] == theirs[1:] for mine, theirs in pairs)
    weights = sum(1 for mine, theirs in pairs if mine != theirs and len(mine) > 1)
    if len(other) != 1 or not same_features or not 1 <= weights <= _MAX_HEADS:
        return None
    [(mine, theirs)] = other
    return (mine[0], theirs[0]) if mine and theirs else None


def _sides(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return " x ".join(str(side) for side in value.shape) or "scalar"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "nsupported" in line), lines[0] if lines else "")
    return telling[:200]


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
