"""The declaration of an audit: what it refuses, what a file may say, and how it is kept."""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.api.audit_plan import nested_sets, shares_within
from auditor.api.audit_settings import HYPOTHESES, AuditSettings, Margins
from auditor.errors import AuditorError, OptionError, UnknownNameError

WRONG: list[tuple[dict[str, Any], type[AuditorError], tuple[str, ...]]] = [
    ({"hypotheses": ("necesity",)}, UnknownNameError, ("hypothesis", "'necesity'", "closest: necessity", "wanted:")),
    ({"hypotheses": ()}, OptionError, ("needs a hypothesis", "sufficiency")),
    ({"match": ("firing",)}, UnknownNameError, ("covariate", "'firing'", "closest: firing_rate")),
    ({"match": ()}, OptionError, ("matched on something", "output_norm")),
    ({"pool": "other"}, UnknownNameError, ("pool", "'other'", "closest: others")),
    ({"measure": "acuracy"}, UnknownNameError, ("measure", "'acuracy'", "closest: accuracy")),
    ({"select_over": "layer"}, UnknownNameError, ("selection", "'layer'", "closest: layers")),
    ({"engine": "exakt"}, UnknownNameError, ("engine", "'exakt'", "closest: exact")),
    ({"dtype": "float64"}, UnknownNameError, ("type", "'float64'", "float32")),
    ({"engine": "hooks", "dtype": "bfloat16"}, OptionError, ("as it is", "--dtype float32", "bfloat16", "fix:")),
    ({"edit": "zeros"}, UnknownNameError, ("edit", "'zeros'", "closest: zero")),
    ({"alpha": 0.0}, OptionError, ("alpha must lie between 0 and 1", "got:     0.0", "alpha=0.05")),
    ({"alpha": 1.5}, OptionError, ("alpha must lie between", "1.5")),
    ({"alpha": float("nan")}, OptionError, ("alpha must lie between", "nan")),
    ({"alpha": 0.6}, OptionError, ("confidence must lie between", "0.4")),
    ({"q": -0.1}, OptionError, ("q must lie between", "-0.1", "q=0.05")),
    ({"q": 1.0}, OptionError, ("q must lie between", "1.0")),
    ({"shares": ()}, OptionError, ("shares must be rising", "wanted:  such as 0.0", "[]")),
    ({"shares": (0.1, 0.05)}, OptionError, ("shares must be rising", "[0.1, 0.05]")),
    ({"shares": (0.1, 0.1)}, OptionError, ("shares must be rising",)),
    ({"shares": (0.5, 1.0)}, OptionError, ("shares must be rising",)),
    ({"shares": (0.0, 0.5)}, OptionError, ("shares must be rising",)),
    ({"shares": (float("nan"),)}, OptionError, ("shares must be rising", "nan")),
    ({"keep_shares": (0.9, 0.75)}, OptionError, ("keep_shares must be rising", "[0.9, 0.75]")),
    ({"draws": 199}, OptionError, ("draws must be at least 200", "an integer of 200 or more", "199", "--draws 200")),
    ({"draws": 250.5}, OptionError, ("draws must be a whole number", "250.5")),
    ({"keep_draws": 19}, OptionError, ("keep_draws must be at least 20", "19")),
    ({"resamples": 199}, OptionError, ("resamples must be at least 200", "199")),
    ({"neighbours": 1}, OptionError, ("neighbours must be at least 2", "got:     1")),
    ({"check": -1}, OptionError, ("check must be at least 0", "-1")),
    ({"limit": 0}, OptionError, ("limit must be at least 1", "got:     0")),
    ({"limit": True}, OptionError, ("limit must be a whole number", "True")),
    ({"seed": -1}, OptionError, ("seed must be at least 0", "-1")),
    ({"seed": 1.5}, OptionError, ("seed must be a whole number", "1.5")),
    ({"memory": 0.0}, OptionError, ("memory must be a positive number", "got:     0.0", "fix:")),
    ({"memory": float("inf")}, OptionError, ("memory must be a positive number", "inf")),
]


@pytest.mark.parametrize("wrong, kind, parts", WRONG, ids=[repr(w[0]) for w in WRONG])
def test_what_cannot_be_declared_is_refused_with_a_remedy(
    wrong: dict[str, Any], kind: type[AuditorError], parts: tuple[str, ...]
) -> None:
    with pytest.raises(kind) as caught:
        AuditSettings(**wrong)
    for part in parts:
        assert part in str(caught.value)


def test_every_field_that_can_be_wrong_is_tried() -> None:
    tried = {name for wrong, _, _ in WRONG for name in wrong}
    assert {f.name for f in fields(AuditSettings)} - tried == {"margins", "by"}  # `by` depends on the run


@pytest.mark.parametrize("name", [f.name for f in fields(Margins)])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_margins_are_numbers_that_are_not_negative(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        Margins(**{name: value})
    assert f"{name!r} must be a number of 0 or more" in str(caught.value)
    assert f"{name} = 0.01" in str(caught.value)
    assert getattr(Margins(**{name: 0}), name) == 0


def test_the_defaults_are_all_hypotheses_but_the_one_that_trains() -> None:
    assert set(HYPOTHESES) - set(AuditSettings().hypotheses) == {"intervention"}
    assert AuditSettings().confidence == pytest.approx(0.95)
    assert AuditSettings(alpha=0.1).confidence == pytest.approx(0.9)


def test_it_is_kept_as_plain_values_that_say_everything() -> None:
    made = AuditSettings(shares=(0.1, 0.2), match=("mean", "firing_rate"), limit=7, margins=Margins(accuracy=0.03))
    plain = made.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) == {f.name for f in fields(AuditSettings)}
    again = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    assert AuditSettings(**{**again, "margins": Margins(**again["margins"])}) == made


