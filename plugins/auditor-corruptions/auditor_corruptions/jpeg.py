"""Compression by JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from auditor.perturbations.base import Corruption, Group, Table
from auditor.perturbations.pictures import through_pillow


class JpegCompression(Corruption):
    """Written as JPEG of a `quality` by Pillow and read again."""

    name: ClassVar[str] = "jpeg_compression"
    label: ClassVar[str] = "JPEG compression"
    group: ClassVar[Group] = "digital"
    fields: ClassVar[tuple[str, ...]] = ("quality",)
    table: ClassVar[Table] = {
        32: (80, 65, 58, 50, 40),
        64: (65, 58, 50, 40, 25),
        224: (25, 18, 15, 10, 7),
    }

    def corrupt(self, images: Tensor, parameters: dict[str, float], generators: Sequence[torch.Generator]) -> Tensor:
        """Compress; see :meth:`Corruption.corrupt`."""
        quality = int(parameters["quality"])

        def compressed(picture: Image.Image) -> Image.Image:
            file = BytesIO()
            picture.save(file, "JPEG", quality=quality)
            return Image.open(file)

        return through_pillow(images, compressed)
