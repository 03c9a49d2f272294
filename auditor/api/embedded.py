"""Weights for the embedded digits: trained at first use, then kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from auditor.api.forward import Execution, Transform, accuracy, load_split
from auditor.data import LabelledData
from auditor.errors import CheckpointError
from auditor.models import ModelSpec, load_checkpoint, read_metadata
from auditor.models.preprocessing import Preprocessing
from auditor.progress import Reporter
from auditor.store.files import make_folder
from auditor.training import Evaluation, InMemory, TrainingPlan, train, write_weights

RECIPE = 1
PLAN = TrainingPlan(epochs=10, learning_rate=0.05, weight_decay=5e-4, batch_size=64, warmup=0.2)
MAX_SHIFT = 2


def cache_folder() -> Path:
    """Folder for trained weights; ``AUDITOR_CACHE`` overrides the platform's own."""
    override = os.environ.get("AUDITOR_CACHE")
    return Path(override) if override else user_cache_path("auditor")


def train_or_load(
    module: nn.Module,
    spec: ModelSpec,
    preprocessing: Preprocessing,
    data: LabelledData,
    *,
    seed: int,
    execution: Execution,
    reporter: Reporter,
) -> Path:
    """Put weights trained on the train split of `data` into `module`.

    The file is keyed by all that decides it: architecture and the library it comes from, recipe, preprocessing, data
    and split, seed, torch version. A damaged file is replaced.

    Parameters
    ----------
    module : torch.nn.Module
        Freshly built with the seed; changed in place.

    Returns
    -------
    Path
        The file that holds the weights.

    Raises
    ------
    StoreError
        If they cannot be kept in the cache folder.
    """
    plan = replace(PLAN, seed=seed)
    path, key = weights_path(spec, preprocessing, data, seed)
    if path.exists():
        try:
            load_checkpoint(module, path)
        except CheckpointError:
            reporter.say(f"The cached weights {path} are damaged; training them again.")
        else:
            recorded = read_metadata(path).get("accuracy", "accuracy not recorded")
            reporter.say(f"Weights: trained on {data.name}, cached at {path} ({recorded}).")
            return path
    make_folder(path.parent)  # before the work
    transform = preprocessing.build()
    reporter.say(
        f"Weights: none cached for {spec.spec} on {data.name}; training them now on the train split "
        f"({len(data.splits['train'])} images, {plan.epochs} epochs, seed {seed}). This happens once."
    )
    estimate, low, high = _train(module, data, transform, plan, execution, reporter)
    recorded = f"{estimate:.2%} [{low:.2%}, {high:.2%}] on the score split"
    write_weights(module, path, {"key": key, "accuracy": recorded})
    reporter.say(f"Weights: accuracy {recorded}; kept at {path}.")
    return path


def weights_path(spec: ModelSpec, preprocessing: Preprocessing, data: LabelledData, seed: int) -> tuple[Path, str]:
    """Where the weights are kept once they are trained, and the key that the file's name is made of."""
    plan = replace(PLAN, seed=seed)
    key = {
        "recipe": RECIPE,
        "plan": plan.to_dict(),
        "shift": MAX_SHIFT,
        "model": spec.spec,
        "library": version(spec.source) if spec.source != "factory" else "",
        "torch": torch.__version__,
        "preprocessing": preprocessing.to_dict(),
        "data": data.fingerprint(),
        "splits": data.split_fingerprint(),
    }
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_folder() / "weights" / f"{data.name}-{spec.name}-seed{seed}-{digest}.safetensors", text


def _train(
    module: nn.Module,
    data: LabelledData,
    transform: Transform,
    plan: TrainingPlan,
    execution: Execution,
    reporter: Reporter,
) -> tuple[float, float, float]:
    images, labels = load_split(data, "train", transform, execution)
    held_images, held_labels = load_split(data, "score", transform, execution)

    def evaluate(model: nn.Module) -> Evaluation:
        return Evaluation(*accuracy(model, held_images, held_labels, execution.batch_size))

    module.to(images.device)
    history = train(
        module,
        InMemory(images, labels),
        plan=plan,
        regularizer=None,
        evaluate=evaluate,
        augment=_shift(images.shape[-1]),
        reporter=reporter,
        description=f"Training on {data.name}",
    )
    last = history.epochs[-1]
    return last.val_accuracy, last.val_accuracy_low, last.val_accuracy_high


class _Shift:
    """Move each image by up to a sixteenth of its size, edges repeated: digits are centred by hand."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        p, size = self._pixels, images.shape[-1]
        padded = nn.functional.pad(images, (p, p, p, p), mode="replicate")
        offsets = torch.randint(0, 2 * p + 1, (len(images), 2), generator=generator).tolist()
        return torch.stack([padded[i, :, y : y + size, x : x + size] for i, (y, x) in enumerate(offsets)])


def _shift(size: int) -> _Shift:
    return _Shift(max(1, MAX_SHIFT * size // 32))
