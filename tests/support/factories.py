"""Architectures that the tests name on the command line as ``factories:small_cnn``."""

from __future__ import annotations

import torch
from torch import nn


def small_cnn(num_classes: int = 10) -> nn.Module:
    """Three convolutions, 12 + 16 + 24 units, for any image size."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, num_classes),
    )


def normed_cnn(num_classes: int = 10) -> nn.Module:
    """As :func:`small_cnn` with batch norms, so that training with a strong regularizer kills no units."""
    layers: list[nn.Module] = []
    for made in small_cnn(num_classes):
        layers.append(made)
        if isinstance(made, nn.Conv2d):
            layers.append(nn.BatchNorm2d(made.out_channels))
    return nn.Sequential(*layers)


class Signed(nn.Module):
    """All its responses can be negative."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 5, stride=4)
        self.act = nn.GELU()
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def signed(num_classes: int = 10) -> nn.Module:
    """Build a network without a layer on which the index is defined."""
    return Signed(num_classes)


def mixed(num_classes: int = 10) -> nn.Module:
    """Build a network of a layer with signed responses (``1``, 6 units) and one without (``3``, 8 units)."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=4),
        nn.GELU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )
