from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

from auditor.data import UnreadableImageError, from_dataset, load_data
from auditor.errors import DataError, OptionError

PIXELS = np.random.default_rng(5).integers(0, 256, (24, 4, 5, 3)).astype(np.uint8)


class Pets:
    """Map-style; counts how often an item is read."""

    def __init__(self, n: int = 24) -> None:
        self.n, self.read = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.read += 1
        return Image.fromarray(PIXELS[index % 24]), index % 3


class Listed(Pets):
    def __init__(self, n: int = 24) -> None:
        super().__init__(n)
        self.classes = ["owl", "cat", "dog"]
        self.targets = [index % 3 for index in range(n)]


def test_items_alone_are_enough() -> None:
    data = from_dataset(Pets())
    assert data.name == "Pets"
    assert data.classes == ("0", "1", "2")
    assert data.labels.tolist() == [row % 3 for row in range(24)]
    assert data.ids[5] == "item/00000005"
    np.testing.assert_array_equal(np.asarray(data.read(5)), PIXELS[5])
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(data)).read(5)), PIXELS[5])
    assert data.fingerprint() == load_data(Pets()).fingerprint()


def test_listed_labels_spare_the_reading() -> None:
    dataset = Listed(2400)
    data = from_dataset(dataset)
    assert data.classes == ("owl", "cat", "dog")
    assert dataset.read < 20


def test_items_win_over_a_list_that_contradicts_them() -> None:
    dataset = Listed()
    dataset.targets = [2 - label for label in dataset.targets]  # a target_transform does this
    assert from_dataset(dataset).labels.tolist() == [row % 3 for row in range(24)]


def test_a_subset_keeps_the_names_of_the_whole() -> None:
    data = from_dataset(Subset(Listed(), [23, 0, 4, 5, 9, 10, 2, 1]))
    assert data.ids[0] == "item/00000023"
    assert data.labels.tolist() == [2, 0, 1, 2, 0, 1, 2, 1]
    assert data.classes == ("owl", "cat", "dog")
    np.testing.assert_array_equal(np.asarray(data.read(0)), PIXELS[23])
    with pytest.raises(DataError, match="same id"):
        from_dataset(Subset(Listed(), [0, 0, 1, 1, 2, 2]))


def test_joined_data_sets() -> None:
    data = from_dataset(ConcatDataset([Listed(12), Subset(Listed(), range(12, 24))]))
    assert data.labels.tolist() == [row % 3 for row in range(24)]
    assert (data.ids[0], data.ids[12]) == ("0/item/00000000", "1/item/00000012")
    np.testing.assert_array_equal(np.asarray(data.read(13)), PIXELS[13])


def test_tensors_and_mappings() -> None:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    labels = torch.arange(24) % 3
    for dataset in (
        TensorDataset(images, labels),
        TensorDataset(images.float() / 255, labels),
        [{"image": Image.fromarray(pixels), "label": row % 3} for row, pixels in enumerate(PIXELS)],
        [(pixels, np.int32(row % 3)) for row, pixels in enumerate(PIXELS)],
    ):
        data = load_data(dataset)
        assert data.labels.tolist() == labels.tolist()
        np.testing.assert_array_equal(np.asarray(data.read(3)), PIXELS[3])


def test_an_image_folder_keeps_its_paths_and_classes(tiny_folder: Path) -> None:
    data = from_dataset(ImageFolder(str(tiny_folder)))
    assert data.ids[0] == "blue/00.png"
    assert data.fingerprint() == load_data(str(tiny_folder)).fingerprint()
    assert data.split_fingerprint() == load_data(str(tiny_folder)).split_fingerprint()


def test_a_held_out_data_set() -> None:
    data = from_dataset(Listed(), held_out=Listed(12))
    assert data.splits["train"].tolist() == list(range(24))
    assert (data.ids[0], data.ids[24]) == ("train/item/00000000", "test/item/00000000")
    np.testing.assert_array_equal(np.asarray(data.read(25)), PIXELS[1])


def test_class_names_follow_the_data() -> None:
    dataset = Listed()
    dataset.classes = [("crane", "bird"), ("crane", "machine"), "a/../b"]  # type: ignore[list-item]
    assert from_dataset(dataset).classes == ("crane (0)", "crane (1)", "a/../b")
    dataset.classes = ["owl", "cat"]
    with pytest.raises(DataError, match="name no class"):
        from_dataset(dataset)


class Odd(Pets):
    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item

    def __getitem__(self, index: int) -> Any:
        got = super().__getitem__(index)
        return self.item(index, got) if callable(self.item) else self.item


def flip(_: int, got: tuple[Image.Image, int]) -> tuple[Any, int]:
    flip.calls = getattr(flip, "calls", 0) + 1  # type: ignore[attr-defined]
    return (got[0] if flip.calls % 2 else got[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)), got[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "dataset,message",
    [
        (Odd(3), "no pair"),
        (Odd((Image.new("L", (2, 2)), "cat")), "no class number"),
        (Odd((Image.new("L", (2, 2)), torch.tensor([0.0, 1.0]))), "no class number"),
        (Odd((Image.new("L", (2, 2)), 0)), "one class only"),
        (Odd(lambda _, got: (got[0], -1)), "name no class"),
        (Odd(lambda *_: 1 / 0), "failed at item 0"),
        (Odd(lambda _, got: (torch.randn(3, 4, 4), got[1])), "outside 0 to 1"),
        (Odd(flip), "differs from one reading"),
        ([], "empty"),
        (42, "cannot be used"),
    ],
)
def test_other_data_sets_are_explained(dataset: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(dataset)


def test_data_without_length_are_explained() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(Pets())  # type: ignore[call-overload]

    with pytest.raises(DataError, match=r"no length|cannot be used|failed at item"):
        load_data(Stream())


def test_a_broken_file_is_that_images_matter(tiny_folder: Path) -> None:
    path = tiny_folder / "green" / "03.png"
    path.write_bytes(path.read_bytes()[:60])
    data = from_dataset(ImageFolder(str(tiny_folder)))
    with pytest.raises(UnreadableImageError, match=r"green/03\.png"):
        data.read(data.ids.index("green/03.png"))


def test_a_root_belongs_to_a_name() -> None:
    with pytest.raises(OptionError, match="root"):
        load_data(Pets(), root="somewhere")


def test_torchvisions_fake_data() -> None:
    assert len(from_dataset(FakeData(size=60, image_size=(3, 8, 8), num_classes=3))) == 60
