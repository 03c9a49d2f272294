"""The last step of a classifier: its outputs in the order of the data's classes, or another logit layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import ModelError
from auditor.models.probe import find_logit_layer, n_outputs


class OutputOrder:
    """A forward hook that puts a model's outputs in another order, or keeps some of them.

    As a hook it leaves the names of all layers and weights as they are, and goes along when the model is copied.

    Parameters
    ----------
    order : sequence of int
        For each new output the old one.
    """

    def __init__(self, order: Sequence[int]) -> None:
        self.order = torch.tensor(list(order), dtype=torch.long)
        self.active = True

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """Pick the outputs."""
        if not self.active:
            return output
        if self.order.device != output.device:
            self.order = self.order.to(output.device)
        return output.index_select(1, self.order)


def order_outputs(module: nn.Module, outputs: Sequence[int], *, width: int, restrict: bool) -> None:
    """Make the logits of `module` begin with the classes of the data, in their order.

    So a label is the place of its logit, whoever computes with it. Layers and weights stay what they are.

    Parameters
    ----------
    module : nn.Module
        Changed in place: gets a forward hook.
    outputs : sequence of int
        Output of every class of the data.
    width : int
        Number of outputs.
    restrict : bool
        Leave out the other outputs, as if the model knew no other classes. Otherwise they follow, and compete.
    """
    mapped = set(outputs)
    rest = [] if restrict else [output for output in range(width) if output not in mapped]
    module.register_forward_hook(OutputOrder([*outputs, *rest]))


@contextmanager
def raw_outputs(module: nn.Module) -> Iterator[None]:
    """Give `module` its own outputs back for the length of the block."""
    orders = [hook for hook in module._forward_hooks.values() if isinstance(hook, OutputOrder)]
    try:
        for hook in orders:
            hook.active = False
        yield
    finally:
        for hook in orders:
            hook.active = True


def logit_layer(module: nn.Module, example: Tensor) -> str:
    """Name of the layer that makes the logits, if it can be exchanged.

    Raises
    ------
    ModelError
        If there is no such layer, it sees more than one vector for each image, or its outputs are not the logits.
    """
    name = find_logit_layer(module, example)
    if name is None:
        raise ModelError(
            f"{type(module).__name__} has no logit layer that could be exchanged.",
            wanted="a last linear layer (or 1 x 1 convolution) with one output per class",
            fix="Map the model's outputs to the classes instead (--class-map FILE).",
        )
    with head_inputs(module, name) as seen, torch.no_grad():
        logits = module(example)
    layer = module.get_submodule(name)
    features = seen[-1]
    if not isinstance(features, Tensor) or features.numel() != len(example) * _width(layer):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise _not_exchangeable(name, f"its input has shape {got}: more than one vector for each image")
    with torch.no_grad():
        own = layer(features).flatten(1)
    if own.shape != logits.shape or not torch.allclose(own, logits, rtol=1e-4, atol=1e-5):
        raise _not_exchangeable(name, "the model changes its outputs, or adds others to them")
    return name


def new_logit_layer(module: nn.Module, name: str, outputs: int) -> nn.Linear | nn.Conv2d:
    """Put a logit layer with `outputs` outputs, all zero, in the place of the one called `name`."""
    old = module.get_submodule(name)
    parameter = next(old.parameters())
    new: nn.Linear | nn.Conv2d
    new = nn.Conv2d(_width(old), outputs, 1) if isinstance(old, nn.Conv2d) else nn.Linear(_width(old), outputs)
    nn.init.zeros_(new.weight)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    new.to(device=parameter.device, dtype=parameter.dtype).train(old.training)
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, new)
    return new


def check_outputs(module: nn.Module, example: Tensor, wanted: int, name: str) -> None:
    """Check that the model runs with its new logit layer and gives `wanted` outputs.

    Raises
    ------
    ModelError
        Otherwise.
    """
    found = n_outputs(module, example)
    if found != wanted:
        raise _not_exchangeable(name, f"the model then has {found} outputs instead of {wanted}")


@contextmanager
def head_inputs(module: nn.Module, name: str) -> Iterator[list[Any]]:
    """Collect what the layer called `name` is given in every forward pass inside the block."""
    seen: list[Any] = []

    def watch(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].detach() if inputs and isinstance(inputs[0], Tensor) else None)

    handle = module.get_submodule(name).register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def _width(layer: nn.Module) -> int:
    """Number of features that a logit layer is given."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features
    raise ModelError(f"A {type(layer).__name__} is no logit layer.")


def _not_exchangeable(name: str, why: str) -> ModelError:
    return ModelError(
        f"The logit layer {name} cannot be exchanged: {why}.",
        wanted="a layer whose input is one vector for each image and whose outputs are the logits",
        fix="Map the model's outputs to the classes instead (--class-map FILE).",
    )
