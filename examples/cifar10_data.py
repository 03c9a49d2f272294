"""CIFAR-10 as the library expects it: trained on the training images, judged on the test images.

``auditor`` calls the function, and ``--root`` says where the arrays are::

    cd examples
    auditor profile --model cifar10_resnet20:resnet20 --data cifar10_data:cifar10 --root DIR --weights none

``DIR`` holds ``cifar10_train.npz`` (or any part of it: ``cifar10_train10k.npz``) and ``cifar10_test.npz``, each with
``images`` (uint8, N x 32 x 32 x 3), ``labels`` (N) and ``classes`` (10 names).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from auditor.data import LabelledData
from auditor.data.dataset import from_dataset
from auditor.errors import DataError


class Arrays:
    """Pairs of picture and class number, as torchvision's data sets give them."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.images, self.targets = file["images"], file["labels"].tolist()
            self.classes = [str(name) for name in file["classes"]]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], self.targets[index]


def cifar10(root: str = ".") -> LabelledData:
    """Training images to train on; of the test images a fifth to measure selectivity on, the others to judge."""
    folder = Path(root).expanduser()
    train, test = sorted(folder.glob("cifar10_train*.npz")), folder / "cifar10_test.npz"
    if not train or not test.exists():
        raise DataError(
            "The CIFAR-10 arrays are not there.",
            wanted=f"cifar10_train*.npz and cifar10_test.npz in {folder}",
            got=", ".join(sorted(path.name for path in folder.glob("*.npz"))) or "no .npz file",
            fix="Say where they are with --root DIR.",
        )
    return from_dataset(
        Arrays(train[0]), held_out=Arrays(test), fractions=(0.0, 0.2, 0.8), name="cifar10", origin="CIFAR-10"
    )
