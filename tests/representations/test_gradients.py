"""Input-unit gradients against torch.func and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from auditor.errors import ModelError, OptionError
from auditor.hooks.capture import capture
from auditor.models import probe_sites
from auditor.representations.gradients import input_unit_gradients, sample_units
from auditor.units import Site


def pooled_by_hand(model: nn.Module, layer: str, calls: int) -> torch.nn.Module:
    """Return a function-like module that gives the spatial means of a layer's last call."""

    class Pooled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept: list[torch.Tensor] = []
            handle = model.get_submodule(layer).register_forward_hook(lambda _m, _a, out: kept.append(out.clone()))
            model(x[None])
            handle.remove()
            out = kept[calls - 1][0]
            return out.flatten(1).mean(1) if out.ndim == 3 else out

    return Pooled()


def test_norms_equal_the_jacobian_of_torch_func(tiny_cnn: nn.Module) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    sites = probe_sites(tiny_cnn, images)
    units = {site.name: np.array([0, 2, 5]) for site in sites}
    found = input_unit_gradients(tiny_cnn, images, sites, units)
    for site in sites:
        pooled = pooled_by_hand(tiny_cnn, site.layer, 1)
        for row, image in enumerate(images):
            jacobian = torch.func.jacrev(pooled)(image)  # (U, C, H, W)
            expected = jacobian.flatten(1).norm(dim=1)[units[site.name]]
            np.testing.assert_allclose(found[site.name][row], expected.detach().numpy(), rtol=1e-4, atol=1e-7)


def test_calls_of_one_module_are_told_apart(tiny_resnet: nn.Module) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    first, second = (s for s in probe_sites(tiny_resnet, images) if s.layer == "blocks.1.relu")
    units = {site.name: np.array([1, 4]) for site in (first, second)}
    found = input_unit_gradients(tiny_resnet, images, [first, second], units)
    for site in (first, second):
        jacobian = torch.func.jacrev(pooled_by_hand(tiny_resnet, site.layer, site.call))(images[1])
        expected = jacobian.flatten(1).norm(dim=1)[[1, 4]]
        np.testing.assert_allclose(found[site.name][1], expected.detach().numpy(), rtol=1e-4, atol=1e-7)


def linear_net() -> tuple[nn.Module, Site]:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1))
    return model, probe_sites(model, torch.rand(2, 1, 4, 4))[0]


def test_closed_form_with_the_normalisation_inside() -> None:
    # Mean over 16 positions of relu(3 x / 0.5): gradient 6 / 16 at each position, norm 6 / 16 * 4; the other is silent.
    model, site = linear_net()
    pixels = torch.rand(5, 1, 4, 4) + 0.1
    found = input_unit_gradients(model, pixels, [site], {site.name: np.arange(2)}, forward=lambda p: model(p / 0.5))
    np.testing.assert_allclose(found[site.name], np.tile([1.5, 0.0], (5, 1)), rtol=1e-6)


def test_images_do_not_depend_on_their_batch_and_nothing_is_left_behind(tiny_resnet: nn.Module) -> None:
    tiny_resnet.train()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    sites = probe_sites(tiny_resnet, images)[-1:]
    units = {sites[0].name: np.arange(8)}
    together = input_unit_gradients(tiny_resnet, images, sites, units)
    with torch.no_grad():
        alone = [input_unit_gradients(tiny_resnet, image[None], sites, units) for image in images]
    expected = np.concatenate([one[sites[0].name] for one in alone])
    np.testing.assert_allclose(together[sites[0].name], expected, rtol=1e-4, atol=1e-7)
    assert tiny_resnet.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in tiny_resnet.parameters())
    assert not any(module._forward_hooks for module in tiny_resnet.modules())


def test_a_layer_without_gradient_is_named() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x = self.act(self.conv(x))
            return self.fc(x.mean((2, 3)))

    model = Detached()
    sites = probe_sites(model, torch.rand(2, 3, 8, 8))
    with pytest.raises(ModelError, match="act"):
        input_unit_gradients(model, torch.rand(2, 3, 8, 8), sites, {sites[0].name: np.arange(2)})


def test_a_unit_that_does_not_exist_is_refused() -> None:
    model, site = linear_net()
    with pytest.raises(OptionError, match="no such unit"):
        input_unit_gradients(model, torch.rand(1, 1, 4, 4), [site], {site.name: np.array([2])})


def test_responses_are_those_that_capture_gives() -> None:
    # The gradient is of the pooled response: a finite difference along it moves just that.
    model, site = linear_net()
    model, pixels = model.double(), torch.rand(1, 1, 4, 4, dtype=torch.float64) + 0.1
    norm = input_unit_gradients(model, pixels, [site], {site.name: np.array([0])})[site.name][0, 0]
    step = torch.full_like(pixels, 1e-4 / 4)  # of length 1e-4, along the gradient
    values = []
    with capture(model, [site]) as found, torch.no_grad():
        for image in (pixels, pixels + step):
            model(image)
            values.append(float(found.take()[site.name][0, 0]))
    assert (values[1] - values[0]) / 1e-4 == pytest.approx(float(norm), rel=1e-5)


def test_sampled_units_are_seeded_distinct_and_all_where_few() -> None:
    first = sample_units(100, 8, seed=1, site=2)
    assert np.array_equal(first, sample_units(100, 8, seed=1, site=2))
    assert len(set(first.tolist())) == 8
    assert first.tolist() == sorted(first.tolist())
    assert not np.array_equal(first, sample_units(100, 8, seed=1, site=3))
    assert sample_units(5, 8, seed=1).tolist() == [0, 1, 2, 3, 4]
