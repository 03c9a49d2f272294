"""Pretrained weights: what is at hand is used at once, what is not there is told soon.

Both zoos download on their own, but without a network their libraries retry for minutes. So the local cache is asked
first, then one request, limited in time, finds out whether the file can be had at all, and only then is it downloaded.
"""

from __future__ import annotations

import threading
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from auditor.errors import WeightsUnavailableError

REACH_SECONDS = 5.0
"""How long a server may take to answer the first request, all in all."""

_FIX = "Use --checkpoint FILE for weights of your own, or --weights none for a network with random weights."

T = TypeVar("T")


def pretrained_outputs(source: str, name: str) -> int:
    """Return how many classes the zoo's weights for `name` tell apart.

    Raises
    ------
    WeightsUnavailableError
        If there are no such weights.
    """
    if source == "timm":
        return int(_timm_config(name).num_classes)
    return len(_torchvision_weights(name).meta["categories"])


def timm_pretrained(name: str, **options: Any) -> nn.Module:
    """Build a timm model with its weights.

    Parameters
    ----------
    name : str
    **options
        For ``timm.create_model``: with ``num_classes`` the classifier is random, with ``img_size`` timm interpolates
        position embeddings.

    Raises
    ------
    WeightsUnavailableError
        If the weights do not exist or cannot be fetched.
    """
    import timm

    config = _timm_config(name)
    overlay = {} if config.file else _fetch_for_timm(name, config)
    module: nn.Module = _fetching(
        name, lambda: timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    )
    return module


def torchvision_state(name: str) -> dict[str, Tensor]:
    """Return the state of torchvision's default weights for `name`, from its cache or from the network.

    Raises
    ------
    WeightsUnavailableError
        If the weights do not exist or cannot be fetched.
    """
    weights = _torchvision_weights(name)
    if not _url_cache(weights.url).exists():
        _reach(name, lambda: _open_url(weights.url))
    state: dict[str, Tensor] = _fetching(name, lambda: weights.get_state_dict(progress=True, check_hash=True))
    return state


def torchvision_weights_size(name: str) -> tuple[int, int]:
    """Return height and width of the images that torchvision's default weights for `name` need at least.

    Raises
    ------
    WeightsUnavailableError
        If there are no such weights.
    """
    height, width = _torchvision_weights(name).meta["min_size"]
    return int(height), int(width)


