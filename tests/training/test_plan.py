"""Plans: what they refuse, what stays of an old one's identity, and how rate and alpha go."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from auditor.errors import ModelError, OptionError, UnknownNameError
from auditor.training import TrainingPlan, choose_sites
from auditor.units import Site


@pytest.mark.parametrize(
    "options, error",
    [
        ({"optimizer": "sdg"}, UnknownNameError),
        ({"schedule": "cosin"}, UnknownNameError),
        ({"augment": "flip"}, UnknownNameError),
        ({"precision": "half"}, UnknownNameError),
        ({"keep": "first"}, UnknownNameError),
        ({"signed": "shift"}, UnknownNameError),
        ({"metric": "indx"}, UnknownNameError),
        ({"epochs": 0}, OptionError),
        ({"epochs": 1.5}, OptionError),
        ({"seed": -1}, OptionError),
        ({"seed": 2**32}, OptionError),
        ({"batch_size": 3}, OptionError),
        ({"batch_size": 1}, OptionError),
        ({"learning_rate": -1.0}, OptionError),
        ({"alpha": float("nan")}, OptionError),
        ({"clip_norm": 0.0}, OptionError),
        ({"patience": 0}, OptionError),
        ({"warmup": 1.0}, OptionError),
        ({"weight_decay": -1.0}, OptionError),
        ({"class_means": "running:1.5"}, OptionError),
        ({"alpha_schedule": "from"}, OptionError),
        ({"alpha_schedule": "from:0"}, OptionError),
        ({"alpha_schedule": "from:11"}, OptionError),
        ({"alpha_schedule": "until:1"}, OptionError),
        ({"alpha_schedule": "warmup:11"}, OptionError),
        ({"metric": "dprime", "signed": "rectify"}, OptionError),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TrainingPlan(**options)


def test_what_is_new_and_not_used_is_no_part_of_the_identity() -> None:
    plain = TrainingPlan(alpha=-1.0, seed=3).to_dict()
    assert plain == {
        "alpha": -1.0, "epochs": 10, "learning_rate": 0.02, "optimizer": "sgd", "weight_decay": 1e-4, "batch_size": 64,
        "balanced": True, "warmup": 0.1, "seed": 3,
    }  # fmt: skip
    assert list(plain) == list(TrainingPlan().to_dict())
    given = TrainingPlan(regularize=["layer1.*"], keep="best")  # type: ignore[arg-type]
    assert given.to_dict() == TrainingPlan().to_dict() | {"regularize": ["layer1.*"], "keep": "best"}
    assert TrainingPlan(**json.loads(json.dumps(given.to_dict()))) == given


@pytest.mark.parametrize("one, other", [(-1, -1.0), (0, 0.0), (-0.0, 0.0)])
def test_equal_alphas_are_one_setting(one: float, other: float) -> None:
    assert json.dumps(TrainingPlan(alpha=one).to_dict()) == json.dumps(TrainingPlan(alpha=other).to_dict())


def test_the_cosine_rises_and_falls() -> None:
    plan = TrainingPlan(learning_rate=1.0, warmup=0.2)
    rates = [plan.rate(step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[9] <= 1.0
    assert rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_steps_are_at_half_and_at_three_quarters() -> None:
    plan = TrainingPlan(learning_rate=1.0, warmup=0.0, schedule="step")
    rates = [plan.rate(step, 40) for step in range(40)]
    assert rates == pytest.approx([1.0] * 20 + [0.1] * 10 + [0.01] * 10)
    flat = TrainingPlan(learning_rate=0.3, warmup=0.0, schedule="constant")
    assert {flat.rate(step, 40) for step in range(40)} == {0.3}


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [-2, -2, -2, -2, -2]),
        ("warmup:4", [-0.5, -1, -1.5, -2, -2]),
        ("from:3", [0, 0, -2, -2, -2]),
        ("until:3", [-2, -2, 0, 0, 0]),
    ],
)
def test_alpha_goes_by_epochs(schedule: str, expected: list[float]) -> None:
    plan = TrainingPlan(alpha=-2.0, epochs=5, alpha_schedule=schedule)
    assert [plan.alpha_of(epoch) for epoch in range(1, 6)] == expected


def site(layer: str, call: int = 1, calls: int = 1) -> Site:
    return Site(layer=layer, call=call, calls=calls, unit_axis=1, n_units=4, shape=(4,), kind="ReLU")


SITES = [site("act1"), site("block.relu", 1, 2), site("block.relu", 2, 2), site("act3")]


@pytest.mark.parametrize(
    "regularize, expected",
    [
        ("all", [0, 1, 3]),
        ("first:2", [0, 1]),
        ("last:2", [1, 3]),
        (("act*",), [0, 3]),
        (("block.relu",), [1]),
        ("block.relu@1", [1]),
        (("act3", "block.*"), [1, 3]),
    ],
)
def test_layers_are_chosen_among_those_where_the_metric_is_defined(regularize: Any, expected: list[int]) -> None:
    defined = [SITES[0], SITES[1], SITES[3]]
    assert choose_sites(SITES, regularize, defined=defined) == [SITES[i] for i in expected]


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="act3"):
        choose_sites(SITES, ("act33",), defined=SITES)
    with pytest.raises(OptionError, match="not 5 layers"):
        choose_sites(SITES, "first:5", defined=SITES)
    with pytest.raises(ModelError, match="negative responses"):
        choose_sites(SITES, "act1", defined=SITES[1:])
    with pytest.raises(OptionError, match="No layers"):
        choose_sites(SITES, (), defined=SITES)
