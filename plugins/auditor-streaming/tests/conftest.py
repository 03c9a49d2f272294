"""Real handwritten digits as tars, and a cache of their own for every test."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("auditor_streaming", reason="auditor-streaming is not installed")

FRACTIONS = (0.5, 0.25, 0.25)
Members = Iterable[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """150 images of uint8, (150, 8, 8), and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[:150] * 15).astype(np.uint8), found.target[:150].astype(np.int64)


@pytest.fixture(scope="session")
def png() -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., Path]:
    def write(path: Path, members: Members, mode: str = "w") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture(scope="session")
def digit_tars(
    digits: tuple[np.ndarray, np.ndarray], png: Callable[..., bytes], write_tar: Callable[..., Path]
) -> Callable[..., list[Path]]:
    """Write the digits into three tars of 50: ``digits-000.tar`` and so on."""

    def write(folder: Path, *, suffix: str = ".tar", mode: str = "w", label: str = "cls") -> list[Path]:
        def members(rows: range) -> Members:
            for row in rows:
                number = int(digits[1][row])
                yield f"{row:06d}.png", png(digits[0][row])
                yield (
                    (f"{row:06d}.cls", str(number).encode())
                    if label == "cls"
                    else (f"{row:06d}.json", json.dumps({label: number, "text": f"digit {number}"}).encode())
                )

        return [
            write_tar(folder / f"digits-{part:03d}{suffix}", members(range(50 * part, 50 * part + 50)), mode)
            for part in range(3)
        ]

    return write


@pytest.fixture(scope="session")
def load() -> Callable[..., Any]:
    from auditor.data import load_data

    def call(text: str, **options: Any) -> Any:
        return load_data(text, **{"seed": 0, "fractions": FRACTIONS} | options)

    return call


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every place that WebDataset's opener is asked for, in order."""
    module = import_module("webdataset.gopen")  # the package has a function of that name in the module's place
    places: list[str] = []
    original = module.gopen

    def counting(url: str, *args: Any, **options: Any) -> Any:
        places.append(url)
        return original(url, *args, **options)

    monkeypatch.setattr(module, "gopen", counting)
    return places
