"""Models whose outputs are not the data's classes: a map between the two, or a logit layer fitted to the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.ablation import accuracy_with_interval
from auditor.api.forward import Execution, batches
from auditor.api.skips import Skips
from auditor.data import LabelledData
from auditor.errors import DataError, OptionError, RunError, unknown_name
from auditor.models import load_checkpoint, n_outputs
from auditor.models.class_map import resolve_class_map
from auditor.models.head import check_outputs, head_inputs, logit_layer, new_logit_layer, order_outputs
from auditor.models.preprocessing import Preprocessing
from auditor.models.trace import evaluating
from auditor.progress import Reporter
from auditor.training import write_weights

HEADS = ("probe",)
HEAD_FILE = "head.safetensors"
CHOICES = "Map the outputs to the classes (--class-map FILE), fit a new logit layer (--head probe)"
"""What to do about a model that does not know the data's classes, for error messages to continue."""
REGULARIZATION = 1.0
ITERATIONS = 1000


@dataclass(frozen=True)
class HeadChoice:
    """What is done about outputs that are not the data's classes.

    Parameters
    ----------
    class_map : path or mapping, optional
        See :func:`auditor.models.class_map.resolve_class_map`.
    output_names : path, optional
        Table of the outputs' names, for a map to names.
    restrict_outputs : bool
        With a class map: leave out the outputs that no class of the data is mapped to, instead of letting them compete.
    head : {"probe"}, optional
        Fit a logistic regression on the features before the logit layer, and put it in the layer's place.

    Raises
    ------
    OptionError, UnknownNameError
        If the choices contradict each other.
    """

    class_map: str | Path | Mapping[str, int | str] | None = None
    output_names: str | Path | None = None
    restrict_outputs: bool = False
    head: str | None = None

    def __post_init__(self) -> None:
        if self.head is not None and self.head not in HEADS:
            raise unknown_name("head", self.head, HEADS)
        if self.head is not None and self.class_map is not None:
            raise OptionError(
                "--head and --class-map exclude each other: a new head has one output for each class of the data.",
                got=f"--head {self.head} --class-map",
            )
        if self.class_map is None:
            for name, given in (("restrict-outputs", self.restrict_outputs), ("output-names", self.output_names)):
                if given:
                    raise OptionError(f"--{name} says nothing without --class-map.", fix="Add --class-map FILE.")

    def __bool__(self) -> bool:
        return self.class_map is not None or self.head is not None


@dataclass(frozen=True)
class Head:
    """A logit layer fitted to the data.

    Attributes
    ----------
    layer : torch.nn.Module
        In its place in the model.
    report : dict
        How well it fits, for the run's summary.
    """

    layer: nn.Module
    report: dict[str, Any]

    def save(self, folder: Path, digest: str) -> None:
        """Keep the weights in a run's folder."""
        write_weights(self.layer, folder / HEAD_FILE, {"run": digest})


def adapt(
    module: nn.Module,
    data: LabelledData,
    choice: HeadChoice,
    preprocessing: Preprocessing,
    *,
    execution: Execution,
    reporter: Reporter,
) -> tuple[dict[str, Any], Head | None]:
    """Make the logits of `module`, in place, those of the data's classes.

    Returns
    -------
    identity : dict
        What :func:`restore` needs to do the same again, for the ``model`` part of a run's identity; empty without a
        choice.
    head : Head or None
        The logit layer that was fitted.

    Raises
    ------
    OptionError, ModelError, DataError
        If model, data and choice do not go together.
    """
    if not choice:
        return {}, None
    device = next(module.parameters()).device
    example = torch.rand(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0)).to(device)
    with evaluating(module):
        if choice.class_map is not None:
            width = n_outputs(module, example)
            outputs = resolve_class_map(choice.class_map, data.classes, n_outputs=width, names=choice.output_names)
            order_outputs(module, outputs, width=width, restrict=choice.restrict_outputs)
            rest = width - len(outputs)
            reporter.say(
                f"Outputs: {len(outputs)} of {width} are the classes of the data; the other {rest} "
                + ("are left out." if choice.restrict_outputs else "compete with them.")
            )
            return {"outputs": {"index": outputs, "width": width, "restricted": choice.restrict_outputs}}, None
        return _probe(module, data, preprocessing, example, execution=execution, reporter=reporter)


