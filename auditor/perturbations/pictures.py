"""A batch of pixels through Pillow, one picture at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def through_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change every image as an RGB picture of 8 bits a channel.

    Parameters
    ----------
    images : Tensor
        Shape (B, 3, H, W), pixels in [0, 1]; rounded to multiples of 1/255.
    change : callable
        From picture to picture of the same size.

    Returns
    -------
    Tensor
        Shape (B, 3, H, W), multiples of 1/255, on the device of `images`.
    """
    arrays = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(array))) for array in arrays])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(images.device).float() / 255
