"""Tokens whose last layers need not be computed, because only others reach the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation.flow import Flow
from auditor.hooks.intercept import Call, intercepted

_CHOOSING = frozenset(
    (
        "gt", "ge", "lt", "le", "eq", "ne", "where", "masked_fill", "masked_select", "topk", "sort", "argsort",
        "argmax", "argmin", "nonzero", "fmax", "fmin", "nan_to_num", "isnan", "isfinite", "kthvalue", "median",
    )
)  # fmt: skip
"""Operations by which a model can decide by its values what it reads, so that no trial says what it never reads."""


def unread_tokens(model: nn.Module, images: Tensor) -> dict[Call, Tensor]:
    """Find calls that treat tokens one by one and of whose output only some tokens reach the logits.

    In a vision transformer that is all of the last block behind the attention: the head reads the class token alone.
    That the other tokens are not read is tested by putting NaN and large numbers in their place, which any arithmetic
    would hand on; a model that compares values, or chooses by them, is left alone. That tokens are treated one by one
    is tested in the same way, and by computing those that are read alone.

    Parameters
    ----------
    model : nn.Module
        In eval mode, its parameters without gradients.
    images : Tensor, shape (B, C, H, W)

    Returns
    -------
    dict of Call to Tensor of int
        The tokens that are read, for the outermost such calls; none where the model has no tokens or something fails.
    """
    try:
        wanted, read, inside = _read(model, images)
        found: dict[Call, Tensor] = {}
        if _chooses(model, images):
            return found
        for call in sorted(read, key=lambda call: len(inside[call])):
            if not any(outer in found for outer in inside[call]) and _holds(model, images, wanted, call, read[call]):
                found[call] = read[call]
        return found
    except Exception:  # a model that autograd cannot follow, or that refuses NaN
        return {}


def _chooses(model: nn.Module, images: Tensor) -> bool:
    flow, picture = _Choices(), images.clone()
    with torch.no_grad(), flow:
        flow.mark(picture, 1)
        model(picture)
    return flow.chose


class _Choices(Flow):
    """Notices whether something that depends on the images decides what is read."""

    chose = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__.removesuffix("_") in _CHOOSING and self.marks(args):
            self.chose = True
        return super().__torch_dispatch__(func, types, args, kwargs)


def only_tokens(forward: Any, x: Tensor, tokens: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """Run a module on some tokens; the other rows of its output, shape (B, N, C), are zero."""
    part: Tensor = forward(x.index_select(1, tokens), **kwargs)
    output = part.new_zeros(len(x), x.shape[1], part.shape[2])
    output[:, tokens] = part
    return output


def _read(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[Call, Tensor], dict[Call, tuple[Call, ...]]]:
    """Logits; the tokens with a gradient, for calls with fewer of those than tokens; the calls around each call."""
    outputs: dict[Call, Tensor] = {}
    inside: dict[Call, tuple[Call, ...]] = {}
    stack: list[Call] = []

    def visit(call: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        inside[call] = tuple(stack)
        stack.append(call)
        output = forward(*args, **kwargs)
        stack.pop()
        given = args[0] if args else None
        tokens = [_has_tokens(value) for value in (given, output)]
        if given is not None and output is not given and all(tokens) and given.shape[:2] == output.shape[:2]:
            outputs[call] = output
        return output

    with torch.enable_grad(), intercepted(model, [name for name, _ in model.named_modules() if name], visit):
        logits = model(images.detach().clone().requires_grad_())
        weights = torch.linspace(1, 2, logits.shape[1], device=logits.device).to(logits)
        total = (logits * weights).sum()
    followed = {call: output for call, output in outputs.items() if output.requires_grad}
    if not followed:
        return logits.detach(), {}, inside
    slopes = torch.autograd.grad(total, list(followed.values()), allow_unused=True)
    read = {}
    for call, slope in zip(followed, slopes, strict=True):
        if slope is not None:
            tokens = (slope != 0).any(2).any(0).nonzero()[:, 0]
            if 0 < 2 * len(tokens) <= slope.shape[1]:
                read[call] = tokens
    return logits.detach(), read, inside


def _holds(model: nn.Module, images: Tensor, wanted: Tensor, call: Call, tokens: Tensor) -> bool:
    """Whether the other tokens can be anything, and the module computes these tokens without them."""
    return all(_holds_under(poison, model, images, wanted, call, tokens) for poison in (None, 1e4))


def _holds_under(
    poison: float | None, model: nn.Module, images: Tensor, wanted: Tensor, call: Call, tokens: Tensor
) -> bool:
    alone = False

    def visit(here: Call, _module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        nonlocal alone
        output = forward(*args, **kwargs)
        if here != call:
            return output
        try:
            part = forward(args[0].index_select(1, tokens), *args[1:], **kwargs)
            beside = forward(_only(args[0], tokens, poison), *args[1:], **kwargs)[:, tokens]
            alone = all(torch.allclose(f, output[:, tokens], rtol=1e-4, atol=1e-5) for f in (part, beside))
        except (RuntimeError, AssertionError):
            return output
        return _only(output, tokens, poison)

    with torch.no_grad(), intercepted(model, [call[0]], visit):
        found = model(images.clone())
    return alone and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _only(value: Tensor, tokens: Tensor, poison: float | None) -> Tensor:
    """`value`, with NaN, or random numbers as large as `poison`, for all other tokens."""
    if poison is None:
        poisoned = torch.full_like(value, float("nan"))
    else:
        drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        poisoned = (poison * drawn).to(value)
    poisoned[:, tokens] = value[:, tokens]
    return poisoned


def _has_tokens(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()
