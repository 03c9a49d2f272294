"""Effects against torch, scikit-learn and closed forms; coverage by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import rel_entr, softmax
from sklearn.metrics import balanced_accuracy_score

from auditor.ablation import cross_entropy, unit_effects
from auditor.ablation import effects as module
from auditor.ablation.effects import class_effects, effect_table
from auditor.ablation.pair_effects import PairEffects
from auditor.errors import DataError
from auditor.stats.intervals import paired_proportion_interval

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    intact = rng.normal(size=(40, 4)).astype(np.float32)
    ablated = intact + rng.normal(scale=0.7, size=(3, 40, 4)).astype(np.float32)
    return intact, ablated, rng.integers(4, size=40)


def from_predictions(prediction: np.ndarray, seed: int = 0) -> PairEffects:
    rng = np.random.default_rng(seed)
    kl, drop, loss = rng.gamma(1, size=prediction.shape), *rng.normal(size=(2, *prediction.shape))
    return PairEffects.from_arrays({"target_logit_drop": drop, "loss_change": loss, "kl": kl, "prediction": prediction})


def drawn(k: int, n: int, c: int, seed: int = 0) -> tuple[PairEffects, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(c, size=n)
    intact = np.where(rng.random(n) < 0.7, labels, rng.integers(c, size=n))
    return from_predictions(np.where(rng.random((k, n)) < 0.8, intact, rng.integers(c, size=(k, n)))), intact, labels


def test_cross_entropy_equals_torch(logits: tuple[np.ndarray, ...]) -> None:
    intact, _, labels = logits
    expected = torch.nn.functional.cross_entropy(torch.tensor(intact).double(), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(cross_entropy(intact, labels), expected.numpy(), atol=1e-12)


def test_effects_equal_a_loop(logits: tuple[np.ndarray, ...]) -> None:
    intact, ablated, labels = logits
    preferred = np.array([0, 3, 1])
    table = unit_effects(intact, ablated, labels, preferred)
    before = intact.argmax(1) == labels
    for k in range(3):
        own = labels == preferred[k]
        after = ablated[k].argmax(1) == labels
        row = table.iloc[k]
        assert row["accuracy_change"] == pytest.approx(after.mean() - before.mean())
        assert row["preferred_accuracy_change"] == pytest.approx(after[own].mean() - before[own].mean())
        assert row["other_accuracy_change"] == pytest.approx(after[~own].mean() - before[~own].mean())
        assert row["balanced_accuracy_change"] == pytest.approx(
            balanced_accuracy_score(labels, ablated[k].argmax(1)) - balanced_accuracy_score(labels, intact.argmax(1))
        )
        changes = [after[labels == c].mean() - before[labels == c].mean() for c in range(4)]
        assert row["worst_class_accuracy_change"] == pytest.approx(min(changes))
        assert row["worst_class"] == (np.argmin(changes) if min(changes) < 0 else -1)
        assert (row["n_images"], row["n_preferred"]) == (40, own.sum())
        drop = np.array([intact[i, labels[i]] - ablated[k, i, labels[i]] for i in range(40)], dtype=np.float64)
        loss = cross_entropy(ablated[k], labels) - cross_entropy(intact, labels)
        kl = rel_entr(softmax(intact.astype(float), -1), softmax(ablated[k].astype(float), -1)).sum(-1)
        for name, values in (("target_logit_drop", drop), ("loss_change", loss), ("kl", kl)):
            assert row[name] == pytest.approx(values.mean(), abs=1e-6)
            interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(interval, abs=1e-6)


def test_an_ablation_that_does_nothing_has_no_effect(logits: tuple[np.ndarray, ...]) -> None:
    intact, _, labels = logits
    row = unit_effects(intact, intact[None], labels, np.array([2])).iloc[0]
    for name in ("target_logit_drop", "loss_change", "kl"):
        assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == [0, 0, 0]
    for name in ("accuracy_change", "balanced_accuracy_change", "preferred_accuracy_change", "other_accuracy_change"):
        assert row[name] == 0
        assert row[f"{name}_low"] < 0 < row[f"{name}_high"]
    assert (row["worst_class"], row["worst_class_accuracy_change"]) == (-1, 0)


def test_no_ablations_give_an_empty_table(logits: tuple[np.ndarray, ...]) -> None:
    intact, ablated, labels = logits
    table = unit_effects(intact, ablated[:0], labels, np.array([], dtype=np.int64))
    assert len(table) == 0
    assert list(table) == list(unit_effects(intact, ablated, labels, np.array([0, 1, 2])))


def test_blocks_of_units_give_what_all_at_once_give(
    logits: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unit_effects(*logits, np.array([0, 3, -1]))
    effects, intact, labels = drawn(7, 30, 3)
    classes = class_effects(effects, intact, labels, list("abc"))
    monkeypatch.setattr(module, "PAIRS", 60)
    pd.testing.assert_frame_equal(unit_effects(*logits, np.array([0, 3, -1])), whole)
    pd.testing.assert_frame_equal(class_effects(effects, intact, labels, list("abc")), classes)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 6), st.integers(0, 99))
def test_parts_add_up_to_the_whole(k: int, n: int, c: int, seed: int) -> None:
    effects, intact, labels = drawn(k, n, c, seed)
    preferred = np.random.default_rng(seed).integers(-1, c + 1, size=k)
    table = effect_table(effects, intact, labels, preferred, n_classes=c + 1)
    classes = class_effects(effects, intact, labels, [str(i) for i in range(c + 1)])
    share = (classes["accuracy_change"] * classes["n_images"]).groupby(classes["row"]).sum() / n
    np.testing.assert_allclose(table["accuracy_change"], share, atol=1e-12)
    mean = classes["accuracy_change"].groupby(classes["row"]).mean()
    np.testing.assert_allclose(table["balanced_accuracy_change"], mean, atol=1e-12)
    worst = classes["accuracy_change"].groupby(classes["row"]).min()
    np.testing.assert_allclose(table["worst_class_accuracy_change"], worst, atol=1e-12)
    loss = (classes["loss_change"] * classes["n_images"]).groupby(classes["row"]).sum() / n
    np.testing.assert_allclose(table["loss_change"], loss, atol=1e-6)
    known = table[preferred >= 0]
    own = known["preferred_accuracy_change"].fillna(0) * known["n_preferred"]
    rest = known["other_accuracy_change"].fillna(0) * (n - known["n_preferred"])
    np.testing.assert_allclose((own + rest) / n, known["accuracy_change"], atol=1e-12)
    assert (table["kl_low"].fillna(0) >= 0).all()
    for name in ("accuracy_change", "balanced_accuracy_change"):
        inside = table[f"{name}_low"].isna() | table[[f"{name}_low", f"{name}_high"]].abs().le(1).all(axis=1)
        assert inside.all()


def test_an_unknown_preferred_class_has_no_figures() -> None:
    effects, intact, labels = drawn(3, 50, 4)
    table = effect_table(effects, intact, labels, np.array([-1, 4, 1]), n_classes=5)
    names = [f"{name}_accuracy_change{end}" for name in ("preferred", "other") for end in ("", "_low", "_high")]
    assert table.loc[0, names].isna().all()
    # Class 4 is known but has no images: all images are others.
    assert table.loc[1, names[:3]].isna().all()
    assert table.loc[1, names[3:]].tolist() == pytest.approx(table.loc[1, [n[6:] for n in names[3:]]].tolist())
    assert table.loc[2, names].notna().all()
    assert table["n_preferred"].tolist() == [0, 0, (labels == 1).sum()]
    assert table.filter(like="balanced").notna().all(axis=None)


def test_classes_equal_their_own_tables() -> None:
    effects, intact, labels = drawn(3, 60, 4)
    found = class_effects(effects, intact, labels, ["ant", "bee", "cat", "dog", "eel"]).set_index(["row", "class_name"])
    for c, name in enumerate(["ant", "bee", "cat", "dog"]):
        part = PairEffects.from_arrays({n: v[:, labels == c] for n, v in effects.to_arrays().items()})
        alone = effect_table(part, intact[labels == c], labels[labels == c], np.full(3, -1), n_classes=4)
        mine = found.xs(name, level="class_name")
        assert (mine["class_index"] == c).all()
        columns = [f"{what}_change{end}" for what in ("accuracy", "loss") for end in ("", "_low", "_high")]
        np.testing.assert_allclose(mine[columns], alone[columns], rtol=1e-9)
        assert (mine["n_images"] == alone["n_images"]).all()
    absent = found.xs("eel", level="class_name")
    assert absent.drop(columns=["class_index", "n_images"]).isna().all(axis=None)
    assert (absent["n_images"] == 0).all()


def test_a_class_of_one_image_has_no_interval() -> None:
    labels = np.array([0, 0, 0, 2])
    effects = from_predictions(np.array([[0, 0, 1, 1], [0, 1, 1, 2]]))
    one = class_effects(effects, labels, labels, ["a", "b", "c"]).query("class_index == 2")
    assert one["accuracy_change"].tolist() == [-1, 0]
    assert one["loss_change"].tolist() == effects.loss_change[:, 3].tolist()
    assert one.filter(regex="_low|_high").isna().all(axis=None)
    table = effect_table(effects, labels, labels, np.array([2, 2]), n_classes=3)
    assert table["balanced_accuracy_change"].tolist() == pytest.approx([-2 / 3, -1 / 3])
    assert table.filter(regex="^(balanced|preferred).*(_low|_high)$").isna().all(axis=None)
    assert table["worst_class"].tolist() == [2, 0]


def test_the_worst_class_is_the_first_of_equals_and_none_without_loss() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    intact = np.array([0, 1, 1, 1, 2, 2])
    prediction = np.array([[0, 1, 1, 0, 2, 0], [0, 0, 1, 1, 2, 2], intact])
    table = effect_table(from_predictions(prediction), intact, labels, np.zeros(3, dtype=int), n_classes=3)
    assert table["worst_class"].tolist() == [1, -1, -1]
    assert table["worst_class_accuracy_change"].tolist() == [-0.5, 0, 0]


def test_a_thousand_classes_some_absent() -> None:
    effects, intact, labels = drawn(40, 1500, 900)
    table = effect_table(effects, intact, labels, np.arange(40), n_classes=1000)
    assert table["accuracy_change_low"].notna().all()
    assert table["balanced_accuracy_change"].notna().all()
    assert table["balanced_accuracy_change_low"].isna().all()
    assert len(class_effects(effects, intact, labels, [str(i) for i in range(1000)])) == 40_000


def test_one_class_is_close_to_bonett_and_price() -> None:
    effects, intact, labels = drawn(5, 100, 1)
    intact = np.where(np.arange(100) < 80, 0, 5)
    effects = from_predictions(np.where(np.random.default_rng(0).random((5, 100)) < 0.8, intact, 5 - intact))
    table = effect_table(effects, intact, labels, np.zeros(5, dtype=int), n_classes=1)
    ends = table[["balanced_accuracy_change_low", "balanced_accuracy_change_high"]].to_numpy()
    plain = table[["accuracy_change_low", "accuracy_change_high"]].to_numpy()
    np.testing.assert_allclose(ends.mean(1), plain.mean(1), atol=1e-12)
    np.testing.assert_allclose(np.diff(ends) / np.diff(plain), np.sqrt(102 / 101), atol=1e-12)


def test_strata_narrow_the_interval() -> None:
    """One class lost whole, the others untouched: that is no sampling error within classes."""
    labels = np.repeat(np.arange(10), 50)
    effects = from_predictions(np.where(labels == 3, 0, labels)[None])
    row = effect_table(effects, labels, labels, np.array([3]), n_classes=10).iloc[0]
    assert row["balanced_accuracy_change"] == pytest.approx(-0.1)
    balanced = row["balanced_accuracy_change_high"] - row["balanced_accuracy_change_low"]
    assert balanced < 0.5 * (row["accuracy_change_high"] - row["accuracy_change_low"])


UNEVEN = (200, 100, 80, 40, 20, 10, 8, 5, 4, 3)


@pytest.mark.parametrize("sizes", [(45,) * 10, (5,) * 100, (2,) * 300, (10,) * 3, UNEVEN])
@pytest.mark.parametrize("gain, loss, first", [(0.002, 0.01, 0.01), (0.02, 0.1, 0.1), (0.0, 0.01, 0.6)])
def test_balanced_intervals_hold_the_truth(sizes: tuple[int, ...], gain: float, loss: float, first: float) -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    losses = np.where(labels == 0, first, loss)
    truth = gain - loss - (first - loss) / len(sizes)
    held, repeats = [], 50
    for _ in range(30):
        # The intact answer is drawn anew, so that gains and losses are discordant cells of a multinomial.
        u, v = rng.random((2, repeats, len(labels)))
        right = rng.random(len(labels)) < 0.7
        change = np.where(right, np.where(u < losses / 0.7, -1, 0), np.where(v < gain / 0.3, 1, 0))
        prediction = np.where(right + change == 1, labels, -1)
        intact, preferred = np.where(right, labels, -1), np.full(repeats, -1)
        table = effect_table(from_predictions(prediction), intact, labels, preferred, n_classes=len(sizes))
        held.append(table["balanced_accuracy_change_low"].le(truth) & table["balanced_accuracy_change_high"].ge(truth))
    # 1,500 samples: a true 95 % falls below 93.5 % once in 200 times; where changes are rare it is nearly 100 %.
    assert np.mean(held) > 0.935
    if (loss, first) == (0.1, 0.1) and min(sizes) > 10:
        assert np.mean(held) < 0.97


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": np.array([0, 1])}, "its label"),
        ({"intact_prediction": np.array([0, 1])}, "its label"),
        ({"labels": np.array([0, 1, 3])}, "no class"),
        ({"labels": np.array([0, 1, -1])}, "no class"),
        ({"preferred": np.array([0])}, "preferred class"),
        ({"preferred": np.array([0, 3])}, "preferred class"),
        ({"preferred": np.array([0, -2])}, "preferred class"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    three = np.array([0, 1, 2])
    inputs = {"intact_prediction": three, "labels": three, "preferred": np.array([0, -1])} | change
    with pytest.raises(DataError, match=message):
        effect_table(from_predictions(np.zeros((2, 3), dtype=int)), **inputs, n_classes=3)


def test_confidence_widens_every_interval() -> None:
    effects, intact, labels = drawn(4, 80, 3)
    narrow, wide = (
        effect_table(effects, intact, labels, np.zeros(4, dtype=int), n_classes=3, confidence=level)
        for level in (0.5, 0.9)
    )
    for name in narrow.filter(regex="_low$"):
        assert (wide[name] < narrow[name]).all()
    gained = ((effects.prediction == labels) & (intact != labels)).sum(1)
    lost = ((effects.prediction != labels) & (intact == labels)).sum(1)
    np.testing.assert_allclose(wide["accuracy_change_low"], paired_proportion_interval(gained, lost, 80, 0.9).low)
