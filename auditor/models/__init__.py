"""Models: found by name, built, given weights, and probed for what can be measured."""

from auditor.models.checkpoint import load_checkpoint, read_metadata, save_weights, state_hash
from auditor.models.layers import PRESETS
from auditor.models.load import LoadedModel, load_model
from auditor.models.preprocessing import Preprocessing, timm_preprocessing, torchvision_preprocessing
from auditor.models.probe import find_logit_layer, n_outputs, probe_sites
from auditor.models.sources import ModelSpec, available_models, build_module, built_for, find_model

__all__ = [
    "PRESETS",
    "LoadedModel",
    "ModelSpec",
    "Preprocessing",
    "available_models",
    "build_module",
    "built_for",
    "find_logit_layer",
    "find_model",
    "load_checkpoint",
    "load_model",
    "n_outputs",
    "probe_sites",
    "read_metadata",
    "save_weights",
    "state_hash",
    "timm_preprocessing",
    "torchvision_preprocessing",
]
