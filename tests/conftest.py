"""What the tests share: tiny models, tiny labelled data, markers.

Models and data are fixtures that return fresh, seeded objects. Torch is imported only by tests that ask for a model.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    import torch
    from torch import nn

    from auditor.data.base import LabelledData

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("auditor", derandomize=True, deadline=None)
    settings.load_profile("auditor")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker would start a thread per core otherwise; must be set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Read once, when the hub's client is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

N_CLASSES = 3
IMAGE_SIZE = 16


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    needy = [item for item in items if item.get_closest_marker("gpu")]
    if not needy:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's cache; one cache for the whole run, since filling it takes training."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("AUDITOR_CACHE", str(shared / "auditor-cache"))


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


@pytest.fixture
def tiny_cnn() -> nn.Module:
    """Plain convolutional net, (B, 3, 16, 16) -> (B, 3). Sites: ``act1`` (8 units), ``act2`` (12), ``act3`` (10)."""
    from collections import OrderedDict

    from torch import nn

    def build() -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, 8, 3, stride=2, padding=1),
            act1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(8, 12, 3, stride=2, padding=1),
            act2=nn.ReLU(inplace=True),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc1=nn.Linear(12, 10),
            act3=nn.ReLU(),
            fc2=nn.Linear(10, N_CLASSES),
        )
        return nn.Sequential(layers)

    return _seeded(build)


@pytest.fixture
def tiny_resnet() -> nn.Module:
    """Residual net whose blocks call one ReLU twice, (B, 3, 16, 16) -> (B, 3).

    Sites: ``relu`` (8 units), then ``blocks.0.relu@1`` (8), ``blocks.0.relu@2`` (8), ``blocks.1.relu@1`` (8), ...
    """
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            y += x
            return self.relu(y)

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(8)
            self.relu = nn.ReLU(inplace=True)
            self.blocks = nn.Sequential(Block(8), Block(8))
            self.fc = nn.Linear(8, N_CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.blocks(self.relu(self.bn(self.conv(x))))
            return self.fc(x.mean((2, 3)))

    return _seeded(ResNet)


@pytest.fixture
def tiny_vit() -> nn.Module:
    """Vision transformer with 16 patches and a class token, (B, 3, 16, 16) -> (B, 3), fixed input size.

    Sites: ``blocks.0.act`` and ``blocks.1.act`` (24 units each, on the last axis of (B, 17, 24)).
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int, hidden: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
            self.norm2 = nn.LayerNorm(width)
            self.fc1 = nn.Linear(width, hidden)
            self.act = nn.GELU()
            self.fc2 = nn.Linear(hidden, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            return x + self.fc2(self.act(self.fc1(self.norm2(x))))

    class ViT(nn.Module):
        def __init__(self, width: int = 12) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, width, 4, stride=4)
            self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.position = nn.Parameter(torch.randn(1, (IMAGE_SIZE // 4) ** 2 + 1, width) * 0.02)
            self.blocks = nn.Sequential(Block(width, 24), Block(width, 24))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, N_CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
            return self.head(self.norm(self.blocks(x))[:, 0])

    return _seeded(ViT)


@pytest.fixture(params=["tiny_cnn", "tiny_resnet", "tiny_vit"])
def tiny_model(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the tiny models in turn."""
    model: nn.Module = request.getfixturevalue(request.param)
    return model


@pytest.fixture
def tiny_batch() -> torch.Tensor:
    """Return 6 inputs of shape (3, 16, 16) for the tiny models."""
    import torch

    return torch.randn(6, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def _image(label: int, number: int) -> Image.Image:
    """Noise in which class `label` has a bright colour channel: easy to learn, never constant."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 100, (IMAGE_SIZE, IMAGE_SIZE, 3))
    pixels[..., label] += 120
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def tiny_data() -> LabelledData:
    """36 images of 3 classes, 12 each: 6 train, 3 select and 3 score per class."""
    from auditor.data.base import LabelledData

    per_class = 12
    labels = np.repeat(np.arange(N_CLASSES, dtype=np.int64), per_class)
    numbers = np.tile(np.arange(per_class), N_CLASSES)
    images = [_image(int(label), int(number)) for label, number in zip(labels, numbers, strict=True)]
    splits: dict[str, Any] = {
        "train": np.flatnonzero(numbers < 6),
        "select": np.flatnonzero((numbers >= 6) & (numbers < 9)),
        "score": np.flatnonzero(numbers >= 9),
    }
    return LabelledData(
        name="tiny",
        origin="made by the tests",
        classes=("red", "green", "blue"),
        labels=labels,
        ids=tuple(f"tiny/{label}/{number:02d}" for label, number in zip(labels, numbers, strict=True)),
        splits=splits,
        read=images.__getitem__,
    )


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """Folder with one sub-folder per class (blue, green, red), 12 PNG images of 16 x 16 each."""
    root = tmp_path / "tiny"
    for label, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir(parents=True)
        for number in range(12):
            _image(label, number).save(root / name / f"{number:02d}.png")
    return root
