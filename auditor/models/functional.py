"""Nonlinearities that are called as functions (``F.relu``), found while a model runs.

Hooks see modules only. But many a function's output is also a module's output, as that of torchvision's ``BasicConv2d``
(``return F.relu(self.bn(self.conv(x)))``), and can be measured there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditor.models.layers import is_nonlinearity

FUNCTIONS = frozenset(
    (
        "relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu",
        "celu", "gelu", "silu", "mish", "hardtanh", "hardswish", "hardsigmoid", "tanh",
        "sigmoid", "logsigmoid", "softplus", "softsign", "softshrink", "hardshrink", "tanhshrink",
    )
)  # fmt: skip
"""Elementwise nonlinearities of torch, without the underscore of their in-place forms."""

_PASSING = (nn.Identity, nn.modules.dropout._DropoutNd)


@dataclass
class FunctionCall:
    """One call of a nonlinearity outside of modules that are nonlinearities.

    Parameters
    ----------
    function : str
        Its name in torch.
    after : int or None
        Position in the trace of the innermost module call whose output is the function's.
    before : int or None
        Position of the innermost module call whose output the function was given.
    """

    function: str
    after: int | None = None
    before: int | None = None


class FunctionWatch(TorchFunctionMode):
    """Context in which functional nonlinearities are noted; :meth:`enter` and :meth:`leave` are called by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[FunctionCall] = []
        self._made = _ByTensor()
        self._returned = _ByTensor()
        self._inside = 0

    def found(self) -> tuple[FunctionCall, ...]:
        """All calls, in order."""
        return tuple(self._calls)

    def enter(self, module: nn.Module, _inputs: Any) -> None:
        """Note that `module` begins: what a nonlinearity calls is no function of its own."""
        self._inside += is_nonlinearity(module)

    def leave(self, module: nn.Module, inputs: Any, output: Any, *, position: int) -> None:
        """Note that `module` ended with `output`, as the trace's call number `position`."""
        self._inside -= is_nonlinearity(module)
        if not isinstance(output, Tensor):
            return
        number = self._made.get(output)
        # Dropout does nothing in eval mode, yet its output is another object.
        if number is None and isinstance(module, _PASSING) and inputs and isinstance(inputs[0], Tensor):
            number = self._made.get(inputs[0])
        if number is not None and self._calls[number].after is None:
            self._calls[number].after = position
        if self._returned.get(output) is None:
            self._returned.put(output, position)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, and note it if it is a nonlinearity."""
        name = getattr(func, "__name__", "").removesuffix("_")
        watched = not self._inside and name in FUNCTIONS
        given = (args[0] if args else (kwargs or {}).get("input")) if watched else None
        before = self._returned.get(given) if isinstance(given, Tensor) else None
        output = func(*args, **(kwargs or {}))
        if watched and isinstance(output, Tensor):
            self._made.put(output, len(self._calls))
            self._calls.append(FunctionCall(name, before=before))
        return output


class _ByTensor:
    """Numbers of tensors that are still alive and have not been changed in place since they were put in."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}

    def put(self, tensor: Tensor, number: int) -> None:
        self._entries[id(tensor)] = (weakref.ref(tensor), _version(tensor), number)

    def get(self, tensor: Tensor) -> int | None:
        reference, version, number = self._entries.get(id(tensor), (None, 0, 0))
        alive = reference is not None and reference() is tensor
        return number if alive and version == _version(tensor) else None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
