"""Images in one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from auditor.data.assemble import data_name
from auditor.data.base import DataSource, LabelledData, printable
from auditor.data.decode import read_image
from auditor.data.splits import check_fractions, keep_division, stratified_splits
from auditor.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
HELD_OUT_NAMES = ("val", "valid", "validation", "test")

_PREFIX = "folder:"
_LAYOUT = "FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and FOLDER/val/CLASS/IMAGE"


class FolderSource(DataSource):
    """A folder with one folder of images for each class.

    Images are found by their suffix at any depth of a class folder; hidden files and folders are passed over. The
    classes are sorted by name, so a label is the place of its class in that order.

    A folder that itself holds ``train`` and one of ``val``, ``valid``, ``validation``, ``test`` (the first of them that
    exists), both with class folders, keeps that division: ``train`` is trained on, the other is divided into select
    and score. A further held-out folder is not used.
    """

    name = "folder"

    def claims(self, text: str) -> bool:
        """Tell whether `text` is a folder, or begins with ``folder:``."""
        return text.startswith(_PREFIX) or Path(text).expanduser().is_dir()

    def load(
        self, text: str, *, seed: int, fractions: tuple[float, float, float], root: str | None = None
    ) -> LabelledData:
        """Load the folder; see :meth:`DataSource.load`. No image is opened."""
        self.refuse_root(root)
        fractions = check_fractions(fractions)
        folder = Path(text.removeprefix(_PREFIX)).expanduser()
        if not folder.is_dir():
            near = [str(path) for path in close_siblings(folder)]
            raise DataError(f"There is no folder {str(folder)!r}.", wanted=_LAYOUT, closest=near)
        held_out = _held_out_folder(folder)
        parts = [folder] if held_out is None else [folder / "train", held_out]
        classes = _class_names(parts[0])
        if held_out is not None:
            _check_same_classes(parts[0], held_out, classes)
        paths: list[str] = []
        labels: list[int] = []
        ends: list[int] = []
        for part in parts:
            for label, class_name in enumerate(classes):
                found = sorted(path.relative_to(folder).as_posix() for path in _images(part / class_name))
                if not found:
                    raise _empty_class(part / class_name)
                paths += found
                labels += [label] * len(found)
            ends.append(len(paths))
        label_array = np.array(labels, dtype=np.int64)
        if held_out is None:
            splits = stratified_splits(label_array, paths, fractions=fractions, seed=seed, classes=classes)
        else:
            splits = keep_division(label_array, paths, ends[0], fractions=fractions, seed=seed, classes=classes)
        resolved = folder.resolve()
        used = "" if held_out is None else f" (train and {held_out.name})"
        return LabelledData(
            name=data_name(resolved.name or "folder"),
            origin=printable(f"{resolved}{used}"),
            classes=classes,
            labels=label_array,
            ids=tuple(paths),
            splits=splits,
            read=_FileReader(resolved, tuple(paths)),
        )


@dataclass(frozen=True)
class _FileReader:
    """Opens images of a folder; a class so that worker processes can receive it."""

    root: Path
    paths: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        return read_image(self.root / self.paths[index])


def close_siblings(path: Path) -> list[Path]:
    """Folders beside a `path` that does not exist whose names are like its own."""
    from difflib import get_close_matches

    try:
        names = [entry.name for entry in os.scandir(path.parent) if entry.is_dir()]
    except OSError:
        return []
    return [path.parent / name for name in get_close_matches(path.name, names, n=3, cutoff=0.5)]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be listed: {error}") from error


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir())


def _images(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the images below `folder`, following links but never in a circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    for entry in _visible(folder):
        path = Path(entry.path)
        if entry.is_dir():
            yield from _images(path, seen | {real})
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(_folders(folder))
    if not names:
        loose = next(_images(folder), None)
        raise DataError(
            f"{folder} has no class folders.",
            wanted=_LAYOUT,
            got="images outside class folders" if loose is not None else "a folder without images",
            fix="Put the images of each class into a folder with the class's name.",
        )
    if len(names) == 1:
        raise DataError(
            f"{folder} has one class only.",
            wanted=f"at least 2 classes ({_LAYOUT})",
            got=names[0],
            fix=f"Did you mean {folder / names[0]}?" if _folders(folder / names[0]) else None,
        )
    return names


def _held_out_folder(root: Path) -> Path | None:
    """Return the held-out folder beside ``train``, or None where the folders are classes themselves."""
    names = _folders(root)
    if "train" not in names or not _folders(root / "train"):
        return None
    return next((root / name for name in HELD_OUT_NAMES if name in names and _folders(root / name)), None)


def _check_same_classes(train: Path, held_out: Path, classes: tuple[str, ...]) -> None:
    others = _folders(held_out)
    odd = sorted(set(classes) ^ set(others))
    if odd:
        shown = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
        raise DataError(
            f"{train} and {held_out} have different class folders.",
            wanted="the same class folders in both",
            got=f"only in one of them: {shown}",
        )


def _empty_class(folder: Path) -> DataError:
    return DataError(
        f"The class folder {folder} has no images.",
        wanted=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
        fix="Add images or remove the folder.",
    )
