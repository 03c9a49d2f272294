"""Corrupted images that others made, in place of those that are made here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.api.robustness_measure import Measurement, Right, corruption_key, is_right
from auditor.api.robustness_networks import Network, by_pixels
from auditor.api.score_images import ScoreImages
from auditor.data import LabelledData
from auditor.errors import OptionError
from auditor.perturbations import stored
from auditor.perturbations.pixels import pixel_transform

SAMPLED = 3
"""Images of each type and severity that tell one folder's content from another's."""


class Stored:
    """Corrupted images of a folder, for the classes of a run.

    Parameters
    ----------
    found : StoredCorruptions
    classes : tuple of str
    """

    def __init__(self, found: stored.StoredCorruptions, classes: tuple[str, ...]) -> None:
        self._found = found
        self._classes = classes
        self.folder = found.folder
        self.types = found.types

    def check(self, names: Sequence[str], severities: Sequence[int]) -> None:
        """Raise an error unless every type is there at every severity.

        Raises
        ------
        OptionError
        """
        for name in names:
            missing = sorted(set(severities) - set(self.types[name]))
            if missing:
                raise OptionError(
                    f"{self.folder / name} lacks a severity that is asked for.",
                    wanted=", ".join(map(str, severities)),
                    got=", ".join(map(str, self.types[name])),
                    fix="Name those that every type has with --severities.",
                )

    def identity(self, names: Sequence[str], severities: Sequence[int]) -> dict[str, Any]:
        """Digest of labels, names and a few images of each type and severity, for the manifest."""
        found: dict[str, Any] = {"n": self._found.n}
        for name in names:
            for severity in severities:
                images = self._found.read(name, severity)
                digest = hashlib.sha256(images.labels.tobytes())
                digest.update("\0".join(images.ids).encode("utf-8", "surrogatepass"))
                for place in np.unique(np.linspace(0, len(images) - 1, SAMPLED).astype(int)):
                    digest.update(images.read(int(place)).tobytes())
                found[f"{name}@{severity}"] = digest.hexdigest()[:16]
        return found

    def measure(self, work: Measurement, networks: Sequence[Network]) -> dict[str, dict[tuple[str, int], Right]]:
        """Which images are classified correctly, by network, type and severity.

        At most as many images as are taken of the score split, each class by its share; the same in every set.
        """
        settings = work.settings
        conditions = [(name, severity) for name in settings.corruptions for severity in settings.severities]
        found: dict[str, dict[tuple[str, int], Right]] = {one.name: {} for one in networks}
        rounds = [(condition, group) for condition in conditions for group in by_pixels(networks)]
        with work.reporter.task("Stored corruptions", len(rounds), "sets") as task:
            for condition, group in rounds:
                name, severity = condition
                keys = {one.name: corruption_key(one, name, severity) for one in group}
                needy = [one for one in group if work.cache.get(keys[one.name]) is None]
                if needy:
                    data = self._data(name, severity, settings.n_images)
                    for some in work.loader.chunks(needy):
                        right = _predict(work, some, data)
                        for place, one in enumerate(some):
                            work.cache.put(keys[one.name], {"right": right[place]})
                for one in group:
                    found[one.name][condition] = work.right(keys[one.name])
                task.advance()
        return found

    def _data(self, name: str, severity: int, n_images: int) -> LabelledData:
        images = self._found.read(name, severity)
        nothing = np.empty(0, dtype=np.int64)
        return LabelledData(
            name=f"{name} {severity}", origin=str(self.folder), classes=self._classes, labels=images.labels,
            ids=images.ids, splits={"train": nothing, "select": nothing, "score": np.arange(len(images))},
            read=images.read,
        ).limited(n_images)  # fmt: skip


def open_stored(folder: Path, classes: tuple[str, ...]) -> Stored:
    """Open a folder; see :func:`auditor.perturbations.stored.open_stored`."""
    return Stored(stored.open_stored(folder, classes), classes)


def _predict(work: Measurement, networks: Sequence[Network], data: LabelledData) -> NDArray[np.bool_]:
    execution = work.loader.execution
    images = ScoreImages(data, pixel_transform(networks[0].preprocessing), execution, memory=0)
    right = np.zeros((len(networks), len(images)), dtype=bool)
    with work.loader.open(*networks) as models:
        for part in images.parts(execution.batch_size):
            for place, model in enumerate(models):
                right[place, part.rows] = is_right(model, part.images, part.labels)
    return right
