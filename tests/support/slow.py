"""Networks that take their time, so that faults strike in the middle; one is named ``slow:small_cnn``."""

from __future__ import annotations

import os
import time

import torch
from torch import nn


class Slow(nn.Module):
    """Three classes from images of any size; every forward pass takes ``SLOW_SECONDS`` longer than it should."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 5, stride=2, padding=2)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.act2 = nn.ReLU()
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify, slowly."""
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        x = self.act2(self.conv2(self.act1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def small_cnn(num_classes: int = 3) -> nn.Module:
    """Build the network; its weights come from the command's seed."""
    return Slow(num_classes)
