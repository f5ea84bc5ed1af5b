# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names below /run/persist: one list, one table, and nothing that only one side knows."""

from __future__ import annotations

import re
from pathlib import Path

from persist.boot import paths

TOP = Path(__file__).resolve().parents[2]
NAMES = {
    name: value
    for name, value in vars(paths).items()
    if isinstance(value, str) and value.startswith("/run/persist/")
}
PLACES = [
    *(TOP / "persist").rglob("*.py"),
    *(p for p in (TOP / "units").rglob("*") if p.is_file()),
    *(p for p in (TOP / "packaging").rglob("*") if p.is_file() and "man" not in p.parts),
]
TEXTS = {p: p.read_text(encoding="utf-8", errors="replace") for p in PLACES}


def _table() -> set[str]:
    text = (
        (TOP / "docs/architecture.md")
        .read_text(encoding="utf-8")
        .split("## What is under /run/persist")[1]
        .split("\n## ")[0]
    )
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name.partition("/<")[0].rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_table_has_them_all() -> None:
    inside = {v.removeprefix("/run/persist/") for v in NAMES.values() if not v.startswith(paths.VOLUME + "/")}
    assert inside == _table()


def test_each_is_used_by_two() -> None:
    """Who writes what nobody reads, or reads what nobody writes, has forgotten something."""
    for name, value in NAMES.items():
        word = re.compile(rf"\b{name}\b|{re.escape(value)}(?![\w.-])")
        users = [p for p, text in TEXTS.items() if p.name != "paths.py" and word.search(text)]
        alone = {
            "STATE_LOCK",
            "HEAL_LOCK",
            "FORMAT_LOCK",
            "MEMBERS_GONE",
            "REFUSED",
            "LEFT",
        }  # one module is both
        assert len(users) >= (1 if name in alone else 2), f"{name} is used by {[str(p) for p in users]} alone"


def test_nobody_spells_one_out() -> None:
    """In Python the names come from the list; units and rules have no other way."""
    for path, text in TEXTS.items():
        if path.suffix == ".py" and path.name != "paths.py":
            code = re.sub(r'"""[\s\S]*?"""|#[^\n]*', "", text)
            found = re.findall(r'"(?:/run/persist|\{(?:paths\.)?RUN\})/[^"]*"', code)
            assert not found, f"{path}: {found}"
