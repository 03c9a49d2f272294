"""From what the user wrote after ``--model`` to a network that can be audited."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import nn

from auditor.errors import OptionError
from auditor.models.checkpoint import checkpoint_outputs, load_checkpoint, state_hash
from auditor.models.preprocessing import Preprocessing, timm_preprocessing, torchvision_preprocessing
from auditor.models.sources import ModelSpec, build_module, built_for, find_model

WEIGHTS = ("pretrained", "none")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network and where it comes from.

    Parameters
    ----------
    module : nn.Module
        In eval mode if it was built here; a given one is left as it is.
    name : str
        Short name for tables and folders.
    spec : str or None
        Text that builds the architecture again; None for a given module.
    weights : str
        ``"pretrained"``, ``"none"``, ``"checkpoint:SHA-256 of the file"``, or ``"given"`` with a given module.
    preprocessing : Preprocessing or None
        The evaluation transform; None if a given module does not tell.
    state_hash : str
        See :func:`auditor.models.checkpoint.state_hash`.
    n_outputs : int or None
        Number of outputs that the architecture was built with; None for its own, and for a given module.
    image_size : tuple of int or None
        Height and width that the architecture was built for; None for its own, and for a given module.
    knows_preprocessing : bool
        Whether model or zoo tell the evaluation transform; otherwise it is a guess.
    """

    module: nn.Module
    name: str
    spec: str | None
    weights: str
    preprocessing: Preprocessing | None
    state_hash: str
    n_outputs: int | None = None
    image_size: tuple[int, int] | None = None
    knows_preprocessing: bool = True


def load_model(
    model: str | nn.Module,
    *,
    n_outputs: int | None = None,
    weights: str = "pretrained",
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    new_head: bool = False,
    checkpoint_head: bool = False,
    image_size: tuple[int, int] | None = None,
) -> LoadedModel:
    """Load a model by name, or describe one that is there already.

    Parameters
    ----------
    model : str or nn.Module
        See :func:`auditor.models.sources.find_model`.
    n_outputs : int, optional
        Number of classes. Default: the architecture's or the weights' own. A given module is not changed.
    weights : {"pretrained", "none"}
        The zoo's weights, or random ones by `seed`. Without effect if a checkpoint or a module is given.
    checkpoint : path, optional
        A file to load the weights from.
    seed : int
        Seed of random weights.
    new_head : bool
        See :func:`auditor.models.sources.build_module`.
    checkpoint_head : bool
        Where the checkpoint is for another number of classes than `n_outputs`, build the model with the checkpoint's.
    image_size : tuple of int, optional
        Height and width of the images, for architectures that are built for one size; see
        :func:`auditor.models.sources.built_for`.

    Raises
    ------
    OptionError, UnknownNameError, ModelError, CheckpointError, WeightsUnavailableError
        With what to do about it.
    """
    if weights not in WEIGHTS:
        raise OptionError(f"There is no choice of weights {weights!r}.", wanted=" or ".join(WEIGHTS), got=repr(weights))
    if isinstance(model, nn.Module):
        taken = "given" if checkpoint is None else f"checkpoint:{load_checkpoint(model, checkpoint)}"
        known = _has_config(model)
        preprocessing = timm_preprocessing(model) if known else None
        return LoadedModel(
            model, type(model).__name__, None, taken, preprocessing, state_hash(model), knows_preprocessing=known
        )
    spec = find_model(model)
    pretrained = weights == "pretrained" and checkpoint is None
    size = built_for(spec, image_size, pretrained=pretrained)
    module = build_module(
        spec, n_outputs=n_outputs, pretrained=pretrained, seed=seed, new_head=new_head, image_size=size
    )
    taken = weights
    if checkpoint is not None:
        outputs = checkpoint_outputs(module, checkpoint) if checkpoint_head else None
        if outputs is not None:
            module = build_module(spec, n_outputs=outputs, pretrained=False, seed=seed, image_size=size)
            n_outputs = outputs
        taken = f"checkpoint:{load_checkpoint(module, checkpoint)}"
    return LoadedModel(
        module,
        _short_name(spec),
        spec.spec,
        taken,
        model_preprocessing(spec, module),
        state_hash(module),
        n_outputs,
        size,
        spec.source != "factory" or _has_config(module),
    )


def model_preprocessing(spec: ModelSpec, module: nn.Module) -> Preprocessing:
    """Return the evaluation transform of a model built from `spec`; ImageNet's at 224 if a factory's does not tell."""
    if spec.source == "torchvision":
        # Without weights torchvision builds vit_h_14 for 224 pixels; its default weights are for 518.
        size = getattr(module, "image_size", None)
        return torchvision_preprocessing(spec.name, size if isinstance(size, int) else None)
    if spec.source == "timm" or _has_config(module):
        return timm_preprocessing(module)
    return Preprocessing()


def _has_config(module: nn.Module) -> bool:
    return bool(getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None))


def _short_name(spec: ModelSpec) -> str:
    return spec.name.rpartition(":")[2] if spec.source == "factory" else spec.name
