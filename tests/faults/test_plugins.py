"""Installed plugins that do not work: named with the reason, and everything else goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import NAME, Server, assert_same_run

HOOK = "from auditor.hookspecs import hookimpl\n@hookimpl\n"
BROKEN = {
    "raises": ("raise RuntimeError('not today')", "RuntimeError: not today"),
    "needs": ("import a_package_that_nobody_has", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
    "syntax": ("def (", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "hook": (HOOK + "def auditor_metrics():\n    return 1 / 0", "ZeroDivisionError: division by zero"),
    "nothing": (HOOK + "def auditor_metrics():\n    return None", "TypeError"),
    "items": (HOOK + "def auditor_data_sources():\n    return ['no source']", "AttributeError"),
    "unknown": (HOOK + "def auditor_metricks():\n    return []", "PluginValidationError"),
}


def install(folder: Path, name: str, source: str | None) -> None:
    """Lay out a package as an installer does, under the entry-point group ``auditor``."""
    if source is not None:
        (folder / f"auditor_{name}.py").write_text(source + "\n")
    info = folder / f"auditor_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: auditor-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[auditor]\n{name} = auditor_{name}\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Folder of packages: every broken plugin, one whose module is gone, and one that works."""
    site = tmp_path / "site"
    site.mkdir()
    for name, (source, _) in BROKEN.items():
        install(site, name, source)
    install(site, "gone", None)
    install(site, "fine", HOOK + "def auditor_metrics():\n    return []")
    return site


def test_broken_plugins_are_named_with_the_reason(server: Server, site: Path, tmp_path: Path) -> None:
    done = server.call("plugins", "--json", cwd=tmp_path, path=[site])
    assert done.code == 0, done.err
    done.is_tidy()
    found = json.loads(done.out)
    assert found["broken"].keys() >= {*BROKEN, "gone"}
    for name, (_, reason) in BROKEN.items():
        assert found["broken"][name].startswith(f"The plugin {name!r} (auditor_{name}) failed to load: ")
        assert reason in found["broken"][name]
        assert name not in found["plugins"]
    assert "No module named 'auditor_gone'" in found["broken"]["gone"]
    assert found["plugins"]["fine"] == "auditor_fine"
    assert {"index", "dprime"} <= set(found["metrics"])
    listed = server.call("plugins", cwd=tmp_path, path=[site])
    assert listed.code == 0, listed.err
    for message in found["broken"].values():
        assert message in listed.out


def test_a_profile_does_not_care(
    server: Server, command: list[str], undisturbed: Path, site: Path, tmp_path: Path
) -> None:
    done = server.call(*command, cwd=tmp_path, path=[site])
    assert done.code == 0, done.err
    done.is_tidy()
    assert_same_run(tmp_path / "runs" / NAME, undisturbed)


def test_two_plugins_with_one_name_for_two_things(
    server: Server, command: list[str], site: Path, tmp_path: Path
) -> None:
    twin = "from auditor.selectivity.dprime import DPrime\n" + HOOK + "def auditor_metrics():\n    return [DPrime()]"
    install(site, "twin", twin)
    done = server.call(*command, cwd=tmp_path, path=[site])
    done.is_clear_error("Two plugins provide a metric named 'dprime'", "Uninstall one of them")
