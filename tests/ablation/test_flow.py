"""Marks follow the data through every operation, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.ablation.flow import Flow, map_tensors, tensors


def marks_after(compute: Callable[[Tensor, Tensor], Tensor]) -> int:
    """Marks of a result computed from a tensor with mark 1 and one with mark 2."""
    a, b = (torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with torch.no_grad(), Flow() as flow:
        flow.mark(a, 1)
        flow.mark(b, 2)
        return flow.marks(compute(a, b))


def written(a: Tensor, b: Tensor) -> Tensor:
    made = torch.zeros(2, 4, 4, 4)
    made[0] = a[0]
    return made


def written_through_a_view(a: Tensor, b: Tensor) -> Tensor:
    made = torch.zeros(2, 4, 4, 4)
    made[:, 1].transpose(1, 2).add_(b[:, 0])
    return made


def with_out(a: Tensor, b: Tensor) -> Tensor:
    made = torch.zeros(2, 4, 4, 4)
    torch.add(a, b, out=made)
    return made


def many_at_once(a: Tensor, b: Tensor) -> Tensor:
    made = [torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 4, 4)]
    torch._foreach_add_(made, [a, b])
    return made[1]


LAYERS = nn.ModuleDict({"norm": nn.BatchNorm2d(4).eval(), "conv": nn.Conv2d(4, 4, 3)})


@pytest.mark.parametrize(
    "compute, marks",
    [
        (lambda a, _b: a + 1, 1),
        (lambda _a, b: b.exp(), 2),
        (lambda a, b: a @ b, 3),
        (lambda a, b: torch.where(a > 0, b, 0.0), 3),
        (lambda a, b: torch.cat([a, b]), 3),
        (lambda a, b: torch.stack([a, b])[0], 3),
        (lambda a, _b: a.view(2, -1)[:, ::2].t().reshape(4, -1), 1),
        (lambda _a, b: functional.relu_(b), 2),
        (lambda a, b: a.add_(b), 3),
        (lambda a, b: (a.copy_(b), a)[1], 3),
        (lambda a, _b: LAYERS["conv"](LAYERS["norm"](a)), 1),
        (lambda a, b: functional.scaled_dot_product_attention(a, b, b), 3),
        (lambda a, _b: torch.zeros(3)[(a.mean((1, 2, 3)) > 0).long()], 1),
        (lambda _a, b: torch.ones(4, 4)[None].expand_as(b[0]), 0),
        (lambda a, _b: torch.zeros_like(a), 1),
        (lambda _a, _b: torch.ones(3) + 1, 0),
        (written, 1),
        (written_through_a_view, 2),
        (with_out, 3),
        (many_at_once, 2),
    ],
)
def test_a_result_has_the_marks_of_what_it_was_computed_from(
    compute: Callable[[Tensor, Tensor], Tensor], marks: int
) -> None:
    found = marks_after(compute)
    # Too many marks cost time; too few would cost correctness.
    assert found & marks == marks
    if compute is not many_at_once:
        assert found == marks


def test_marks_do_not_pass_to_memory_that_is_used_again() -> None:
    with torch.no_grad(), Flow() as flow:
        for _ in range(50):
            a = torch.ones(1000)
            flow.mark(a, 1)
            del a
            assert flow.marks(torch.ones(1000)) == 0


def test_marks_that_are_cut_do_not_follow() -> None:
    with torch.no_grad(), Flow() as flow:
        a = torch.ones(3)
        flow.mark(a, 1)
        b = a * 2
        flow.cut(b)
        assert flow.marks(b + 1) == 0
        assert flow.marks(a + b) == 1


def test_the_largest_tensor_is_measured_while_asked_for() -> None:
    with torch.no_grad(), Flow() as flow:
        a = torch.ones(10)
        flow.mark(a, 1)
        _ = a.repeat(100)
        assert flow.largest == 0
        flow.measuring = True
        _ = a.repeat(3)
        _ = torch.ones(1000) * 2  # depends on nothing that is marked
        assert flow.largest == 3 * 10 * 4


def test_tensors_are_found_in_whatever_holds_them() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    found = list(tensors(({"a": a}, [b, (c, "text", None, 3)])))
    assert [len(tensor) for tensor in found] == [1, 2, 3]
    assert [len(made) for made in map_tensors([a, b], lambda t: t.repeat(2))] == [2, 4]
    assert isinstance(map_tensors((a,), torch.neg), tuple)
