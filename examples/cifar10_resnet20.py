"""A network of your own: the CIFAR-10 residual networks of He et al. (2015, section 4.2, shortcut option A).

``auditor`` builds it from the function and takes the weights from a checkpoint::

    cd examples
    auditor profile --model cifar10_resnet20:resnet20 --checkpoint resnet20.safetensors --data DATA

The names of the layers are those of https://github.com/akamaster/pytorch_resnet_cifar10, so its checkpoints load as
they are (their ``module.`` prefix is removed). Without ``pretrained_cfg`` the preprocessing would have to be given::

    --input-size 32 --crop-pct 1 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# What auditor reads to prepare the images, in timm's words. These networks were trained with ImageNet's constants.
PREPROCESSING = {
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU(inplace=True)
        self.stride = stride
        self.padding = (out_channels - channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.padding:
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *[self.padding] * 2))
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))) + shortcut)


class CifarResNet(nn.Module):
    """Three stages of `blocks` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        self.pretrained_cfg = dict(PREPROCESSING)

    @staticmethod
    def _stage(channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(channels, out_channels, stride)
        return nn.Sequential(first, *(Block(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20(num_classes: int = 10) -> nn.Module:
    """Build ResNet-20, 0.27 million parameters."""
    return CifarResNet(3, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """Build ResNet-56, 0.85 million parameters."""
    return CifarResNet(9, num_classes)
