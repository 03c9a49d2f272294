"""Training: learns, resumes to the same weights, fails clearly."""

from __future__ import annotations

import copy
import filecmp
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from auditor.errors import DataError, ModelError, OptionError, RunError
from auditor.models import probe_sites
from auditor.training import (
    Evaluation,
    InMemory,
    SelectivityRegularizer,
    ShuffledBatches,
    Training,
    TrainingPlan,
    choose_sites,
    evaluate_network,
    shuffled_labels,
    train,
    training_metric,
)
from auditor.units import Site


@pytest.fixture
def training_set() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(20)
    images = torch.rand(60, 3, 16, 16, generator=generator)
    images[torch.arange(60), labels] += 1.0
    return images, labels


class Evaluate:
    """Accuracy and selectivity on the training set; optionally pulls the plug after some epochs."""

    def __init__(self, data: tuple[Tensor, Tensor], sites: list[Site], stop_after: int | None = None) -> None:
        self.images, self.labels = data[0], data[1].numpy()
        self.sites = sites
        self.stop_after = stop_after
        self.calls = 0

    def __call__(self, model: nn.Module) -> Evaluation:
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        return evaluate_network(
            model,
            [(self.images, self.labels)],
            sites=self.sites,
            metric=training_metric("index"),
            rectify=True,
            shuffled=shuffled_labels(self.labels, 0),
            n_classes=3,
        )


def fit(model: nn.Module, data: tuple[Tensor, Tensor], plan: TrainingPlan, **options: Any) -> Training:
    sites = probe_sites(model, data[0][:2])
    momentum = plan.momentum
    regularizer = SelectivityRegularizer(
        choose_sites(sites, plan.regularize, defined=sites),
        metric=training_metric(plan.metric),
        rectify=plan.signed == "rectify",
        momentum=momentum,
        n_classes=None if momentum is None else 3,
    )
    evaluate = options.pop("evaluate", None) or Evaluate(data, sites, options.pop("stop_after", None))
    return train(model, InMemory(*data), plan=plan, regularizer=regularizer, evaluate=evaluate, **options)


def accuracies(*values: float) -> Callable[[nn.Module], Evaluation]:
    """Pretend that validation accuracy takes these values."""
    given = iter(values)
    return lambda _model: Evaluation(next(given), 0.0, 1.0)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns(tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor], optimizer: str) -> None:
    plan = TrainingPlan(epochs=8, learning_rate=0.02, batch_size=12, optimizer=optimizer)
    history = fit(tiny_resnet, training_set, plan).epochs
    assert history[-1].val_accuracy > 0.95
    assert history[-1].cross_entropy < history[0].cross_entropy
    assert not tiny_resnet.training
    # Alpha 0 measures selectivity without training on it.
    assert history[0].train_loss == pytest.approx(history[0].cross_entropy)
    assert history[0].samples_per_class == 4


def test_loss_is_cross_entropy_minus_alpha_times_selectivity(
    tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]
) -> None:
    history = fit(tiny_resnet, training_set, TrainingPlan(alpha=-2.0, epochs=1, batch_size=12)).epochs
    record = history[0]
    assert record.train_loss == pytest.approx(record.cross_entropy + 2.0 * record.batch_si, abs=1e-5)


def test_alpha_moves_selectivity(tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    last = {}
    for alpha in (-3.0, 0.0, 3.0):
        plan = TrainingPlan(alpha=alpha, epochs=6, learning_rate=0.02, batch_size=12)
        last[alpha] = fit(copy.deepcopy(tiny_resnet), training_set, plan).epochs[-1].batch_si
    assert last[-3.0] < last[0.0] < last[3.0]


RESUMED = {
    "balanced": {},
    "unbalanced": {"balanced": False},
    "running means": {"class_means": "running:0.8"},
    "running d prime": {"class_means": "running", "metric": "dprime"},
    "alpha from an epoch": {"alpha_schedule": "from:3"},
    "alpha warmed up": {"alpha_schedule": "warmup:3"},
    "augmented": {"augment": "flip-shift", "schedule": "step"},
    "cropped": {"augment": "resized-crop", "clip_norm": 0.5, "optimizer": "adamw"},
    "best weights": {"keep": "best", "learning_rate": 0.2},
    "early stopping": {"patience": 1, "keep": "best", "learning_rate": 0.3},
    "bfloat16": {"precision": "bfloat16"},
    "some layers": {"regularize": "last:2"},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED.keys())
def test_resumed_equals_undisturbed(
    tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor], tmp_path: Path, options: dict[str, Any]
) -> None:
    plan = TrainingPlan(**{"alpha": 1.0, "epochs": 4, "batch_size": 12, "seed": 5, **options})
    whole, broken, fresh = (copy.deepcopy(tiny_resnet) for _ in range(3))
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    expected = fit(whole, training_set, plan, state=tmp_path / "whole" / "state.pt")
    state = tmp_path / "broken" / "state.pt"
    stop = len(expected.epochs) // 2
    with pytest.raises(KeyboardInterrupt):
        fit(broken, training_set, plan, state=state, stop_after=stop)
    found = fit(fresh, training_set, plan, state=state)
    assert repr(found) == repr(expected)  # NaN equals itself there
    assert same_weights(whole, fresh)
    for name in ("best.safetensors", "last.safetensors"):
        assert filecmp.cmp(tmp_path / "whole" / name, tmp_path / "broken" / name, shallow=False), name


