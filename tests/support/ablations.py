"""Ablations by hand, with hooks that know nothing of the package, and what the tests of the engines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from auditor.ablation import Engine, Job
from auditor.ablation.edits import Edit, Zero
from auditor.units import Site

Changes = dict[str, Tensor]
"""By site, what ablating each unit does to the logits of each image: shape (U, B, outputs)."""

New = Callable[[Site, int, Tensor], Tensor]
"""Site, unit and the unit's maps, shape (B, *positions), to what takes their place."""


class Net(nn.Module):
    """A model whose forward pass is a function of itself and the images."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        return self.run(self, x)


def pictures(n: int, size: int = 16, seed: int = 1) -> Tensor:
    """Images of noise, shape (n, 3, size, size)."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a model with weights that are the same every time, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def calibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """Give batch norms the statistics of some images; without, many a random network is nearly constant."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    return model


def wakened(model: nn.Module) -> nn.Module:
    """Raise layer scales and gains of (almost) 0 to 1 and fill heads of zeros, so that what they hide has an effect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            peak = float(parameter.abs().max())
            gain = "bias" not in name and parameter.numel() == max(parameter.shape[:1], default=1)
            if 0 < peak < 1e-3 or (peak == 0 and gain):
                parameter.fill_(1.0)
            elif peak == 0 and parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return model


def some_units(site: Site) -> list[int]:
    """First, middle and last."""
    return sorted({0, site.n_units // 2, site.n_units - 1})


def jobs_of(sites: Sequence[Site], units: Callable[[Site], Sequence[int]] = some_units, seed: int = 5) -> list[Job]:
    """Jobs with means and deviations that differ from unit to unit."""
    generator = torch.Generator().manual_seed(seed)
    jobs = []
    for site in sites:
        chosen = torch.tensor(list(units(site)), dtype=torch.long)
        mean, std = (torch.rand(len(chosen), generator=generator) + low for low in (-0.5, 0.5))
        jobs.append(Job(site, chosen, mean, std))
    return jobs


def zeros(_site: Site, _unit: int, maps: Tensor) -> Tensor:
    """Silence the unit."""
    return torch.zeros_like(maps)


def by_hand(model: nn.Module, images: Tensor, jobs: Sequence[Job], new: New = zeros) -> tuple[Tensor, Changes]:
    """Intact logits, and the changes by one forward pass with a hook for every unit."""
    with torch.no_grad():
        intact = model(images.clone())
    changes: Changes = {}
    for job in jobs:
        site = job.site
        found = []
        for unit in job.units.tolist():
            calls = 0

            def hook(_module: nn.Module, _args: Any, output: Tensor, site: Site = site, unit: int = unit) -> Any:
                nonlocal calls
                calls += 1
                if calls != site.call:
                    return None
                edited = output.clone()
                edited.select(site.unit_axis, unit).copy_(new(site, unit, output.select(site.unit_axis, unit)))
                return edited

            handle = model.get_submodule(site.layer).register_forward_hook(hook)
            try:
                with torch.no_grad():
                    found.append(model(images.clone()) - intact)
            finally:
                handle.remove()
            assert calls == site.calls
        changes[site.name] = torch.stack(found)
    return intact, changes


def by_engine(
    engine: Engine, images: Tensor, jobs: Sequence[Job], edit: Edit | None = None, **given: Any
) -> tuple[Tensor, Changes]:
    """The same by an engine; pairs that do not reach the sink count as unchanged."""
    found: Changes = {}
    parts: list[tuple[str, Tensor, Tensor, Tensor]] = []

    def sink(site: str, units: Tensor, rows: Tensor, logits: Tensor, intact: Tensor) -> None:
        assert len(units) == len(rows) == len(logits) == len(intact) > 0
        parts.append((site, units.cpu(), rows.cpu(), (logits - intact).cpu()))

    logits = engine.ablate(images.clone(), jobs, edit or Zero(), sink, **given)
    seen: dict[str, set[tuple[int, int]]] = {}
    for job in jobs:
        found[job.site.name] = torch.zeros(len(job.units), *logits.shape, dtype=logits.dtype)
        seen[job.site.name] = set()
    for site, units, rows, change in parts:
        pairs = set(zip(units.tolist(), rows.tolist(), strict=True))
        assert len(pairs) == len(units), "a pair comes twice in a batch"
        assert not pairs & seen[site], "a pair comes twice"
        seen[site] |= pairs
        found[site][units, rows] = change.to(logits.dtype)
    return logits.cpu(), found


def largest(changes: Changes) -> float:
    """Largest effect on a logit."""
    return max(float(change.abs().max()) for change in changes.values())


def assert_same(found: Changes, wanted: Changes, *, tolerance: float = 1e-4) -> None:
    """Changes agree within a share of the largest."""
    assert list(found) == list(wanted)
    allowed = tolerance * largest(wanted)
    gaps = {name: float((found[name] - wanted[name]).abs().max()) for name in wanted}
    assert all(gap <= allowed for gap in gaps.values()), f"allowed {allowed:.2g}, got {gaps}"


def state_of(model: nn.Module) -> list[Any]:
    """Everything that ablating a model could change on it and forget to put back."""
    flags = [
        (
            name,
            type(module),
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            "forward" in vars(module),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]
    weights = [(name, p.requires_grad, p.data_ptr(), p._version) for name, p in model.named_parameters()]
    return [flags, weights, {name: value.clone() for name, value in model.state_dict().items()}]


def assert_untouched(model: nn.Module, before: list[Any]) -> None:
    """The model is as :func:`state_of` found it, bit by bit."""
    after = state_of(model)
    assert after[:2] == before[:2]
    assert after[2].keys() == before[2].keys()
    for name, value in after[2].items():
        assert torch.equal(value, before[2][name]), name
