"""Networks as functions of pixels in [0, 1], where corruptions and attacks work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision import transforms

from auditor.errors import DataError
from auditor.models.preprocessing import Preprocessing

# Weights of red, green and blue in grey, as in Pillow's conversion to mode "L" (ITU-R 601-2).
LUMA = (0.299, 0.587, 0.114)


def pixel_transform(preprocessing: Preprocessing) -> Callable[[Image], Tensor]:
    """Return the part of a transform that ends in pixels: picture to float32 in [0, 1], shape (C, H, W).

    Resizing, cropping and padding are the model's own; only the normalisation is missing. It can be pickled.
    """
    whole: Any = preprocessing.build()
    cut: Callable[[Image], Tensor] = transforms.Compose(
        [step for step in whole.transforms if not isinstance(step, transforms.Normalize)]
    )
    return cut


def pixel_identity(preprocessing: Preprocessing) -> dict[str, Any]:
    """Everything that decides the pixels; networks that agree in it are given the same ones."""
    values = preprocessing.to_dict()
    values.pop("std")
    if values["crop_mode"] != "border":  # where the mean fills the border
        values.pop("mean")
    return values


class PixelModel(nn.Module):
    """A network with its normalisation inside.

    Parameters
    ----------
    module : nn.Module
        Takes normalised images.
    preprocessing : Preprocessing
        Holds the mean and standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.module = module
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32, device=like.device)
            self.register_buffer(name, values[:, None, None], persistent=False)
        self.channels = preprocessing.input_size[0]
        self._dtype = like.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels in [0, 1], shape (B, C, H, W), where C is the network's number of channels.

        Raises
        ------
        DataError
            If the pixels have another number of channels.
        """
        if pixels.ndim != 4 or pixels.shape[1] != self.channels:
            raise DataError(
                "These pixels do not fit the network.",
                wanted=f"shape (B, {self.channels}, H, W)",
                got=str(tuple(pixels.shape)),
            )
        logits: Tensor = self.module(((pixels - self.mean) / self.std).to(self._dtype))
        return logits.float()


def to_colour(pixels: Tensor) -> Tensor:
    """Give grey pixels, shape (B, 1, H, W), three equal channels; colour stays as it is."""
    return pixels.repeat(1, 3, 1, 1) if pixels.shape[1] == 1 else pixels


def to_channels(colour: Tensor, channels: int) -> Tensor:
    """Turn colour, shape (B, 3, H, W), into what a network of so many channels sees; 1 for grey."""
    if channels == 3:
        return colour
    weights = torch.tensor(LUMA, dtype=colour.dtype, device=colour.device)
    return (colour * weights[:, None, None]).sum(dim=1, keepdim=True).clamp(0, 1)
