"""FGSM and PGD against formulas, and against loops written without Captum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.robust import FGSM
from torch import nn
from torch.nn.functional import cross_entropy

from auditor.errors import DataError, OptionError
from auditor.perturbations.attacks import fgsm, log_odds, pgd, random_start

EPSILON = 4 / 255


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 1, 0])


def slope(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    leaf = pixels.double().requires_grad_()
    cross_entropy(model.double()(leaf), labels, reduction="sum").backward()
    model.float()
    assert leaf.grad is not None
    return leaf.grad


def test_log_odds_is_logit_of_label_with_sign_turned() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    chance = logits.softmax(1)[torch.arange(6), labels]
    torch.testing.assert_close(log_odds(logits, labels), torch.log((1 - chance) / chance))


def test_fgsm_step_is_epsilon_times_sign_of_cross_entropy_gradient(
    tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor
) -> None:
    gradient = slope(tiny_cnn, pixels, labels)
    sure = gradient.abs() > 1e-3 * gradient.abs().max()
    for epsilon, found in zip([EPSILON, 8 / 255], fgsm(tiny_cnn, pixels, labels, [EPSILON, 8 / 255]), strict=True):
        expected = (pixels + epsilon * gradient.sign().float()).clamp(0, 1)
        torch.testing.assert_close(found[sure], expected[sure], rtol=0, atol=1e-7)
        assert found.min() >= 0
        assert found.max() <= 1


def test_fgsm_equals_captums_own_at_each_epsilon(
    tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor
) -> None:
    attack = FGSM(tiny_cnn, loss_func=log_odds, lower_bound=0.0, upper_bound=1.0)
    attack.zero_thresh = 0.0
    for epsilon, found in zip([0.01, 0.1], fgsm(tiny_cnn, pixels, labels, [0.01, 0.1]), strict=True):
        expected = attack.perturb(pixels.clone(), epsilon, labels)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_gradient_survives_where_cross_entropy_is_rounded_to_nothing() -> None:
    """A network so sure that float32 gives its cross-entropy a gradient of zero is attacked all the same."""

    class Sure(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = 400 * (x.mean((1, 2, 3)) - 0.25)
            return torch.stack([z, -z], dim=1)

    pixels, labels = torch.full((1, 3, 4, 4), 0.75), torch.tensor([0])
    leaf = pixels.clone().requires_grad_()
    cross_entropy(Sure()(leaf), labels).backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() == 0
    (found,) = fgsm(Sure(), pixels, labels, [0.1])
    torch.testing.assert_close(found, torch.full_like(pixels, 0.65))
    walked = pgd(Sure(), pixels, labels, epsilon=0.1, steps=[4], seeds=None)[4]
    torch.testing.assert_close(walked, torch.full_like(pixels, 0.65))


def test_linear_model_is_moved_to_the_closed_form() -> None:
    """Two classes, z = W x: the worst point of the ball lies along the sign of the other row minus the label's."""
    weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(weight)
    pixels, labels = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 1])
    direction = (weight[1] - weight[0]).sign().reshape(3, 2, 2)
    worst = pixels + 0.1 * torch.stack([direction, -direction])
    (found,) = fgsm(model, pixels, labels, [0.1])
    torch.testing.assert_close(found, worst)
    # Eight steps of a quarter of the radius reach every corner from anywhere in the ball.
    walked = pgd(model, pixels, labels, epsilon=0.1, steps=[8], seeds=[1, 2])[8]
    torch.testing.assert_close(walked, worst)
    margin = model(worst)[0, 0] - model(worst)[0, 1]
    clean = (weight[0] - weight[1]).sum() * 0.5
    torch.testing.assert_close(margin, clean - 0.1 * (weight[0] - weight[1]).abs().sum())


