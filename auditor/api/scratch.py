"""The same architecture with weights that have learned nothing, for training from scratch."""

from __future__ import annotations

import torch
from torch import nn

from auditor.api.models import Prepared, built_size
from auditor.models import load_model
from auditor.models.untrained import untrained_copy


def fresh_start(start: Prepared, *, seed: int) -> nn.Module:
    """Copy a model with weights drawn anew.

    A model that was named gets the weights that its library gives to a new one; a module from Python, and a logit layer
    that was put in, get those that their layers draw in ``reset_parameters``. Running statistics start anew.

    Parameters
    ----------
    start : Prepared
        Left as it is.
    seed : int
        Of the weights; the caller's random state is left as it was.
    """
    fresh = untrained_copy(start.module, (), seed=seed)
    spec = str(start.identity["spec"])
    if not spec.startswith("module:"):
        outputs, size = start.identity["n_outputs"], built_size(start.identity)
        made = load_model(spec, n_outputs=outputs, weights="none", seed=seed, image_size=size).module.state_dict()
        with torch.no_grad():
            for name, value in fresh.state_dict().items():
                if name in made and made[name].shape == value.shape:
                    value.copy_(made[name])
    trained = dict(start.module.named_parameters())
    for name, parameter in fresh.named_parameters():
        parameter.requires_grad_(trained[name].requires_grad)
    return fresh
