"""Effects of single pairs against SciPy; what equal logits give; blocks of effects."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, rel_entr, softmax

from auditor.ablation.pair_effects import PairEffects, pair_effects
from auditor.errors import DataError

LOGITS = arrays(np.float32, (2, 6, 5), elements=st.floats(-30, 30, width=32))
ROWS = np.arange(6)
LABELS = np.array([0, 4, 2, 2, 1, 3])


def effects(intact: np.ndarray, ablated: np.ndarray, labels: np.ndarray = LABELS) -> dict[str, np.ndarray]:
    found = pair_effects(torch.tensor(intact), torch.tensor(ablated), torch.tensor(labels))
    return {name: values.numpy() for name, values in found.items()}


def sample(k: int = 3, n: int = 4, seed: int = 0) -> PairEffects:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(k, n)).astype(np.float32) for _ in range(3)]
    return PairEffects(*values, prediction=rng.integers(5, size=(k, n)).astype(np.int32))


@given(LOGITS)
def test_pairs_equal_scipy(logits: np.ndarray) -> None:
    intact, ablated = logits
    found = effects(intact, ablated)
    wide, narrow = intact.astype(np.float64), ablated.astype(np.float64)
    drop = wide[ROWS, LABELS] - narrow[ROWS, LABELS]
    loss = log_softmax(wide, -1)[ROWS, LABELS] - log_softmax(narrow, -1)[ROWS, LABELS]
    kl = rel_entr(softmax(wide, -1), softmax(narrow, -1)).sum(-1)
    np.testing.assert_allclose(found["target_logit_drop"], drop, rtol=1e-6)
    np.testing.assert_allclose(found["loss_change"], loss, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(found["prediction"], ablated.argmax(-1))
    assert {name: values.dtype.name for name, values in found.items()} == {
        "target_logit_drop": "float32", "loss_change": "float32", "kl": "float32", "prediction": "int32",
    }  # fmt: skip


@given(LOGITS)
def test_equal_logits_have_exactly_no_effect_and_divergence_is_never_negative(logits: np.ndarray) -> None:
    same = effects(logits[0], logits[0])
    assert not np.concatenate([same[name] for name in ("target_logit_drop", "loss_change", "kl")]).any()
    assert (effects(*logits)["kl"] >= 0).all()


@given(LOGITS, st.floats(-10, 10, width=32))
def test_a_constant_added_to_all_logits_changes_the_logit_only(logits: np.ndarray, shift: float) -> None:
    intact = logits[0].astype(np.float64)
    found = effects(intact, intact + shift)
    np.testing.assert_allclose(found["target_logit_drop"], -shift, atol=1e-6)
    np.testing.assert_allclose([found["loss_change"], found["kl"]], 0, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_type_and_any_layout(kind: torch.dtype) -> None:
    logits = torch.randn(7, 1000, generator=torch.Generator().manual_seed(0)).to(kind)
    transposed = logits.T.contiguous().T
    assert not transposed.is_contiguous()
    found = pair_effects(logits[:1].expand(7, -1), transposed[:1].repeat(7, 1), torch.arange(7))
    assert all(not found[name].any() for name in ("target_logit_drop", "loss_change", "kl"))
    found = pair_effects(logits, transposed, torch.arange(7))
    assert all(not found[name].any() for name in ("target_logit_drop", "loss_change", "kl"))


def test_small_effects_keep_their_digits() -> None:
    """KL of a small change d is half the variance of d under the softmax: closed form, far below float32's steps."""
    rng = np.random.default_rng(0)
    intact, change = rng.normal(size=(6, 50)) * 5, rng.normal(size=(6, 50)) * 1e-4
    p = softmax(intact, -1)
    expected = ((p * change**2).sum(-1) - (p * change).sum(-1) ** 2) / 2
    np.testing.assert_allclose(effects(intact, intact + change)["kl"], expected, rtol=2e-3)


def test_two_outputs_in_closed_form() -> None:
    intact, ablated = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    found = effects(intact, ablated, np.array([0]))
    assert found["target_logit_drop"] == pytest.approx(np.log(1.8))
    assert found["loss_change"] == pytest.approx(np.log(1.8))
    assert found["kl"] == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    assert found["prediction"] == 0


def test_an_output_ruled_out_adds_nothing() -> None:
    intact = np.array([[1.0, 2.0, -np.inf]])
    assert effects(intact, intact, np.array([0]))["kl"] == 0
    assert effects(intact, intact[:, [1, 0, 2]], np.array([0]))["kl"] == pytest.approx(
        effects(intact[:, :2], intact[:, [1, 0]], np.array([0]))["kl"]
    )


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3), (2,)), ((2, 3), (2, 3), (3,)), ((2, 1, 3), (2, 1, 3), (2,))])
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(DataError, match="its intact logits"):
        pair_effects(torch.zeros(shapes[0]), torch.zeros(shapes[1]), torch.zeros(shapes[2], dtype=torch.long))


def test_blocks_go_through_a_file_and_come_together_again() -> None:
    whole, file = sample(), io.BytesIO()
    np.savez(file, other=np.zeros(2), **whole.to_arrays())
    file.seek(0)
    again = PairEffects.from_arrays(dict(np.load(file)))
    for axis in (0, 1):
        cut = [(slice(None),) * axis + (part,) for part in (slice(0, 1), slice(1, 2), slice(2, None))]
        parts = [PairEffects.from_arrays({n: v[piece] for n, v in again.to_arrays().items()}) for piece in cut]
        joined = PairEffects.concatenate(parts, axis=axis)
        assert joined.shape == (3, 4)
        for name, values in joined.to_arrays().items():
            np.testing.assert_array_equal(values, whole.to_arrays()[name])
            assert values.dtype == whole.to_arrays()[name].dtype


def test_broken_blocks_are_refused() -> None:
    values = sample().to_arrays()
    with pytest.raises(DataError, match="incomplete"):
        PairEffects.from_arrays({"kl": values["kl"]})
    with pytest.raises(DataError, match="one shape"):
        PairEffects.from_arrays(values | {"kl": values["kl"][:2]})
    with pytest.raises(DataError, match="one shape"):
        PairEffects.from_arrays({name: part[0] for name, part in values.items()})
    with pytest.raises(DataError, match="no effects"):
        PairEffects.concatenate([], axis=0)


@pytest.mark.gpu
def test_the_gpu_gives_the_same() -> None:
    logits = torch.randn(2, 64, 100, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64)
    there = pair_effects(*logits.cuda(), labels.cuda())
    for name, values in pair_effects(*logits, labels).items():
        assert there[name].is_cuda
        torch.testing.assert_close(there[name].cpu(), values, rtol=1e-6, atol=1e-9)