def test_one_step_from_the_image_is_fgsm(tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    (expected,) = fgsm(tiny_cnn, pixels, labels, [EPSILON])
    found = pgd(tiny_cnn, pixels, labels, epsilon=EPSILON, steps=[1], seeds=None, step=EPSILON)[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_pgd_is_the_textbook_loop(tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    seeds = [10, 11, 12, 13, 14]
    found = pgd(tiny_cnn, pixels, labels, epsilon=EPSILON, steps=[1, 3, 7], seeds=seeds)
    assert sorted(found) == [1, 3, 7]
    x = random_start(pixels, EPSILON, seeds)
    low, high = (pixels - EPSILON).clamp(0, 1), (pixels + EPSILON).clamp(0, 1)
    for step in range(1, 8):
        leaf = x.clone().requires_grad_()
        log_odds(tiny_cnn(leaf), labels).sum().backward()
        assert leaf.grad is not None
        x = torch.minimum(torch.maximum(x + EPSILON / 4 * leaf.grad.sign(), low), high)
        if step in found:
            torch.testing.assert_close(found[step], x, rtol=0, atol=1e-6)


def test_pgd_stays_in_ball_and_box(tiny_cnn: nn.Module, labels: torch.Tensor) -> None:
    edges = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(4)).round()
    for made in pgd(tiny_cnn, edges, labels, epsilon=0.05, steps=[1, 5, 9], seeds=range(5)).values():
        assert (made - edges).abs().max() <= 0.05 + 1e-6
        assert made.min() >= 0
        assert made.max() <= 1


def test_start_belongs_to_the_image_and_leaves_the_callers_random_state(
    tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = pgd(tiny_cnn, pixels, labels, epsilon=EPSILON, steps=[2], seeds=[7, 8, 9, 10, 11])[2]
    assert torch.equal(torch.get_rng_state(), before)
    alone = pgd(tiny_cnn, pixels[2:3], labels[2:3], epsilon=EPSILON, steps=[2], seeds=[9])[2]
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-6)
    start = random_start(pixels, EPSILON, [7, 8, 9, 10, 11])
    assert (start - pixels).abs().max() <= EPSILON + 1e-7
    assert len({float(one.sum()) for one in start - pixels}) == 5


def test_nothing_of_the_model_or_the_images_is_changed(
    tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor
) -> None:
    kept = pixels.clone()
    list(fgsm(tiny_cnn, pixels, labels, [EPSILON]))
    pgd(tiny_cnn, pixels, labels, epsilon=EPSILON, steps=[2], seeds=None)
    assert torch.equal(pixels, kept)
    assert not pixels.requires_grad
    assert all(p.grad is None and p.requires_grad for p in tiny_cnn.parameters())


def test_wrong_inputs_are_refused(tiny_cnn: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match="work on pixels"):
        list(fgsm(tiny_cnn, pixels * 3 - 1, labels, [EPSILON]))
    with pytest.raises(OptionError, match="share of the range"):
        list(fgsm(tiny_cnn, pixels, labels, [8.0]))
    with pytest.raises(OptionError, match="at least one step"):
        pgd(tiny_cnn, pixels, labels, epsilon=EPSILON, steps=[0], seeds=None)
    with pytest.raises(DataError, match="needs a seed"):
        pgd(tiny_cnn, pixels, labels, epsilon=EPSILON, steps=[1], seeds=[1])


def test_accuracy_falls_with_epsilon_and_steps(tiny_cnn: nn.Module, pixels: torch.Tensor) -> None:
    labels = tiny_cnn(pixels).argmax(1)
    losses = [
        float(log_odds(tiny_cnn(made), labels).detach().mean())
        for made in fgsm(tiny_cnn, pixels, labels, [0.0, 0.01, 0.03, 0.1])
    ]
    assert np.all(np.diff(losses) > 0)
    walked = pgd(tiny_cnn, pixels, labels, epsilon=0.1, steps=[1, 2, 4, 8], seeds=None)
    assert np.all(np.diff([float(log_odds(tiny_cnn(x), labels).detach().mean()) for x in walked.values()]) > 0)
