"""Fixtures of real ``auditor`` processes, and of what they work on; a ``conftest.py`` imports them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import N_IMAGES, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not hasattr(os, "fork") or sys.platform == "darwin":
        pytest.skip("needs processes that fork")
    server = Server(tmp_path_factory.mktemp("forked"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 180 images of three classes."""
    labels = np.arange(N_IMAGES) % 3
    images = np.random.default_rng(0).integers(0, 100, (N_IMAGES, 16, 16, 3))
    images[np.arange(N_IMAGES), ..., labels] += 120
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels, classes=np.array(["red", "green", "blue"]))
    return path
