"""Captum's layer attributions as measures of a unit's importance, beside ablation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from captum import attr
from torch import Tensor, nn

from auditor.errors import ModelError, OptionError, unknown_name
from auditor.hooks import on_calls, taps
from auditor.models.trace import trace_calls
from auditor.units import Site

METHODS: Mapping[str, str] = {
    "gradient_x_activation": "first-order estimate of zero-ablation; exact where the logit is linear in the site",
    "integrated_gradients": "sums to the logit minus the logit with the site as it is on the zero input",
    "conductance": "sums to the logit minus the logit of the zero input, if every path leads through the site",
    "deeplift": "sums to the logit minus the logit of the zero input, if every path leads through the site",
    "internal_influence": "mean gradient between the zero input and the image; its sum has no meaning of its own",
}
"""Name of each method, and what its attributions sum to over the units of a site."""

# With the rule for the points on the path. Conductance sums differences between them, so they have to reach both ends.
_PATHS = {
    "integrated_gradients": (attr.LayerIntegratedGradients, "gausslegendre"),
    "conductance": (attr.LayerConductance, "riemann_trapezoid"),
    "internal_influence": (attr.InternalInfluence, "gausslegendre"),
}

# By which DeepLift's multipliers at image and baseline may differ, as a share of the largest.
TOLERANCE = 1e-3

# Types that Captum's DeepLift has a rule for, and goes by exactly. Softmax is one, but the rule mixes a batch's images.
_RESCALED = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Tanh)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def unit_attributions(
    model: nn.Module, images: Tensor, labels: Tensor, site: Site, *, method: str, steps: int = 32, max_batch: int = 512
) -> Tensor:
    """Attribution of the label's logit to each unit of a site, summed over the unit's positions.

    A positive unit supports the label. The baseline is zero: for ``gradient_x_activation`` the activation's, else that
    of the input after preprocessing (black, or the mean colour where pixels are centred). ``integrated_gradients`` goes
    from the site's activation on that input to the one on the image; the rest of the network stays as on the image.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; left as it was. Parameters may require gradients or not, and get none.
    images, labels : Tensor
        Shapes (B, C, H, W) and (B,); the labels index the model's outputs.
    site : Site
        One call of one layer; a module that is called several times is measured at this call only.
    method : str
        One of :data:`METHODS`.
    steps : int
        Points on the path of ``integrated_gradients`` and ``internal_influence`` (Gauss-Legendre quadrature), intervals
        of that of ``conductance`` (a sum of differences, with an error of the order of 1 / steps).
    max_batch : int
        Largest number of images, or images times steps, in one pass; at least 2 for conductance and DeepLift.

    Returns
    -------
    Tensor
        Shape (B, site.n_units), float32, on the CPU. Zero if the logit does not depend on the site.

    Raises
    ------
    UnknownNameError, OptionError
        If there is no such method, or a number is not positive.
    ModelError
        If the site is not reached; for ``deeplift`` also if what the model does after the site is something that
        Captum has no rule for, and would get wrong without a word.

    Notes
    -----
    Gradient x activation, integrated gradients (Sundararajan et al. 2017), conductance (Dhamdhere et al. 2019),
    DeepLIFT with the rescale rule (Shrikumar et al. 2017) and internal influence (Leino et al. 2018).
    """
    if method not in METHODS:
        raise unknown_name("attribution method", method, METHODS)
    if steps < 1 or max_batch < 1:
        raise OptionError("Steps and batch size must be positive.", got=f"steps={steps}, max_batch={max_batch}")
    # DeepLift runs the baseline along with the image, conductance two steps at once.
    least = 2 if method in ("conductance", "deeplift") else 1
    images, labels = images.detach(), labels.to(images.device)
    forward = _LabelLogit(model, site)
    parts = []
    with ExitStack() as stack:
        if method == "deeplift":
            stack.enter_context(_rescalable(model, images[:2]))
        tap = stack.enter_context(taps(model, [site]))[site.name]
        stack.enter_context(on_calls(model, [site], forward.reach))
        for x, y in zip(*(t.split(max(1, max_batch // least)) for t in (images, labels)), strict=True):
            if method in _PATHS:
                kind, rule = _PATHS[method]
                path = {"n_steps": steps, "method": rule, "internal_batch_size": max(max_batch, least * len(x))}
                found = kind(forward, tap).attribute(x, additional_forward_args=y, **path)
            elif method == "deeplift":
                # Captum hooks tensors, which must require gradients for that.
                x = x.clone().requires_grad_()
                found = attr.LayerDeepLift(forward, tap).attribute(x, additional_forward_args=y)
                forward.check_multipliers()
            else:
                found = attr.LayerGradientXActivation(forward, tap).attribute(x, additional_forward_args=y)
            maps = found.detach().movedim(site.unit_axis, 1)
            parts.append(maps.reshape(len(x), site.n_units, -1).sum(-1).float().cpu())
    return torch.cat(parts)


class _LabelLogit(nn.Module):
    """The label's logit of each image; a module, because DeepLift asks for one."""

    def __init__(self, model: nn.Module, site: Site) -> None:
        super().__init__()
        self.model = model
        self._site = site
        self._reached: list[Tensor] = []
        self._gradient: Tensor | None = None

    def reach(self, _site: Site, output: Tensor) -> Tensor:
        # Captum hands out leaves, in which the model must not work in place.
        passed = output.clone()
        if passed.requires_grad:
            passed.register_hook(partial(setattr, self, "_gradient"))
        self._reached.append(output.flatten(1)[:, :0])
        return passed

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        self._reached.clear()
        logit: Tensor = self.model(images).gather(1, labels[:, None]).squeeze(1)
        if not self._reached:
            raise ModelError(f"Layer {self._site.name!r} was not reached by this forward pass.")
        # A sum of nothing: asked for the gradient of a site without effect, autograd would raise and not say zero.
        return logit + self._reached[0].sum(1)

    def check_multipliers(self) -> None:
        """Refuse DeepLift where Captum fell back on the gradient, without a word.

        A multiplier belongs to the step from baseline to image and is the same at both; a gradient is not.
        """
        if self._gradient is None:  # the logit does not depend on the site
            return
        image, baseline = self._gradient.chunk(2)
        apart, size = float((image - baseline).abs().max()), float(image.abs().max())
        if not apart <= TOLERANCE * size:
            raise ModelError(
                f"DeepLift is not right at {self._site.name}: Captum has no rule for something after it.",
                wanted=f"linear operations, modules of the types {', '.join(kind.__name__ for kind in _RESCALED)}, "
                "and MaxPool2d without overlap",
                got=f"multipliers that differ by {apart:.2g} between image and baseline; the largest is {size:.2g}",
                fix="Make functions (F.relu) modules, or use integrated_gradients, which needs only gradients.",
            )