def resized_state(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate the position embeddings in `state` for a torchvision vision transformer of another image size."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if not isinstance(module, VisionTransformer):
        return state
    return dict(interpolate_embeddings(module.image_size, module.patch_size, OrderedDict(state)))


def load_torchvision_state(module: nn.Module, state: dict[str, Tensor], *, new_head: bool) -> None:
    """Load `state` into a torchvision model built without auxiliary classifiers.

    With `new_head`, tensors of another shape, which only the classifier has, keep the values they have.
    """
    own = module.state_dict()
    wanted = {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2.", "AuxLogits."))}
    if new_head:
        wanted = {key: value if value.shape == own[key].shape else own[key] for key, value in wanted.items()}
    module.load_state_dict(wanted)


def _timm_config(name: str) -> Any:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsUnavailableError(f"timm has no pretrained weights for {name}.", fix=_FIX)
    return config


def _torchvision_weights(name: str) -> Any:
    from torchvision.models import get_model_weights

    enum: Any = get_model_weights(name)
    if not list(enum):
        raise WeightsUnavailableError(f"torchvision has no pretrained weights for {name}.", fix=_FIX)
    return enum.DEFAULT


def _fetch_for_timm(name: str, config: Any) -> dict[str, Any]:
    """Bring the weights to this machine; return what has to be changed in timm's own configuration."""
    if not config.hf_hub_id:
        url = config.url[0] if isinstance(config.url, (tuple, list)) else config.url
        filename = config.url[1] if isinstance(config.url, (tuple, list)) else None
        if not _url_cache(url, filename).exists():
            _reach(name, lambda: _open_url(url))
        return {}
    if config.custom_load == "hf":  # timm has a reader of its own for these
        if _hub_cache(config.hf_hub_id, [config.hf_hub_filename]) is None:
            _reach(name, lambda: _open_hub(config.hf_hub_id, [config.hf_hub_filename]))
        return {}
    filenames = _hub_filenames(config.hf_hub_filename)
    path = _hub_cache(config.hf_hub_id, filenames)
    if path is None:
        filename = _reach(name, lambda: _open_hub(config.hf_hub_id, filenames))
        path = _fetching(name, lambda: _download_from_hub(config.hf_hub_id, filename))
    # Files on the hub are in PyTorch's own format, whatever the loader of the original ones.
    return {"file": path, "custom_load": False}


def _hub_filenames(filename: str | None) -> list[str]:
    """Names under which timm looks for weights, the safe format first."""
    filename = filename or "pytorch_model.bin"
    alternatives = {
        "pytorch_model.bin": "model.safetensors",
        "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
    }
    stem, dot, suffix = filename.rpartition(".")
    safe = alternatives.get(filename, f"{stem}.safetensors" if dot and suffix == "bin" else filename)
    return list(dict.fromkeys([safe, filename]))


def _hub_cache(hub_id: str, filenames: list[str]) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = hub_id.partition("@")
    for filename in filenames:
        path = try_to_load_from_cache(repo, filename, revision=revision or None)
        if isinstance(path, str):
            return path
    return None


def _open_hub(hub_id: str, filenames: list[str]) -> str:
    """Ask the hub for the file's description; return the first name that exists."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import EntryNotFoundError

    repo, _, revision = hub_id.partition("@")
    for filename in filenames:
        try:
            get_hf_file_metadata(hf_hub_url(repo, filename, revision=revision or None), timeout=REACH_SECONDS)
        except EntryNotFoundError:
            if filename == filenames[-1]:
                raise
        else:
            return filename
    raise LookupError(hub_id)  # filenames is never empty


def _download_from_hub(hub_id: str, filename: str) -> str:
    from huggingface_hub import hf_hub_download

    repo, _, revision = hub_id.partition("@")
    return str(hf_hub_download(repo, filename, revision=revision or None))


def _url_cache(url: str, filename: str | None = None) -> Path:
    """Where torch.hub and timm keep the file of `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / (filename or PurePosixPath(urlparse(url).path).name)


def _open_url(url: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "torch.hub"})
    with urllib.request.urlopen(request, timeout=REACH_SECONDS) as answer:
        answer.read(1)


def _reach(name: str, ask: Callable[[], T]) -> T:
    """Call `ask` for at most :data:`REACH_SECONDS`.

    A thread is used because neither name look-up nor a proxy's handshake obeys the libraries' time limits. One that is
    stuck is left behind; being a daemon it does not hold up the end of the process.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="auditor-reach", daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if results:
        return results[0]
    if errors:
        raise _unavailable(name, _reason(errors[0])) from errors[0]
    raise _unavailable(name, f"no answer within {REACH_SECONDS:g} seconds")


def _fetching(name: str, action: Callable[[], T]) -> T:
    """Run a download, turning network errors into ours. Other errors pass."""
    try:
        return action()
    except WeightsUnavailableError:
        raise
    except Exception as error:
        if _is_network_error(error):
            raise _unavailable(name, _reason(error)) from error
        raise


def _is_network_error(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    # httpx and requests are named, not imported: which of them is there depends on huggingface_hub's version.
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, (OSError, HfHubHTTPError)) or bool(modules & {"httpx", "httpcore", "requests", "urllib3"})


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _unavailable(name: str, reason: str) -> WeightsUnavailableError:
    return WeightsUnavailableError(f"The pretrained weights of {name} could not be fetched.", got=reason, fix=_FIX)
