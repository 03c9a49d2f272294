"""Names of what is measured: a site is one call of a layer, a unit is one channel of a site."""

from __future__ import annotations

import re
from dataclasses import dataclass

from auditor.errors import OptionError

_UNIT_RE = re.compile(r"^(?P<site>.+):(?P<index>\d+)$")


@dataclass(frozen=True, slots=True)
class Site:
    """One call of one module, and how its output becomes one number per unit.

    Parameters
    ----------
    layer : str
        Dotted module name as in ``model.named_modules()``.
    call : int
        Which call of the module within one forward pass, from 1.
    calls : int
        How often the module is called in one forward pass.
    unit_axis : int
        Axis of the output that counts units: 1 for NCHW maps, -1 for tokens, NHWC maps and vectors.
    n_units : int
        Number of units.
    shape : tuple of int
        Output shape without the batch axis, as probed.
    kind : str
        Class name of the module (``"ReLU"``).
    reduction : str
        How all axes but batch and units are reduced. Always ``"mean"`` today.
    """

    layer: str
    call: int
    calls: int
    unit_axis: int
    n_units: int
    shape: tuple[int, ...]
    kind: str
    reduction: str = "mean"

    @property
    def name(self) -> str:
        """``layer1.0.relu@2`` where the module is called more than once, else the layer's name."""
        return f"{self.layer}@{self.call}" if self.calls > 1 else self.layer

    def unit(self, index: int) -> UnitId:
        """Name unit `index` of this site."""
        return UnitId(self.name, index)

    def to_dict(self) -> dict[str, object]:
        """Plain values for the manifest."""
        return {
            "layer": self.layer,
            "call": self.call,
            "calls": self.calls,
            "unit_axis": self.unit_axis,
            "n_units": self.n_units,
            "shape": list(self.shape),
            "kind": self.kind,
            "reduction": self.reduction,
        }

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Site:
        """Inverse of :meth:`to_dict`."""
        fields = dict(values)
        fields["shape"] = tuple(fields["shape"])  # type: ignore[arg-type]
        return cls(**fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, order=True)
class UnitId:
    """A unit's stable name, written ``layer4.1.act2@1:317``."""

    site: str
    index: int

    def __str__(self) -> str:
        return f"{self.site}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> UnitId:
        """Read ``site:index``.

        Raises
        ------
        OptionError
            If `text` has another form.
        """
        match = _UNIT_RE.match(text)
        if match is None:
            raise OptionError(
                f"{text!r} does not name a unit.", wanted="SITE:INDEX, such as layer4.1.act2:317", got=repr(text)
            )
        return cls(match["site"], int(match["index"]))
