"""torchvision's classification data sets, by name, from files that are there already."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from auditor.data.base import DataSource, LabelledData, printable
from auditor.data.dataset import from_dataset
from auditor.errors import AuditorError, DataError, unknown_name

_PREFIX = "torchvision:"


@dataclass(frozen=True)
class _Parts:
    """How a data set is divided: the argument that chooses a part, and its value by the part's name."""

    argument: str | None
    values: dict[str, Any]
    held_out: str = "test"


_FLAG = _Parts("train", {"train": True, "test": False})
_SPLIT = _Parts("split", {"train": "train", "test": "test"})
_THREE = _Parts("split", {"train": "train", "val": "val", "test": "test"})
_TRAINVAL = _Parts("split", {"trainval": "trainval", "test": "test"})
_VAL = _Parts("split", {"train": "train", "val": "val"}, held_out="val")
_WHOLE = _Parts(None, {})

KNOWN: dict[str, _Parts] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _FLAG),
    **dict.fromkeys(("Food101", "GTSRB", "STL10", "StanfordCars", "SVHN"), _SPLIT),
    **dict.fromkeys(("DTD", "Flowers102", "PCAM", "RenderedSST2"), _THREE),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _TRAINVAL),
    **dict.fromkeys(("ImageNet", "Imagenette"), _VAL),
    "Country211": _Parts("split", {"train": "train", "valid": "valid", "test": "test"}),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _WHOLE),
}
"""The data sets that have one label for each image."""


class TorchvisionSource(DataSource):
    """``torchvision:CIFAR10``, with ``--root`` the folder that torchvision's class of that name is given.

    A data set that comes in parts keeps them: the training part is trained on, the held-out part (``test``, or ``val``
    where the labels of ``test`` are not public) is divided into select and score. ``torchvision:CIFAR10:test`` takes
    one part only and divides it by the fractions. Nothing is downloaded.
    """

    name = "torchvision"

    def claims(self, text: str) -> bool:
        """Tell whether `text` begins with ``torchvision:``."""
        return text.startswith(_PREFIX)

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the data set; see :meth:`DataSource.load`."""
        name, _, part = text.removeprefix(_PREFIX).partition(":")
        if name not in KNOWN:
            raise unknown_name(
                "torchvision data set with one label per image", name, KNOWN,
                fix="Any other data set can be made by a function of yours: --data package.module:factory.",
            )  # fmt: skip
        parts = KNOWN[name]
        if part and part not in parts.values:
            raise unknown_name(f"part of {name}", part, parts.values)
        if root is None:
            raise DataError(
                f"Where is {name}?", wanted=f"the folder that torchvision.datasets.{name} takes as root",
                fix=f"--data {text} --root FOLDER (nothing is downloaded).",
            )  # fmt: skip
        folder = Path(root).expanduser().resolve()
        if part or not parts.values:
            return from_dataset(
                _open(name, parts, part, folder),
                fractions=fractions,
                seed=seed,
                name=f"{name}-{part}" if part else name,
                origin=f"torchvision's {name}{' (' + part + ')' if part else ''} in {folder}",
            )
        train = next(iter(parts.values))
        return from_dataset(
            _open(name, parts, train, folder),
            held_out=_open(name, parts, parts.held_out, folder),
            fractions=fractions,
            seed=seed,
            name=name,
            origin=f"torchvision's {name} ({train} and {parts.held_out}) in {folder}",
            prefixes=(train, parts.held_out),
        )


def _open(name: str, parts: _Parts, part: str, folder: Path) -> Any:
    import torchvision.datasets

    options: dict[str, Any] = {"root": str(folder)}
    if parts.argument is not None:
        options[parts.argument] = parts.values[part]
    if name not in ("ImageNet", "QMNIST"):  # which pass it on, or know it under another name
        options["download"] = False
    if name == "QMNIST":
        options |= {"compat": True, "download": False}
    try:
        return getattr(torchvision.datasets, name)(**options)
    except AuditorError:
        raise
    except ModuleNotFoundError as error:
        raise DataError(
            f"torchvision's {name} needs the package {error.name!r}.", fix=f"python -m pip install {error.name}"
        ) from error
    except Exception as error:  # torchvision raises RuntimeError, FileNotFoundError, ValueError, ...
        raise _missing(name, part, folder, error) from error


def _missing(name: str, part: str, folder: Path, error: Exception) -> DataError:
    shown = f"{name} ({part})" if part else name
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        return DataError(
            f"There is no folder {str(folder)!r} to load {shown} from.",
            closest=[str(folder.parent / near) for near in get_close_matches(folder.name, beside, n=3, cutoff=0.5)],
            fix="--root FOLDER",
        )
    reason = printable(str(error).replace(" You can use download=True to download it", "")).strip()
    held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    return DataError(
        f"torchvision's {shown} is not complete in {str(folder)!r}: {reason}",
        wanted=_layout(name),
        got=f"in that folder: {printable(held)}",
        fix=f"Where there is a network: torchvision.datasets.{name}(root=FOLDER, ..., download=True).",
    )


def _layout(name: str) -> str:
    """What torchvision looks for below the root, where its class says so."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    if hasattr(kind, "base_folder"):
        first = [entry[0] for entry in getattr(kind, "train_list", [])][:1]
        return "/".join([str(kind.base_folder), *first]) + (" and its neighbours" if first else "")
    if hasattr(kind, "mirrors"):
        return f"{name}/raw/train-images-idx3-ubyte and its neighbours"
    return f"the files that torchvision.datasets.{name} expects"