def test_patience_ends_the_training(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    plan = TrainingPlan(epochs=9, patience=2)
    history = fit(tiny_cnn, training_set, plan, evaluate=accuracies(0.2, 0.5, 0.4, 0.5, 0.9))
    assert [record.val_accuracy for record in history.epochs] == [0.2, 0.5, 0.4, 0.5]
    assert history.best == 2


@pytest.mark.parametrize("schedule, best, epochs", [("from:3", 4, 5), ("warmup:3", 4, 5), ("until:5", 5, 6)])
def test_the_best_is_chosen_once_alpha_has_settled(
    tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor], tmp_path: Path, schedule: str, best: int, epochs: int
) -> None:
    plan = TrainingPlan(alpha=-1.0, epochs=6, patience=1, keep="best", alpha_schedule=schedule)
    rising = accuracies(0.9, 0.8, 0.3, 0.5, 0.4, 0.3)
    history = fit(tiny_cnn, training_set, plan, evaluate=rising, state=tmp_path / "state.pt")
    assert (history.best, len(history.epochs)) == (best, epochs)


@pytest.mark.parametrize("with_state", [True, False])
def test_the_best_epochs_weights_are_kept(
    tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor], tmp_path: Path, with_state: bool
) -> None:
    best, last = copy.deepcopy(tiny_cnn), copy.deepcopy(tiny_cnn)
    state = tmp_path / "state.pt" if with_state else None
    seen = []

    def evaluate(model: nn.Module) -> Evaluation:
        seen.append(copy.deepcopy(model))
        return Evaluation((0.1, 0.9, 0.3)[len(seen) - 1], 0.0, 1.0)

    fit(best, training_set, TrainingPlan(epochs=3, keep="best"), evaluate=evaluate, state=state)
    assert same_weights(best, seen[1])
    fit(last, training_set, TrainingPlan(epochs=3), evaluate=accuracies(0.1, 0.9, 0.3))
    assert same_weights(last, seen[2])
    if with_state:
        for name, model in (("best", seen[1]), ("last", seen[2])):
            saved = load_file(tmp_path / f"{name}.safetensors")
            assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


