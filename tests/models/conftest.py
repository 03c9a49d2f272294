"""Pictures of noise, for models whose outputs mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from auditor.data import LabelledData

N_IMAGES = 16
N_CLASSES = 10


def noise(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (48, 48, 3), dtype=np.uint8))


@pytest.fixture
def noise_data() -> LabelledData:
    """Two splits of eight pictures each, of ten classes."""
    rows = np.arange(N_IMAGES)
    return LabelledData(
        name="noise",
        origin="random numbers",
        classes=tuple(f"class {number}" for number in range(N_CLASSES)),
        labels=rows // 2 % N_CLASSES,
        ids=tuple(f"image {row}" for row in rows),
        splits={"train": rows[:0], "select": rows[::2], "score": rows[1::2]},
        read=noise,
    )
