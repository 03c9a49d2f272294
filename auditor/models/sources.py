"""Which models exist, under what names, and how they are built."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from auditor.errors import ModelError, UnknownNameError, unknown_name
from auditor.models import pretrained as weights_room
from auditor.models.factories import call_factory

ZOOS = ("timm", "torchvision")

_LIST_FIX = "`auditor models PATTERN` lists them; `package.module:factory` names a function of your own."


@dataclass(frozen=True)
class ModelSpec:
    """Where a model comes from and what it is called there.

    Parameters
    ----------
    source : str
        ``"timm"``, ``"torchvision"`` or ``"factory"``.
    name : str
        Name in that source; for a factory ``"package.module:function"``.
    """

    source: str
    name: str

    @property
    def spec(self) -> str:
        """The unambiguous text form: ``"timm:resnet18"``, or the factory's own name."""
        return self.name if self.source == "factory" else f"{self.source}:{self.name}"


def find_model(text: str) -> ModelSpec:
    """Look up a model by what the user wrote.

    Parameters
    ----------
    text : str
        ``"resnet18"`` (timm is asked before torchvision), ``"timm:resnet18"``, ``"torchvision:resnet18"``, a timm name
        with a pretrained tag (``"resnet18.a1_in1k"``), or ``"package.module:factory"``.

    Raises
    ------
    UnknownNameError
        With near matches in both zoos.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix not in ZOOS:
        if prefix and rest and all(part.isidentifier() for part in [*prefix.split("."), *rest.split(".")]):
            return ModelSpec("factory", text)
        raise UnknownNameError(
            f"{text!r} does not name a model.",
            wanted="NAME, timm:NAME, torchvision:NAME or package.module:factory",
            got=repr(text),
            fix=_LIST_FIX,
        )
    zoos, name = ((prefix,), rest) if colon else (ZOOS, text)
    for zoo in zoos:
        if name in _names(zoo) or (zoo == "timm" and _is_other_timm_name(name)):
            return ModelSpec(zoo, name)
    base, dot, tag = name.partition(".")
    if "timm" in zoos and dot and base in _names("timm"):
        raise unknown_name(f"pretrained tag of timm's {base}", tag, _timm_tags(base))
    raise unknown_name("model", name, [known for zoo in zoos for known in _names(zoo)], fix=_LIST_FIX)


def available_models(pattern: str | None = None) -> list[ModelSpec]:
    """List the models of both zoos, timm's first.

    Parameters
    ----------
    pattern : str, optional
        A glob for the name or for the ``zoo:name`` form; a text without ``*``, ``?`` or ``[`` matches anywhere in it.
    """
    specs = [ModelSpec(zoo, name) for zoo in ZOOS for name in _names(zoo)]
    if pattern is None:
        return specs
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [spec for spec in specs if fnmatch.fnmatchcase(spec.name, glob) or fnmatch.fnmatchcase(spec.spec, glob)]


def build_module(
    spec: ModelSpec,
    *,
    n_outputs: int | None,
    pretrained: bool,
    seed: int,
    new_head: bool = False,
    image_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Build a model on the CPU, in eval mode.

    Random weights depend on `seed` alone: torch's CPU generator is seeded for the time of the call and put back after.

    Parameters
    ----------
    spec : ModelSpec
        Which model; see :func:`find_model`.
    n_outputs : int or None
        Number of classes. None: the architecture's (or the pretrained weights') own.
    pretrained : bool
        Load the zoo's weights. A factory is asked through its ``pretrained`` argument.
    seed : int
        Seed of the random weights.
    new_head : bool
        With pretrained weights for another number of classes: start the classifier afresh (at random) instead of
        refusing.
    image_size : tuple of int, optional
        Height and width, in pixels, that the network is built for; see :func:`built_for`. Pretrained position
        embeddings are interpolated by the zoo's own code. Default: the architecture's own size.

    Raises
    ------
    WeightsUnavailableError
        If pretrained weights do not exist or cannot be fetched. Decided within ten seconds; only a download that has
        begun takes longer.
    ModelError
        If the model cannot be built, or its pretrained weights tell another number of classes apart.
    """
    with _seeded(seed):
        if spec.source == "factory":
            module = _as_module(call_factory(spec.name, n_outputs=n_outputs, pretrained=pretrained), spec)
        elif pretrained:
            module = _build_pretrained(spec, n_outputs=n_outputs, new_head=new_head, image_size=image_size)
        else:
            module = _build_random(spec, n_outputs, image_size)
    return module.eval()


def built_for(
    spec: ModelSpec, image_size: tuple[int, int] | None, *, pretrained: bool = False
) -> tuple[int, int] | None:
    """Return the size that the architecture has to be built for, or None if it is its own.

    Most networks take images of any size as they are. Those with position embeddings or windows of a fixed size
    (most vision transformers) are made for one size, which both zoos let the caller choose.

    Parameters
    ----------
    spec : ModelSpec
    image_size : tuple of int or None
        Height and width of the images in pixels; None: not asked for.
    pretrained : bool
        Whether the zoo's weights go into it: torchvision's builders take another size than those of vit_h_14.
    """
    if spec.source == "torchvision":
        if _torchvision_size_argument(spec.name) is None:
            return None
        if image_size is None and pretrained:
            image_size = weights_room.torchvision_weights_size(spec.name)
        return None if image_size == (224, 224) else image_size
    if image_size is None or spec.source == "factory":
        return None
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(spec.name, allow_unregistered=True)
    fixed = config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != image_size
    return image_size if fixed else None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, whose state is not put back.
        torch.random.default_generator.manual_seed(seed)
        yield


def _build_random(spec: ModelSpec, n_outputs: int | None, image_size: tuple[int, int] | None) -> nn.Module:
    options: dict[str, Any] = {} if n_outputs is None else {"num_classes": n_outputs}
    options |= _size_options(spec, image_size)
    with _as_model_error(spec, image_size), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if spec.source == "timm":
            import timm

            return _as_module(timm.create_model(spec.name, pretrained=False, **options), spec)
        from torchvision.models import get_model

        return _as_module(get_model(spec.name, weights=None, **_torchvision_options(spec.name), **options), spec)


def _size_options(spec: ModelSpec, image_size: tuple[int, int] | None) -> dict[str, Any]:
    if image_size is None:
        return {}
    if spec.source == "timm":
        return {"img_size": image_size[0] if image_size[0] == image_size[1] else image_size}
    if _torchvision_size_argument(spec.name) == "input_size":
        return {"input_size": image_size}
    if image_size[0] != image_size[1]:
        raise ModelError(
            f"{spec.spec} takes square images alone.",
            got=f"{image_size[0]} x {image_size[1]} pixels",
            fix=f"--input-size {min(image_size)}",
        )
    return {"image_size": image_size[0]}


def _torchvision_size_argument(name: str) -> str | None:
    from torchvision.models import get_model_builder

    family = get_model_builder(name).__module__.rpartition(".")[2]
    return {"vision_transformer": "image_size", "maxvit": "input_size"}.get(family)


def _build_pretrained(
    spec: ModelSpec, *, n_outputs: int | None, new_head: bool, image_size: tuple[int, int] | None
) -> nn.Module:
    trained_outputs = weights_room.pretrained_outputs(spec.source, spec.name)
    other_head = n_outputs is not None and n_outputs != trained_outputs
    if other_head and not new_head:
        raise ModelError(
            f"The pretrained weights of {spec.spec} have another number of classes.",
            wanted=f"{n_outputs} classes, as in the data",
            got=f"{trained_outputs} classes",
            fix="Give weights trained on this data (--checkpoint FILE), or data with the weights' classes.",
        )
    if spec.source == "timm":
        with _as_model_error(spec, image_size):
            options = _size_options(spec, image_size)
            options |= {"num_classes": n_outputs} if other_head else {}
            return _as_module(weights_room.timm_pretrained(spec.name, **options), spec)
    with _as_model_error(spec):
        state = weights_room.torchvision_state(spec.name)
    module = _build_random(spec, n_outputs if other_head else trained_outputs, image_size)
    with _as_model_error(spec, image_size):
        if image_size is not None:
            state = weights_room.resized_state(module, state)
        weights_room.load_torchvision_state(module, state, new_head=other_head)
    return module


@contextmanager
def _as_model_error(spec: ModelSpec, image_size: tuple[int, int] | None = None) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # zoos raise AssertionError, RuntimeError, TypeError, ... for what they cannot build
        sides = None if image_size is None else " x ".join(map(str, image_size))
        raise ModelError(
            f"{spec.spec} cannot be built{'' if sides is None else f' for {sides} pixels'}: "
            f"{type(error).__name__}: {error}",
            fix=None if sides is None else "Ask for another --input-size, or none for the model's own.",
        ) from error


def _torchvision_options(name: str) -> dict[str, Any]:
    # Auxiliary classifiers would make the output a tuple in training. The input is transformed inside the model because
    # the preset that goes with these models counts on it.
    if name == "googlenet" or name == "inception_v3":
        return {"aux_logits": False, "init_weights": True, "transform_input": True}
    return {}


def _as_module(module: object, spec: ModelSpec) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec.spec} gave no model.", wanted="an nn.Module", got=type(module).__name__)
    return module


@cache
def _names(zoo: str) -> tuple[str, ...]:
    if zoo == "timm":
        import timm

        return tuple(timm.list_models())
    import torchvision.models

    return tuple(torchvision.models.list_models(module=torchvision.models))


def _is_other_timm_name(name: str) -> bool:
    """Tell whether timm knows `name` though it does not list it: one with a tag, or a deprecated one."""
    from timm.models import is_model

    base, dot, tag = name.partition(".")
    return bool(is_model(base)) and (not dot or tag in _timm_tags(base))


def _timm_tags(base: str) -> list[str]:
    from timm.models import list_pretrained

    return [known.partition(".")[2] for known in list_pretrained(f"{base}.*") if "." in known]