class _PerCall(nn.Module):
    """Stand-in for a module: the calls of a pass go to one copy each, which Captum finds or, if `hidden`, does not."""

    def __init__(self, module: nn.Module, calls: int, *, hidden: bool) -> None:
        super().__init__()
        copies = [copy.copy(module) for _ in range(calls)]
        for one in copies:  # hooks stay, but in tables of the copy's own
            vars(one).update({key: value.copy() for key, value in vars(one).items() if isinstance(value, dict)})
        self._copies = copies if hidden else nn.ModuleList(copies)
        self._seen = 0

    def forward(self, x: Tensor) -> Any:
        self._seen += 1
        return self._copies[(self._seen - 1) % len(self._copies)](x)


def _has_wrong_rule(module: nn.Module) -> bool:
    if type(module) is nn.MaxPool2d:  # where windows share a maximum, Captum keeps one of them
        size, stride, dilation = map(torch.tensor, (module.kernel_size, module.stride, module.dilation))
        return not bool((size <= stride).all() and (dilation == 1).all()) or module.return_indices
    return type(module) in (nn.Softmax, *_POOLS)


@contextmanager
def _rescalable(model: nn.Module, example: Tensor) -> Iterator[None]:
    """Bring the model into a form in which Captum's DeepLift is right, as far as there is one.

    Captum keeps the input and output of a module's last call, leaves them on the module, and replaces the gradient of
    the tensor that went in, whoever else uses it. So each call gets a module, and each module an input, of its own.
    Modules whose rule is wrong are hidden from Captum; :meth:`_LabelLogit.check_multipliers` decides about them.
    """
    trace = trace_calls(model, example)
    known = {name: child for name, child in model.named_modules() if type(child) in (*_RESCALED, *_POOLS, nn.Softmax)}
    stand_ins = {}
    for name, child in known.items():
        hidden, calls = _has_wrong_rule(child), trace.counts()[name]
        if calls and (hidden or calls > 1):
            stand_ins[child] = _PerCall(child, calls, hidden=hidden)
    places = [(p, key, c) for p in model.modules() for key, c in p._modules.items() if c in stand_ins]
    with ExitStack() as stack:
        for child in known.values():
            stack.callback(_restore, child, dict(vars(child)))
        for parent, key, child in places:
            stack.callback(parent._modules.__setitem__, key, child)
            parent._modules[key] = stand_ins[child]
        for child in model.modules():
            if type(child) in (*_RESCALED, *_POOLS):
                stack.callback(child.register_forward_pre_hook(lambda _, given: given[0].clone()).remove)
        with torch.no_grad():
            logits = model(example)
        if not torch.allclose(logits, trace.output, rtol=1e-4, atol=1e-5):
            raise ModelError(
                "DeepLift is not right for this model, which uses a tensor again that a nonlinearity changed in place.",
                wanted="the same logits when nonlinearities work on copies, as Captum lets them",
                fix="Use nonlinearities with inplace=False, or another method.",
            )
        yield


def _restore(module: nn.Module, attributes: dict[str, Any]) -> None:
    for key in vars(module).keys() - attributes.keys():
        del vars(module)[key]
    vars(module).update(attributes)
