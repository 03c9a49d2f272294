"""What a fine-tune will take, from a few steps that are really made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.api.forward import Execution, load_split
from auditor.api.models import Prepared
from auditor.api.plan_clock import Part, Stopwatch, Timed, batch_of, seconds
from auditor.api.plan_counts import Counts
from auditor.api.run import Run
from auditor.api.tuning_settings import regularization
from auditor.data import LabelledData
from auditor.progress import QUIET
from auditor.training import Evaluation, InMemory, TrainingPlan, evaluate_network, shuffled_labels, train
from auditor.training.batches import BalancedBatches, ShuffledBatches

_STEPS, _PASSES = 4, 3.5
_FIGURES = 0.4
"""Comparison and figure of a fine-tune, as a share of everything but images and scores of a profile."""


@dataclass(frozen=True)
class TrainingCost:
    """Measured on this machine.

    Attributes
    ----------
    image : Timed
        One image of a step: forward, regularizer, backward and its share of the update.
    evaluate : Timed
        One image of the evaluation after each epoch.
    epoch : Timed
        What is saved after each epoch.
    read : Timed
        One image read and preprocessed.
    fixed : Timed
        Comparison and figure.
    """

    image: Timed
    evaluate: Timed
    epoch: Timed
    read: Timed
    fixed: Timed


def measure_training(
    run: Run, prepared: Prepared, data: LabelledData, counts: Counts, plan: TrainingPlan, execution: Execution, *,
    image: Timed, fixed: Timed, budget: float, folder: Path,
) -> TrainingCost:  # fmt: skip
    """Train a copy of the network for a few steps.

    Parameters
    ----------
    run : Run
        Tells which layers can be regularized.
    prepared : Prepared
        The run's model; left as it is.
    data : LabelledData
        Its images.
    counts : Counts
    plan : TrainingPlan
    execution : Execution
    image, fixed : Timed
        Of the profile: one image, and everything but images and scores.
    budget : float
        Seconds, about.
    folder : Path

    Raises
    ------
    ModelError
        If no layer can be regularized.
    """
    transform, n_classes = prepared.preprocessing.build(), len(data.classes)
    step = _STEPS * _PASSES * image.seconds
    size = batch_of(budget, step, 3 * counts.forward, least=4, most=plan.batch_size)
    few = data.limited(size)
    loaded: list[tuple[torch.Tensor, NDArray[np.int64]]] = []

    def read() -> None:
        for split in ("train", "select"):
            images, labels = load_split(few, split, transform, execution)
            loaded.append((images, labels.cpu().numpy()))

    reading = seconds(read) / sum(len(few.splits[split]) for split in ("train", "select"))
    (images, labels), held = loaded
    # As many batches as steps, of images that may come again: what is in them does not change the time.
    rows = np.resize(np.arange(len(labels)), _STEPS * size)
    source = InMemory(images[torch.from_numpy(rows).to(images.device)], torch.from_numpy(labels[rows]))
    chosen = regularization(run, plan, QUIET)
    shuffled = shuffled_labels(held[1], plan.seed)
    evaluating: list[float] = []

    def evaluate(model: torch.nn.Module) -> Evaluation:
        found: list[Evaluation] = []

        def work() -> None:
            found.append(
                evaluate_network(
                    model,
                    [held],
                    sites=chosen.measured,
                    metric=chosen.metric,
                    rectify=chosen.rectify,
                    shuffled=shuffled,
                    n_classes=n_classes,
                )
            )

        evaluating.append(seconds(work))
        return found[0]

    clock = Stopwatch()
    train(
        copy.deepcopy(prepared.module), source,
        # The weights are thrown away: nothing is learned, so nothing can diverge.
        plan=replace(plan, epochs=1, batch_size=size, learning_rate=1e-9, patience=None),
        regularizer=chosen.build(plan, n_classes), evaluate=evaluate, state=folder / "training" / "state.pt",
        reporter=clock, description="Fine-tuning",
    )  # fmt: skip
    span = clock.span("Fine-tuning")
    kind = BalancedBatches if plan.balanced else ShuffledBatches
    in_batch = len(next(kind(source.labels, size, seed=plan.seed).epoch(0)))  # a multiple of the classes
    steps = [taken / in_batch for taken, amount in span.steps if amount > 0]
    saved = max(0.0, span.seconds - sum(taken for taken, _ in span.steps) - sum(evaluating))
    each = evaluating[0] / max(1, len(held[1]))
    return TrainingCost(
        Timed.of(steps[1:] or steps), Timed(each, each, each), Timed(saved, saved, saved),
        Timed(reading, reading, reading), fixed.times(_FIGURES),
    )  # fmt: skip


def training_parts(
    counts: Counts, cost: TrainingCost, n_images: Mapping[str, int], plan: TrainingPlan, *, start: Timed
) -> list[Part]:
    """What reading, steps and evaluations take; the profile of the result comes after them.

    A step is counted as three passes: one forward and, for inputs and weights, two of the same size backward.
    """
    job = "finetune"
    n, held, epochs = n_images["train"], n_images["select"], plan.epochs
    trained = epochs * n
    learned = cost.image.times(trained)
    after = cost.evaluate.times(epochs * held)
    state = 4 * counts.weights  # weights, their gradients, the optimizer's momentum, the best epoch
    return [
        Part(
            job, "start, data and model", "images", start.plus(cost.read.times(n + held)),
            memory=counts.weights + counts.image * (n + held),
        ),
        Part(
            job, f"training, {epochs} epochs", "images x epochs", learned, 3 * counts.forward * trained,
            counts.weights, state + counts.kept * min(plan.batch_size, max(n, 1)), parallel=True,
        ),
        Part(
            job, "evaluation after each epoch", "images x epochs", after.plus(cost.epoch.times(epochs)),
            counts.forward * epochs * held, parallel=True,
        ),
        Part(job, "comparison and figures", "units", cost.fixed),
    ]  # fmt: skip
