"""Training: learns, resumes to the same weights, fails clearly."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from auditor.ablation import accuracy_with_interval
from auditor.errors import ModelError, OptionError, RunError, UnknownNameError
from auditor.models import probe_sites
from auditor.training import SelectivityRegularizer, TrainingPlan, train


@pytest.fixture
def training_set() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(20)
    images = torch.rand(60, 3, 16, 16, generator=generator)
    images[torch.arange(60), labels] += 1.0
    return images, labels


class Evaluate:
    """Accuracy on the training set; optionally pulls the plug after some epochs."""

    def __init__(self, data: tuple[Tensor, Tensor], stop_after: int | None = None) -> None:
        self.images, self.labels = data
        self.stop_after = stop_after
        self.calls = 0

    def __call__(self, model: nn.Module) -> tuple[float, float, float]:
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        with torch.no_grad():
            return accuracy_with_interval((model(self.images).argmax(1) == self.labels).numpy())


def fit(model: nn.Module, data: tuple[Tensor, Tensor], plan: TrainingPlan, **options: object) -> list[object]:
    regularizer = SelectivityRegularizer(probe_sites(model, data[0][:2]))
    stop = options.pop("stop_after", None)
    return train(model, *data, plan=plan, regularizer=regularizer, evaluate=Evaluate(data, stop), **options)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns(tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor], optimizer: str) -> None:
    plan = TrainingPlan(epochs=8, learning_rate=0.02, batch_size=12, optimizer=optimizer)
    history = fit(tiny_resnet, training_set, plan)
    assert history[-1].val_accuracy > 0.95
    assert history[-1].cross_entropy < history[0].cross_entropy
    assert not tiny_resnet.training
    # Alpha 0 measures selectivity without training on it.
    assert history[0].train_loss == pytest.approx(history[0].cross_entropy)
    assert history[0].samples_per_class == 4


def test_loss_is_cross_entropy_minus_alpha_times_selectivity(
    tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]
) -> None:
    history = fit(tiny_resnet, training_set, TrainingPlan(alpha=-2.0, epochs=1, batch_size=12))
    record = history[0]
    assert record.train_loss == pytest.approx(record.cross_entropy + 2.0 * record.batch_si, abs=1e-5)


def test_alpha_moves_selectivity(tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    last = {}
    for alpha in (-3.0, 0.0, 3.0):
        plan = TrainingPlan(alpha=alpha, epochs=6, learning_rate=0.02, batch_size=12)
        last[alpha] = fit(copy.deepcopy(tiny_resnet), training_set, plan)[-1].batch_si
    assert last[-3.0] < last[0.0] < last[3.0]


@pytest.mark.parametrize("balanced", [True, False])
def test_resumed_equals_undisturbed(
    tiny_resnet: nn.Module, training_set: tuple[Tensor, Tensor], tmp_path: Path, balanced: bool
) -> None:
    plan = TrainingPlan(alpha=1.0, epochs=4, batch_size=12, balanced=balanced, seed=5)
    whole, broken = copy.deepcopy(tiny_resnet), copy.deepcopy(tiny_resnet)
    expected = fit(whole, training_set, plan)
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(broken, training_set, plan, state=state, stop_after=2)
    fresh = copy.deepcopy(tiny_resnet)
    assert fit(fresh, training_set, plan, state=state) == expected
    for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)


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


def test_alpha_needs_a_regularizer(tiny_cnn: nn.Module, training_set: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(OptionError, match="needs a regularizer"):
        train(tiny_cnn, *training_set, plan=TrainingPlan(alpha=1.0), regularizer=None, evaluate=Evaluate(training_set))


@pytest.mark.parametrize(
    "options, error",
    [
        ({"optimizer": "sdg"}, UnknownNameError),
        ({"epochs": 0}, OptionError),
        ({"batch_size": 1}, OptionError),
        ({"learning_rate": -1.0}, OptionError),
        ({"alpha": float("nan")}, OptionError),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        TrainingPlan(**options)


def test_the_rate_rises_and_falls() -> None:
    plan = TrainingPlan(learning_rate=1.0, warmup=0.2)
    rates = [plan.rate(step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[9] <= 1.0
    assert rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