def _probe(
    module: nn.Module,
    data: LabelledData,
    preprocessing: Preprocessing,
    example: torch.Tensor,
    *,
    execution: Execution,
    reporter: Reporter,
) -> tuple[dict[str, Any], Head]:
    name = logit_layer(module, example)
    rows = data.splits["train"]
    _check_every_class(data, data.labels[rows])
    features, labels = _features(module, name, data, rows, preprocessing, execution, reporter)
    _check_every_class(data, labels)  # unreadable images are left out
    weight, bias, converged = fit_logistic(features, labels)
    layer = new_logit_layer(module, name, len(data.classes))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight).reshape(layer.weight.shape))
        layer.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
    check_outputs(module, example, len(data.classes), name)
    fitted, _, _ = accuracy_with_interval((features @ weight.T + bias).argmax(1) == labels)
    if not converged:
        reporter.say(f"Head: the fit had not converged after {ITERATIONS} iterations.")
    reporter.say(
        f"Head: logistic regression on the {features.shape[1]} inputs of {name}, fitted on {len(labels)} images of the "
        f"train split (accuracy there {fitted:.1%})."
    )
    identity = {"kind": "probe", "layer": name, "outputs": len(data.classes), "C": REGULARIZATION, "standardized": True}
    report = {
        "kind": "probe",
        "layer": name,
        "features": int(features.shape[1]),
        "converged": converged,
        "train": {"n_images": len(labels), "accuracy": fitted},
    }
    return {"head": identity}, Head(layer, report)


def _check_every_class(data: LabelledData, labels: NDArray[np.int64]) -> None:
    absent = sorted(set(range(len(data.classes))) - set(labels.tolist()))
    if absent:
        shown = ", ".join(data.classes[label] for label in absent[:5]) + (" ..." if len(absent) > 5 else "")
        raise DataError(
            "A head is fitted on the train split, and some classes have no image there.",
            wanted="at least one image of each class in the train split",
            got=f"none of {shown}",
            fix="Give the train split more (--fractions 0.5,0.25,0.25), or map the outputs (--class-map FILE).",
        )


def _features(
    module: nn.Module,
    name: str,
    data: LabelledData,
    rows: NDArray[np.int64],
    preprocessing: Preprocessing,
    execution: Execution,
    reporter: Reporter,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What the logit layer is given for each image that can be read, shape (N, features), and their labels."""
    parts, index = [], []
    skips = Skips(data, len(rows), max_bad=execution.max_bad)
    with (
        torch.no_grad(),
        head_inputs(module, name) as seen,
        reporter.task("Features for the head", len(rows), "images") as task,
    ):
        for batch in batches(data, rows, preprocessing.build(), execution, skips=skips):
            module(batch.images)
            parts.append(seen[-1].flatten(1).double().cpu().numpy())
            seen.clear()
            index.append(batch.index)
            task.advance(len(batch.index))
    skips.announce(reporter)
    return np.concatenate(parts), data.labels[np.concatenate(index)]


def fit_logistic(
    features: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Multinomial logistic regression (scikit-learn, L2 with C = 1) on standardized features, as a linear layer.

    Parameters
    ----------
    features : ndarray, shape (N, F)
    labels : ndarray of int, shape (N,)
        Every class from 0 to the highest is present.

    Returns
    -------
    weight : ndarray, shape (C, F)
        For features as they are: the standardization is folded in.
    bias : ndarray, shape (C,)
    converged : bool
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(0), features.std(0)
    spread[spread == 0] = 1.0
    model = LogisticRegression(C=REGULARIZATION, max_iter=ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit((features - mean) / spread, labels)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes have one logit in scikit-learn
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return weight, bias - weight @ mean, converged


def restore_layer(module: nn.Module, identity: Mapping[str, Any], file: Path | None) -> None:
    """Put a run's fitted logit layer into the rebuilt model; without a file, one of its shape.

    Raises
    ------
    RunError
        If the file is gone.
    """
    head = identity.get("head")
    if head is None:
        return
    layer = new_logit_layer(module, str(head["layer"]), int(head["outputs"]))
    if file is None:
        return
    if not file.exists():
        raise RunError("The fitted head of the run is gone.", wanted=str(file), fix="Profile the model again.")
    load_checkpoint(layer, file)


def restore_order(module: nn.Module, identity: Mapping[str, Any]) -> None:
    """Put the outputs of a rebuilt model in the order of the run."""
    outputs = identity.get("outputs")
    if outputs is not None:
        order_outputs(module, outputs["index"], width=int(outputs["width"]), restrict=bool(outputs["restricted"]))
