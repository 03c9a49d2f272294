"""Results of work units, so that a long computation resumes where it was stopped."""

from __future__ import annotations

import os
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from auditor.errors import OptionError, StoreError
from auditor.store.files import replacing

_SUFFIX = ".npz"
_LONGEST_NAME = 200
# The default time for which an NFS client believes that a file is not there.
PATIENCE = 60.0


class BlockCache:
    """A folder of named groups of arrays, each written whole or not at all.

    Parameters
    ----------
    folder : path
        Made when the first block is put.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of a block, or None if there is none or it is damaged (checksums are verified)."""
        try:
            with np.load(self._path(key), allow_pickle=False) as block:
                return {name: block[name] for name in block.files}
        except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return None

    def require(self, key: str, *, patience: float = PATIENCE) -> dict[str, NDArray[Any]]:
        """Return the arrays of a block that must be there.

        Parameters
        ----------
        key : str
        patience : float
            Seconds to wait for it: on a network file system, what another machine has written shows late.

        Raises
        ------
        StoreError
            If it does not come.
        """
        deadline = time.monotonic() + patience
        while (found := self.get(key)) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{self._path(key)} is missing or damaged, though it was written.",
                    fix="Check that all processes see the same folder, then repeat the command.",
                )
            time.sleep(0.2)
        return found

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep `arrays` under `key`, in place of what was there.

        Raises
        ------
        OptionError
            If an array holds Python objects, or the key is too long for a file name.
        StoreError
            If the block cannot be written.
        """
        for name, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise OptionError(f"The array {name!r} of block {key!r} holds Python objects, which are not stored.")
        size = sum(np.asarray(array).nbytes for array in arrays.values())
        # Not np.savez: it cannot take an array named "file".
        with replacing(self._path(key), size=size) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    def keys(self) -> list[str]:
        """Names of all blocks, sorted; damaged ones are included."""
        if not self.folder.is_dir():
            return []
        return sorted(
            unquote(path.name.removesuffix(_SUFFIX))
            for path in self.folder.iterdir()
            if path.name.endswith(_SUFFIX) and not path.name.startswith(".")
        )

    def clear(self) -> None:
        """Remove every block."""
        for key in self.keys():
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        name = quote(key, safe="@,=+").replace(".", "%2E", 1) if key.startswith(".") else quote(key, safe="@,=+")
        if not key or len(name) > _LONGEST_NAME:
            raise OptionError(
                f"{key!r} cannot name a block.", wanted=f"1 to {_LONGEST_NAME} characters", got=str(len(name))
            )
        return self.folder / (name + _SUFFIX)