def test_alpha_counts_from_its_epoch_on(tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    late, never = copy.deepcopy(tiny_resnet), copy.deepcopy(tiny_resnet)
    switched = fit(late, training_set, TrainingPlan(alpha=-5.0, epochs=3, alpha_schedule="from:3"))
    control = fit(never, training_set, TrainingPlan(alpha=0.0, epochs=3))
    assert [str(record.alpha) for record in switched.epochs] == ["0.0", "0.0", "-5.0"]
    assert switched.epochs[1] == control.epochs[1]
    assert switched.epochs[2].val_si < control.epochs[2].val_si
    assert switched.epochs[2].train_loss == pytest.approx(
        switched.epochs[2].cross_entropy + 5 * switched.epochs[2].batch_si, abs=1e-5
    )


def test_clipping_bounds_the_step(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    before = copy.deepcopy(tiny_cnn)
    plan = TrainingPlan(epochs=1, batch_size=60, clip_norm=1e-3, weight_decay=0.0, warmup=0.0, learning_rate=1.0)
    fit(tiny_cnn, training_set, plan)
    moved = sum(
        float((a - b).detach().square().sum()) for a, b in zip(tiny_cnn.parameters(), before.parameters(), strict=True)
    )
    # Nesterov's first step is (1 + momentum) times the gradient.
    assert moved**0.5 == pytest.approx(1.9e-3, rel=1e-3)


def test_half_precision_trains_in_that_type(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    seen = set()
    tiny_cnn.conv1.register_forward_hook(lambda module, _, output: seen.add((module.training, output.dtype)))
    history = fit(tiny_cnn, training_set, TrainingPlan(alpha=1.0, epochs=1, precision="bfloat16"))
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert next(tiny_cnn.parameters()).dtype == torch.float32
    assert 0 < history.epochs[0].batch_si < 1
    with pytest.raises(OptionError, match="needs a GPU"):
        fit(tiny_cnn, training_set, TrainingPlan(epochs=1, precision="float16"))


def test_layers_are_recorded_one_by_one(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        tiny_cnn.conv2.weight[:4] = 0.0
        tiny_cnn.conv2.bias[:4] = -1.0
    plan = TrainingPlan(alpha=-1.0, epochs=2, regularize=("act2", "act3"), learning_rate=1e-4)
    history = fit(tiny_cnn, training_set, plan)
    layers = [record for record in history.layers if record.epoch == 2]
    assert [(record.site, record.n_units) for record in layers] == [("act1", 8), ("act2", 12), ("act3", 10)]
    assert layers[1].dead == 4
    assert history.epochs[1].dead == sum(record.dead for record in layers)
    assert math.isnan(layers[0].batch_si)
    assert history.epochs[1].batch_si == pytest.approx((layers[1].batch_si + layers[2].batch_si) / 2)
    assert history.epochs[1].val_si == pytest.approx((layers[1].val_si + layers[2].val_si) / 2)
    assert 0 < history.epochs[1].val_si_floor < history.epochs[1].val_si
    assert 0 < history.epochs[1].batch_si_floor < 1


def test_training_sets_no_hook_that_stays(tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    fit(tiny_resnet, training_set, TrainingPlan(alpha=1.0, epochs=1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_resnet.modules())


def test_the_global_generator_is_left_alone(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    before = torch.random.get_rng_state()
    fit(tiny_cnn, training_set, TrainingPlan(epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_damaged_state_is_named(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    state.write_bytes(b"not a state")
    with pytest.raises(RunError, match="cannot be read"):
        fit(tiny_cnn, training_set, TrainingPlan(epochs=1), state=state)


def test_divergence_is_an_error(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        tiny_cnn.fc2.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="epoch 1, batch 1"):
        fit(tiny_cnn, training_set, TrainingPlan(epochs=1))


def test_weights_that_the_last_step_spoils_are_an_error(
    tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    plan = TrainingPlan(epochs=1, batch_size=60, warmup=0.0, learning_rate=3e38)
    with pytest.raises(ModelError, match=r"weights .* became NaN or infinite in epoch 1"):
        fit(tiny_cnn, (1e4 * training_set[0], training_set[1]), plan, state=tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_outputs_that_overflow_are_an_error(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        tiny_cnn.fc2.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="held-out images became NaN"):
        Evaluate(training_set, probe_sites(tiny_cnn, training_set[0][:2]))(tiny_cnn.eval())


def test_a_batch_of_one_class_is_learned_without_selectivity(
    tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]
) -> None:
    images, labels = training_set
    rows = torch.cat([torch.arange(24), torch.tensor([27, 30])])  # the last batch holds two images
    data = images[rows], labels[rows] * 0 + (torch.arange(26) >= 24)
    plan = next(
        plan
        for plan in (TrainingPlan(alpha=-2.0, epochs=1, batch_size=8, balanced=False, seed=seed) for seed in range(99))
        if [len(set(data[1][each].tolist())) for each in ShuffledBatches(data[1].numpy(), 8, seed=plan.seed).epoch(0)]
        == [1, 2, 1, 1]
    )
    record = fit(tiny_resnet, data, plan).epochs[0]
    assert 0 < record.batch_si < 1
    # One batch of four has the term.
    assert record.train_loss == pytest.approx(record.cross_entropy + 2 * record.batch_si / 4, abs=1e-5)
    assert record.samples_per_class == pytest.approx((8 + 4 + 8 + 2) / 4)


def test_one_class_is_refused(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    images, labels = training_set
    with pytest.raises(DataError, match="at least two classes"):
        fit(tiny_cnn, (images[labels == 1], labels[labels == 1]), TrainingPlan(epochs=1))


def test_alpha_needs_a_regularizer(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(OptionError, match="needs a regularizer"):
        train(
            tiny_cnn,
            InMemory(*training_set),
            plan=TrainingPlan(alpha=1.0),
            regularizer=None,
            evaluate=Evaluate(training_set, []),
        )
