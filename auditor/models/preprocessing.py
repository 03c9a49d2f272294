"""From a picture to a model's input, as the model was evaluated by those who trained it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from auditor.errors import ModelError, OptionError

CROP_MODES = ("center", "squash", "border")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_PIL_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """An evaluation transform, in values that can be written down and compared.

    Parameters
    ----------
    input_size : tuple of int
        Channels, height and width of the model's input.
    resize : tuple of int
        ``(shorter side,)``, or ``(height, width)``, before the crop.
    interpolation : str
        A Pillow filter's name: ``"bicubic"``, ``"bilinear"``, ``"nearest"``, ``"lanczos"``, ``"box"``, ``"hamming"``.
    mean, std : tuple of float
        Normalisation for each channel, after scaling to [0, 1].
    crop_mode : str
        timm's word for what happens to pictures of another shape: ``"center"`` keeps the aspect ratio and cuts,
        ``"squash"`` stretches, ``"border"`` keeps the aspect ratio and pads with the mean.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    resize: tuple[int, ...] = (256,)
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name in ("input_size", "resize", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        channels = self.input_size[0]
        if channels not in _PIL_MODES:
            raise ModelError(
                "Pictures cannot be turned into this model's input.",
                wanted="a model that takes 1 or 3 channels",
                got=f"{channels} channels",
            )
        if len(self.mean) != channels or len(self.std) != channels:
            raise ModelError(
                "The model's normalisation does not fit its input.",
                wanted=f"{channels} means and standard deviations",
                got=f"{len(self.mean)} and {len(self.std)}",
            )
        if self.crop_mode not in CROP_MODES:
            raise OptionError(f"There is no crop mode {self.crop_mode!r}.", wanted=" or ".join(CROP_MODES))
        if self.interpolation not in _interpolations():
            raise OptionError(
                f"There is no interpolation {self.interpolation!r}.", wanted=" or ".join(sorted(_interpolations()))
            )

    def build(self) -> Callable[[Image.Image], Tensor]:
        """Return the transform: picture to float32 tensor of shape `input_size`. It can be pickled."""
        size = list(self.input_size[1:])
        fill = [round(255 * value) for value in self.mean]
        transform: Callable[[Image.Image], Tensor] = transforms.Compose(
            [
                _Convert(_PIL_MODES[self.input_size[0]]),
                self._resizer(),
                _center_crop_or_pad(size, fill) if self.crop_mode == "border" else transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(mean=torch.tensor(self.mean), std=torch.tensor(self.std)),
            ]
        )
        return transform

    def _resizer(self) -> Callable[[Image.Image], Image.Image]:
        mode = _interpolations()[self.interpolation]
        keeps_ratio = len(self.resize) == 2 and (self.crop_mode == "border" or self.resize[0] != self.resize[1])
        if keeps_ratio and self.crop_mode != "squash":
            from timm.data.transforms import ResizeKeepRatio

            longest = 1.0 if self.crop_mode == "border" else 0.0
            resizer: Callable[[Image.Image], Image.Image] = ResizeKeepRatio(
                self.resize, longest=longest, interpolation=self.interpolation
            )
            return resizer
        size = list(self.resize) if self.crop_mode == "squash" else self.resize[0]
        stretcher: Callable[[Image.Image], Image.Image] = transforms.Resize(size, interpolation=mode)
        return stretcher

    def with_size(self, size: int) -> Preprocessing:
        """Return the same for a square input of `size` pixels without a crop margin, for small pictures."""
        if size < 1:
            raise OptionError("The input size must be at least 1 pixel.", got=str(size))
        resize = (size,) if self.crop_mode == "center" else (size, size)
        return replace(self, input_size=(self.input_size[0], size, size), resize=resize)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Inverse of :meth:`to_dict`."""
        return cls(**values)

    def describe(self) -> str:
        """One line for a person."""
        _, height, width = self.input_size
        resize = " x ".join(str(side) for side in self.resize)
        resize = resize if len(self.resize) > 1 else f"shorter side {resize}"
        fit = {"center": "center crop", "squash": "stretch and crop", "border": "pad"}[self.crop_mode]
        colour = "grey" if self.input_size[0] == 1 else "RGB"
        return (
            f"{colour}, resize to {resize} ({self.interpolation}), {fit} to {height} x {width}, "
            f"mean {_numbers(self.mean)}, std {_numbers(self.std)}"
        )


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """Read a timm model's evaluation transform from its ``pretrained_cfg``.

    Equals ``timm.data.create_transform(**timm.data.resolve_data_config({}, model=module))`` after conversion to the
    right number of channels.
    """
    from timm.data import resolve_data_config

    attribute = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    values = attribute if isinstance(attribute, Mapping) else asdict(attribute)
    config = resolve_data_config({"crop_pct": values.get("crop_pct") or 0.875}, pretrained_cfg=dict(values))
    channels, height, width = config["input_size"]
    scaled = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
    crop_mode = config["crop_mode"] if config["crop_mode"] in CROP_MODES else "center"
    one_side = crop_mode == "center" and scaled[0] == scaled[1]
    return Preprocessing(
        input_size=(channels, height, width),
        resize=scaled[:1] if one_side else scaled,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_mode=crop_mode,
    )


def torchvision_preprocessing(name: str, image_size: int | None = None) -> Preprocessing:
    """Read the evaluation transform of torchvision's default weights for the model `name`.

    Where those are for pictures of another size than `image_size`, it is the transform of the first weights that fit.
    """
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    presets = [each.transforms() for each in (weights.DEFAULT, *weights)]
    preset = next((each for each in presets if image_size in (None, *each.crop_size)), presets[0])
    height, width = (preset.crop_size * 2)[:2]
    return Preprocessing(
        input_size=(len(preset.mean), height, width),
        resize=tuple(preset.resize_size),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


@dataclass(frozen=True)
class _Convert:
    """Bring a picture to the model's number of channels; a class so that worker processes can receive it."""

    mode: str

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.mode == self.mode else image.convert(self.mode)


def _center_crop_or_pad(size: list[int], fill: list[int]) -> Callable[[Image.Image], Image.Image]:
    from timm.data.transforms import CenterCropOrPad

    kind: Any = CenterCropOrPad  # its annotation of `fill` knows RGB only
    crop: Callable[[Image.Image], Image.Image] = kind(size, fill=fill)
    return crop


def _interpolations() -> dict[str, InterpolationMode]:
    return {mode.value: mode for mode in InterpolationMode if mode.value != "nearest-exact"}


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