GOOD = """
hypotheses = ["necessity", "controls"]
alpha = 0.01
by = "dprime"
shares = [0.1, 0.2]
match = ["mean", "firing_rate"]
draws = 300
memory = 1
limit = 50

[margins]
accuracy = 0.02
correlation = 0
"""


def declared(folder: Path, text: str) -> Path:
    path = folder / "audit.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_declares_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    found = AuditSettings.from_toml(declared(tmp_path, GOOD))
    assert found == AuditSettings(
        hypotheses=("necessity", "controls"), alpha=0.01, by="dprime", shares=(0.1, 0.2),
        match=("mean", "firing_rate"), draws=300, memory=1, limit=50, margins=Margins(accuracy=0.02, correlation=0),
    )  # fmt: skip
    changed = AuditSettings.from_toml(str(tmp_path / "audit.toml"), draws=400, seed=9)
    assert (changed.draws, changed.seed, changed.alpha) == (400, 9, 0.01)
    with pytest.raises(OptionError, match="draws must be at least 200"):
        AuditSettings.from_toml(tmp_path / "audit.toml", draws=10)
    assert AuditSettings.from_toml(declared(tmp_path, "")) == AuditSettings()


def test_every_field_can_be_declared_in_a_file(tmp_path: Path) -> None:
    plain = AuditSettings(memory=2.0, limit=5).to_dict()
    margins = plain.pop("margins")
    text = [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    text += ["[margins]", *(f"{name} = {value}" for name, value in margins.items())]
    assert AuditSettings.from_toml(declared(tmp_path, "\n".join(text))) == AuditSettings(memory=2.0, limit=5)


@pytest.mark.parametrize(
    "text, kind, parts",
    [
        ("drwas = 300", UnknownNameError, ("setting", "'drwas'", "closest: draws", "audit.toml")),
        ("[margin]\naccuracy = 0.1", UnknownNameError, ("setting", "'margin'", "margins")),
        ("[margins]\nacuracy = 0.1", UnknownNameError, ("margin", "'acuracy'", "closest: accuracy", "audit.toml")),
        ("margins = 0.1", OptionError, ("must be a table", "[margins]", "0.1")),
        ("[margins]\naccuracy = true", OptionError, ("'accuracy'", "True")),
        ('[margins]\naccuracy = "much"', OptionError, ("'accuracy'", "'much'")),
        ("alpha = true", OptionError, ("'alpha'", "wrong type", "a number", "True")),
        ("seed = true", OptionError, ("'seed'", "a whole number", "True")),
        ("draws = 300.5", OptionError, ("'draws'", "a whole number", "300.5")),
        ("limit = 2.5", OptionError, ("'limit'", "a whole number")),
        ('draws = "300"', OptionError, ("'draws'", "a whole number", "'300'")),
        ("by = 3", OptionError, ("'by'", "text such as 'excess'", "3")),
        ("shares = 0.1", OptionError, ("'shares'", "a list such as [0.0")),
        ("shares = [true]", OptionError, ("'shares'", "[True]")),
        ('match = "mean"', OptionError, ("'match'", "a list such as ['mean']", "'mean'")),
        ("match = [1]", OptionError, ("'match'", "[1]")),
        ("draws = 10", OptionError, ("draws must be at least 200",)),
        ("draws = ", OptionError, ("cannot be read", "a TOML file")),
        ("alpha = nan", OptionError, ("alpha must lie between",)),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    tmp_path: Path, text: str, kind: type[AuditorError], parts: tuple[str, ...]
) -> None:
    with pytest.raises(kind) as caught:
        AuditSettings.from_toml(declared(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(OptionError, match="cannot be read"):
            AuditSettings.from_toml(path)
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"by = '\xff'")
    with pytest.raises(OptionError, match="cannot be read"):
        AuditSettings.from_toml(path)


@settings(max_examples=40)
@given(
    shares=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=5, unique=True).map(sorted),
    over=st.sampled_from(["layers", "network"]),
    seed=st.integers(0, 99),
)
def test_any_shares_give_nested_sets_of_rising_size(shares: list[float], over: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    site = np.repeat(["a", "b", "c"], [5, 12, 30])
    units = pd.DataFrame({"site": site, "dead": False, "mean": rng.random(len(site))})
    score, covariates = rng.random(len(site)), units[["mean"]].to_numpy()
    declared = AuditSettings(keep_shares=tuple(shares), select_over=over, keep_draws=20)
    place = shares_within(score, pd.factorize(units["site"])[0], over=over)
    expected = sorted({int((place <= share).sum()) for share in shares} - {0})
    if not expected or expected[-1] < 0.5 * max(shares) * len(site):  # the units are too few for such a share
        with pytest.raises(OptionError):
            nested_sets(units, score, score, covariates, declared, kept=True)
        return
    sets = nested_sets(units, score, score, covariates, declared, kept=True)
    assert list(sets.counts) == expected
    groups = [set(range(len(site))) - set(rows.tolist()) for rows in sets.groups()]
    assert len(groups) == (2 + declared.keep_draws) * len(expected)
    for start in range(0, len(groups), len(expected)):
        own = groups[start : start + len(expected)]
        assert [len(rows) for rows in own] == expected
        assert all(smaller < larger for smaller, larger in pairwise(own))
    if over == "layers":  # each gives its share, rounded
        for name, n in (("a", 5), ("b", 12), ("c", 30)):
            taken = (site[sets.chosen[: sets.counts[-1]]] == name).sum()
            assert abs(taken - max(shares) * n) <= 0.5 + 1e-9
