"""The declaration in ``docs/verdict.md`` holds every field of an audit, with its default."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from auditor.api.audit_settings import AuditSettings, Margins

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "verdict.md").read_text("utf-8")


def declaration() -> str:
    match = re.search(r"^<!-- declaration -->\n```toml\n(.*?)^```$", PAGE, re.M | re.S)
    assert match, "docs/verdict.md shows no declaration"
    return match[1]


def test_it_states_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(declaration(), "utf-8")
    assert AuditSettings.from_toml(path) == AuditSettings()


def test_it_names_every_field(tmp_path: Path) -> None:
    # TOML has no None: what is unset by default stands as a comment.
    text = re.sub(r"^# (?=\w+ = )", "", declaration(), flags=re.M)
    shown = tomllib.loads(text)
    assert set(shown) == {field.name for field in fields(AuditSettings)}
    assert set(shown["margins"]) == {field.name for field in fields(Margins)}
    path = tmp_path / "audit.toml"
    path.write_text(text, "utf-8")
    assert AuditSettings.from_toml(path) != AuditSettings()


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", PAGE)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []
