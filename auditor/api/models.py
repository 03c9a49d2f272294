"""From what the user asked for to a model ready to run, and back again from a run's manifest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auditor.api.embedded import train_or_load
from auditor.api.forward import Execution
from auditor.api.heads import CHOICES, HEAD_FILE, Head, HeadChoice, adapt, restore_layer, restore_order
from auditor.data import LabelledData
from auditor.errors import ModelError, OptionError, RunError, unknown_name
from auditor.models import LoadedModel, find_model, load_checkpoint, load_model, state_hash
from auditor.models.layers import select_layers
from auditor.models.overrides import Overrides
from auditor.models.preprocessing import Preprocessing
from auditor.progress import Reporter

WEIGHTS = ("pretrained", "none", "digits")
SMALL = 32
KEEP = Overrides()
AS_IT_IS = HeadChoice()


@dataclass(frozen=True)
class Prepared:
    """A model on its device, in evaluation mode, with its preprocessing.

    Attributes
    ----------
    module : torch.nn.Module
    preprocessing : Preprocessing
    identity : dict
        The ``model`` part of a manifest's identity.
    weights_file : Path or None
        The file that the weights came from, if any: where they are is no part of what they are.
    head : Head or None
        A logit layer that was fitted here, to be kept in the run's folder.
    """

    module: nn.Module
    preprocessing: Preprocessing
    identity: dict[str, Any]
    weights_file: Path | None = None
    head: Head | None = None

    @property
    def mapped(self) -> bool:
        """Whether the logits were put in the order of the data's classes."""
        return "outputs" in self.identity

    @property
    def label(self) -> str:
        """``timm:resnet18 (digits)``: architecture and weights, for people."""
        return f"{self.identity['spec']} (weights: {self.identity['weights'].split(':')[0]})"


def choose_weights(weights: str | None, checkpoint: str | Path | None, data_name: str) -> str:
    """Apply the default: weights of the embedded data with the embedded data, else pretrained ones.

    Raises
    ------
    OptionError, UnknownNameError
        If the choice is unknown or contradicts a checkpoint.
    """
    if checkpoint is not None:
        if weights is not None:
            raise OptionError(
                "--weights and --checkpoint exclude each other.", got=f"--weights {weights} --checkpoint {checkpoint}"
            )
        return "checkpoint"
    if weights is None:
        return "digits" if data_name == "digits" else "pretrained"
    if weights not in WEIGHTS:
        raise unknown_name("choice of weights", weights, WEIGHTS, fix="For a file of your own use --checkpoint FILE.")
    if weights == "digits" and data_name != "digits":
        raise OptionError(
            "--weights digits are trained on the embedded digits.",
            got=f"--data {data_name}",
            fix="Use --weights pretrained, --weights none or --checkpoint FILE with these data.",
        )
    return weights


def prepare(
    model: str | nn.Module,
    data: LabelledData,
    *,
    weights: str | None,
    checkpoint: str | Path | None,
    preprocessing: Preprocessing | None = None,
    overrides: Overrides = KEEP,
    choice: HeadChoice = AS_IT_IS,
    layers: str | Sequence[str],
    seed: int,
    execution: Execution,
    reporter: Reporter,
) -> Prepared:
    """Build, load and check a model for `data`; `layers` are looked up before anything is trained.

    Parameters
    ----------
    model, weights, checkpoint, preprocessing, layers, seed
        See :func:`auditor.profile`.
    data : LabelledData
    overrides : Overrides
        Changes to the preprocessing.
    choice : HeadChoice
        What is done about outputs that are not the data's classes.
    execution : Execution
    reporter : Reporter

    Raises
    ------
    ModelError and subclasses
        If it cannot be built, loaded or run.
    """
    device = execution.torch_device()
    if isinstance(model, nn.Module):
        if weights is not None or checkpoint is not None:
            raise OptionError("A model given as a module brings its own weights.", fix="Load them before profiling.")
        return _given(model, data, preprocessing, overrides, choice, execution=execution, reporter=reporter)
    kind = choose_weights(weights, checkpoint, data.name)
    spec = find_model(model)
    reporter.say(f"Model: {spec.spec}.")
    size = overrides.image_size() or (None if preprocessing is None else preprocessing.input_size[1:])
    # Pretrained weights and checkpoints come with their own head; anything else gets one output per class.
    loaded = load_model(
        model,
        n_outputs=None if kind == "pretrained" else len(data.classes),
        weights="pretrained" if kind == "pretrained" else "none",
        checkpoint=checkpoint,
        checkpoint_head=True,
        seed=seed,
        image_size=size,
    )
    if kind == "checkpoint" and loaded.n_outputs != len(data.classes) and not choice:
        reporter.say(
            f"The checkpoint is for {loaded.n_outputs} classes, the data have {len(data.classes)}: no accuracy, and "
            f"nothing to ablate by. {CHOICES} to have both."
        )
    module = loaded.module.to(device).eval()
    chosen = preprocessing or _preprocessing(loaded)
    if preprocessing is None and data.name == "digits" and kind != "pretrained":
        small = chosen.with_size(SMALL)
        chosen = small if _runs(module, small) else chosen
    elif preprocessing is None and not loaded.knows_preprocessing and not overrides:
        reporter.say(
            f"{loaded.name} does not say how its images are preprocessed: ImageNet's way is assumed. Change it with "
            "--input-size, --crop-pct, --interpolation, --mean and --std."
        )
    chosen = overrides.apply(chosen)
    select_layers(module, layers)
    weights_file = Path(checkpoint).resolve() if checkpoint is not None else None
    if kind == "digits":
        weights_file = train_or_load(module, spec, chosen, data, seed=seed, execution=execution, reporter=reporter)
        module.to(device).eval()
    adapted, head = adapt(module, data, choice, chosen, execution=execution, reporter=reporter)
    identity = {
        "spec": spec.spec,
        "weights": kind if kind != "checkpoint" else loaded.weights,
        "n_outputs": loaded.n_outputs,
        "seed": seed if kind in ("none", "digits") else None,
        "state": state_hash(module),
        **({} if loaded.image_size is None else {"image_size": list(loaded.image_size)}),
        **adapted,
    }
    return Prepared(module, chosen, identity, weights_file, head)


