"""The norm of the input-output Jacobian against torch.func."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from auditor.errors import DataError, OptionError
from auditor.perturbations.jacobian import jacobian_norm


def full(model: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    def one(image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(image[None])[0]
        return out

    return np.array([float(torch.func.jacrev(one)(image).detach().double().square().sum()) for image in pixels])


def test_exact_norm_is_that_of_jacrev(tiny_model: nn.Module, tiny_batch: torch.Tensor) -> None:
    found = jacobian_norm(tiny_model, tiny_batch)
    np.testing.assert_allclose(found.squared, full(tiny_model, tiny_batch), rtol=1e-4)
    assert (found.se == 0).all()


def test_linear_model_has_the_norm_of_its_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    found = jacobian_norm(model, torch.rand(3, 3, 2, 2))
    np.testing.assert_allclose(found.squared, float(model[1].weight.detach().double().square().sum()), rtol=1e-5)


def test_estimate_is_unbiased_and_knows_its_error(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    exact = full(tiny_cnn, tiny_batch)
    found = jacobian_norm(tiny_cnn, tiny_batch, seeds=range(6), projections=2000)
    z = (found.squared - exact) / found.se
    assert np.abs(z).max() < 4
    assert (found.se / exact < 0.05).all()
    few = [jacobian_norm(tiny_cnn, tiny_batch, seeds=range(k, k + 6), projections=2).squared for k in range(0, 1200, 6)]
    mean, error = np.mean(few, axis=0), np.std(few, axis=0) / np.sqrt(len(few))
    assert (np.abs(mean - exact) < 4 * error).all()


def test_estimate_belongs_to_the_image(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    whole = jacobian_norm(tiny_cnn, tiny_batch, seeds=range(6), projections=8)
    alone = jacobian_norm(tiny_cnn, tiny_batch[3:4], seeds=[3], projections=8)
    np.testing.assert_allclose(whole.squared[3:4], alone.squared, rtol=1e-5)


def test_seeds_and_projections_are_checked(tiny_cnn: nn.Module, tiny_batch: torch.Tensor) -> None:
    with pytest.raises(OptionError, match="two projections"):
        jacobian_norm(tiny_cnn, tiny_batch, seeds=range(6), projections=1)
    with pytest.raises(DataError, match="needs a seed"):
        jacobian_norm(tiny_cnn, tiny_batch, projections=4)
