"""The public names, and that nothing takes their place."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

import auditor


@pytest.mark.parametrize("name", sorted(set(auditor.__all__) - {"__version__"}))
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(auditor, name))


@pytest.mark.parametrize("name", auditor.__all__)
def test_no_module_has_a_public_name(name: str) -> None:
    # Importing it would put the module in the place of the verb.
    assert find_spec(f"auditor.{name}") is None