def reload(
    identity: dict[str, Any],
    preprocessing: Preprocessing,
    weights_file: Path | None,
    *,
    folder: Path,
    execution: Execution,
) -> Prepared:
    """Build the model of a run again and check that it is the same.

    Parameters
    ----------
    identity : dict
        The ``model`` part of the run's identity.
    preprocessing : Preprocessing
    weights_file : Path or None
        Where the weights were when the run was made; None for pretrained and for random weights.
    folder : Path
        The run's folder, which holds a fitted head.
    execution : Execution

    Raises
    ------
    RunError
        If the run's model was given from Python, or its weights are gone or have changed.
    """
    spec = str(identity["spec"])
    if spec.startswith("module:"):
        raise RunError(
            f"The run's model was given from Python ({spec}) and cannot be built again here.",
            fix="Call run.ablate() or run.finetune() in the session that has the model.",
        )
    if weights_file is not None and not weights_file.exists():
        raise RunError("The weights of the run are gone.", wanted=str(weights_file), fix="Profile the model again.")
    # What was trained here after the head was fitted holds the head among its weights.
    whole = str(identity["weights"]).startswith("finetuned:")
    module = load_model(
        spec,
        n_outputs=identity["n_outputs"],
        image_size=built_size(identity),
        weights="pretrained" if identity["weights"] == "pretrained" else "none",
        checkpoint=None if whole else weights_file,
        seed=identity["seed"] or 0,
    ).module
    restore_layer(module, identity, None if whole else folder / HEAD_FILE)
    if whole and weights_file is not None:
        load_checkpoint(module, weights_file)
    module = module.to(execution.torch_device()).eval()
    found = state_hash(module)
    if found != identity["state"]:
        raise RunError(
            "The model's weights are not those of the run.",
            wanted=str(identity["state"]),
            got=found,
            fix="The file or the library has changed since; profile again.",
        )
    restore_order(module, identity)
    return Prepared(module, preprocessing, identity, weights_file)


def built_size(identity: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width that a run's architecture was built for, if not its own."""
    size = identity.get("image_size")
    return None if size is None else (int(size[0]), int(size[1]))


def _given(
    model: nn.Module,
    data: LabelledData,
    preprocessing: Preprocessing | None,
    overrides: Overrides,
    choice: HeadChoice,
    *,
    execution: Execution,
    reporter: Reporter,
) -> Prepared:
    loaded = load_model(model, n_outputs=None, weights="none", checkpoint=None, seed=0)
    chosen = preprocessing or loaded.preprocessing
    if chosen is None:
        raise ModelError(
            f"{type(model).__name__} does not say how its images are preprocessed.",
            wanted="a pretrained_cfg as timm's models have, or preprocessing=...",
            fix="Pass preprocessing=auditor.Preprocessing(input_size=(3, 32, 32), ...).",
        )
    chosen = overrides.apply(chosen)
    # A user's module is measured as it is; where its outputs are to change, a copy of it is.
    module = copy.deepcopy(model) if choice else model
    adapted, head = adapt(module, data, choice, chosen, execution=execution.on(module), reporter=reporter)
    identity = {
        "spec": f"module:{type(model).__name__}",
        "weights": "given",
        "n_outputs": None,
        "seed": None,
        "state": state_hash(module),
        **adapted,
    }
    return Prepared(module, chosen, identity, head=head)


def _preprocessing(loaded: LoadedModel) -> Preprocessing:
    if loaded.preprocessing is None:
        raise ModelError(f"{loaded.name} does not say how its images are preprocessed.")
    return loaded.preprocessing


def _runs(module: nn.Module, preprocessing: Preprocessing) -> bool:
    """Whether the model takes images of this size (a ViT of fixed size does not, a small map may vanish)."""
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            module(torch.zeros(2, *preprocessing.input_size, device=device))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return True
