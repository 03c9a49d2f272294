"""What all nineteen corruptions keep to."""

from __future__ import annotations

from importlib.metadata import entry_points
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import auditor_corruptions as plugin
from auditor.perturbations.base import SEVERITIES, Corruption
from auditor.perturbations.builtin import auditor_corruptions as builtin
from auditor.registry import Registry

STANDARD = {
    "noise": {"gaussian_noise", "shot_noise", "impulse_noise"},
    "blur": {"defocus_blur", "glass_blur", "motion_blur", "zoom_blur"},
    "weather": {"snow", "frost", "fog", "brightness"},
    "digital": {"contrast", "elastic_transform", "pixelate", "jpeg_compression"},
    "extra": {"speckle_noise", "gaussian_blur", "spatter", "saturate"},
}
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur"}
RANDOM |= {"snow", "frost", "fog", "elastic_transform", "spatter"}
# The authors' tables do not order these by how far values move: they trade blur for shuffling, affine for local
# displacement, water for mud, less for more colour, and the weight of the image for that of the frost.
UNORDERED = {"glass_blur", "elastic_transform", "spatter", "saturate", "frost"}

ALL = [*builtin(), *plugin.auditor_corruptions()]
every = pytest.mark.parametrize("corruption", ALL, ids=repr)


def photographs(size: int, n: int) -> torch.Tensor:
    """Parts of the photographs that come with scikit-learn, shape (n, 3, size, size)."""
    parts = []
    for i in range(n):
        picture = Image.fromarray(load_sample_images().images[i % 2])
        left = 60 * (i // 2)
        parts.append(np.asarray(picture.crop((left, 0, left + 400, 400)).resize((size, size))))
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float() / 255


def test_there_are_the_fifteen_standard_ones_and_four_more() -> None:
    names = [corruption.name for corruption in ALL]
    assert len(names) == len(set(names)) == 19
    groups = {group: {c.name for c in ALL if c.group == group} for group in STANDARD}
    assert groups == STANDARD
    assert len({corruption.label for corruption in ALL}) == 19


def test_the_registry_finds_them_once_installed() -> None:
    if not any(e.name == "corruptions" for e in entry_points(group="auditor")):
        pytest.skip("auditor-corruptions is not installed")
    registry = Registry()
    registry.load_installed()
    assert "corruptions" not in registry.broken
    assert set(registry.corruptions()) >= {corruption.name for corruption in ALL}


@every
def test_there_are_parameters_for_three_sizes_and_five_severities(corruption: Corruption) -> None:
    assert set(corruption.table) == {32, 64, 224}
    for size in corruption.table:
        rows = [corruption.parameters(severity, size) for severity in SEVERITIES]
        assert all(set(row) == set(corruption.fields) for row in rows)
        assert len({tuple(row.values()) for row in rows}) == 5


@every
@pytest.mark.parametrize("size", [32, 64, 224])
def test_every_severity_gives_another_image_of_the_same_shape(corruption: Corruption, size: int) -> None:
    images = photographs(size, 1)
    results = [corruption(images, severity, seeds=[3]) for severity in SEVERITIES]
    for i, result in enumerate(results):
        assert result.shape == images.shape
        assert float(result.min()) >= 0
        assert float(result.max()) <= 1
        same = (corruption.name, size, i) == ("motion_blur", 32, 3)  # the authors' table: only the cut-off differs
        assert all(not torch.equal(result, other) for other in [images, *results[: i - same]])


@pytest.mark.parametrize("corruption", [c for c in ALL if c.name not in UNORDERED], ids=repr)
def test_distortion_grows_with_severity(corruption: Corruption) -> None:
    for size, n in ((32, 12), (64, 6)):
        images = photographs(size, n)
        # The same seeds at every severity: differences are the parameters'.
        apart = [float((corruption(images, s, seeds=range(n)) - images).abs().mean()) for s in SEVERITIES]
        if (corruption.name, size) == ("motion_blur", 32):
            assert apart[2] == pytest.approx(apart[3], rel=1e-5)  # they differ in where the Gaussian is cut off only
            del apart[3]
        assert all(after > before for before, after in pairwise(apart)), apart


@pytest.mark.parametrize("name,field", [("frost", "procedural_texture"), ("motion_blur", "sigma"), ("snow", "sigma")])
def test_a_parameter_grows_with_severity(name: str, field: str) -> None:
    corruption = next(c for c in ALL if c.name == name)
    for size in corruption.table:
        rows = [corruption.parameters(severity, size) for severity in SEVERITIES]
        values = [row[field] / row.get("image", 1) for row in rows]
        assert values == sorted(values)


@every
def test_an_image_is_corrupted_alike_alone_and_in_company(corruption: Corruption) -> None:
    images = photographs(32, 5)
    for severity in (1, 3, 5):
        together = corruption(images, severity, seeds=[5, 4, 3, 2, 1])
        again = corruption(images, severity, seeds=[5, 4, 3, 2, 1])
        alone = torch.cat([corruption(images[i : i + 1], severity, seeds=[5 - i]) for i in range(5)])
        assert torch.equal(together, again)
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@every
def test_the_seed_decides_where_something_is_drawn(corruption: Corruption) -> None:
    images = photographs(32, 1).repeat(2, 1, 1, 1)
    one, other = corruption(images, 3, seeds=[1, 2])
    assert torch.equal(one, other) == (corruption.name not in RANDOM)


@every
def test_the_global_generator_is_left_alone(corruption: Corruption) -> None:
    before = torch.random.get_rng_state()
    corruption(photographs(32, 1), 2, seeds=[0])
    assert torch.equal(before, torch.random.get_rng_state())


@every
@pytest.mark.parametrize("height,width", [(48, 64), (64, 48), (7, 9), (1, 1), (8, 8)])
def test_any_shape_will_do(corruption: Corruption, height: int, width: int) -> None:
    images = photographs(64, 2)[:, :, :height, :width]
    for severity in (1, 3, 5):
        result = corruption(images, severity, seeds=[0, 1])
        assert result.shape == images.shape
        assert torch.isfinite(result).all()


@every
@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_a_flat_image_stays_flat_where_nothing_is_added(corruption: Corruption, level: float) -> None:
    grey = torch.full((1, 3, 32, 32), level)
    for severity in SEVERITIES:
        result = corruption(grey, severity, seeds=[7])
        assert torch.isfinite(result).all()
        if corruption.group == "blur" or corruption.name in {"gaussian_blur", "contrast", "pixelate"}:
            torch.testing.assert_close(result, grey, atol=1.01 / 255, rtol=0)
        elif corruption.name in {"elastic_transform", "jpeg_compression"}:
            torch.testing.assert_close(result, grey, atol=1.5 / 255, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
def test_the_device_makes_no_difference(corruption: Corruption) -> None:
    images = photographs(64, 2)
    on_cpu = corruption(images, 3, seeds=[1, 2])
    on_gpu = corruption(images.cuda(), 3, seeds=[1, 2])
    assert on_gpu.is_cuda
    # A level of 8 bits may fall the other way on few pixels.
    assert float((on_gpu.cpu() - on_cpu).abs().mean()) < 1e-5
