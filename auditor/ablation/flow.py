"""Which tensors depend on which: marks that follow the data through one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors(item)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to a tensor, or to every member of a flat tuple or list of tensors."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(function(item) for item in value)


class Flow(TorchDispatchMode):
    """Context in which marks (bits of an integer) spread from the inputs of every operation to its outputs.

    Marks belong to memory, not to tensor objects, so they survive views and changes in place. Where that says too much
    (two parts of one buffer), something counts as dependent that is not, which costs time and not correctness.

    Attributes
    ----------
    largest : int
        Bytes of the largest tensor that an operation made from marked ones while :attr:`measuring`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0
        self.measuring = False
        self._marks: dict[int, int] = {}
        self._kept: list[Tensor] = []  # marked memory must not be freed and given out again

    def mark(self, value: Any, bits: int) -> None:
        """Add `bits` to the marks of all tensors in `value`."""
        for tensor in tensors(value):
            key = _key(tensor)
            if key not in self._marks:
                self._kept.append(tensor)
            self._marks[key] = self._marks.get(key, 0) | bits

    def marks(self, value: Any) -> int:
        """All marks of the tensors in `value`."""
        bits = 0
        for tensor in tensors(value):
            bits |= self._marks.get(_key(tensor), 0)
        return bits

    def cut(self, value: Any) -> None:
        """Take all marks off the tensors in `value`, which no other value may share memory with."""
        for tensor in tensors(value):
            self._marks.pop(_key(tensor), None)
            self._kept.append(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and hand its inputs' marks on."""
        named = kwargs or {}
        output = func(*args, **named)
        bits = self.marks(args) | self.marks(named)
        if bits and self.measuring:
            for tensor in tensors(output):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        if bits:
            self.mark(output, bits)
            for given, declared in zip(args, func._schema.arguments, strict=False):
                if declared.alias_info is not None and declared.alias_info.is_write:
                    self.mark(given, bits)
        return output


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
