# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalog of messages and persist/messages.py say the same, and so does the rest of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from persist.messages import MESSAGE_IDS, NAMESPACE

NAMES = tuple(MESSAGE_IDS)
TOP = Path(__file__).resolve().parents[2]
CATALOG = TOP / "units/persist.catalog"
FIELDS = {"PERSIST_MIGRATION", "PERSIST_PATH", "PERSIST_DEVICE", "PERSIST_REASON", "PERSIST_SOURCE"}


def entries() -> dict[str, tuple[dict[str, str], str]]:
    """The catalog as id -> (headers, text)."""
    found: dict[str, tuple[dict[str, str], str]] = {}
    text = "\n".join(
        line for line in CATALOG.read_text(encoding="utf-8").split("\n") if not line.startswith("#")
    )
    for block in text.split("\n-- ")[1:]:
        message_id, _, rest = block.partition("\n")
        head, _, body = rest.partition("\n\n")
        assert message_id not in found
        found[message_id] = dict(line.split(": ", 1) for line in head.split("\n")), body.strip()
    return found


def test_every_message_has_a_catalog_entry() -> None:
    assert [n for n in NAMES if MESSAGE_IDS[n] not in entries()] == []


def test_every_catalog_entry_has_a_message() -> None:
    assert set(entries()) - set(MESSAGE_IDS.values()) == set()


def test_names_are_unique() -> None:
    assert {name: uuid.uuid5(uuid.UUID(NAMESPACE), name).hex for name in NAMES} == MESSAGE_IDS, (
        "an id never changes"
    )


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_whole(name: str) -> None:
    headers, body = entries()[MESSAGE_IDS[name]]
    assert set(headers) == {"Subject", "Defined-By", "Documentation"}
    assert headers["Subject"] and headers["Defined-By"] == "persist"
    assert body
    assert set(re.findall(r"@(\w+)@", headers["Subject"] + body)) <= FIELDS
    assert max(map(len, body.split("\n"))) <= 88


def test_ids_never_change() -> None:
    # Two of them stand for the rule: what is in somebody's filters must stay.
    assert MESSAGE_IDS["FAILED"] == "d2ea4fd929335ed6bf9d9a432c2728ad"
    assert MESSAGE_IDS["VERDICT_OFF"] == "2c4b9b1909bb5d1eb3561633809528cd"


def said() -> dict[str, set[str]]:
    """Each name of a message in the code, with the files: wherever a constant in capitals stands for one."""
    found: dict[str, set[str]] = {}
    for path in sorted((TOP / "persist").rglob("*.py")):
        if path.name == "messages.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"[A-Z]{3,}(_[A-Z]+)*", node.value)
            ):
                found.setdefault(node.value, set()).add(str(path.relative_to(TOP)))
    return found


def test_each_message_is_logged_by_something() -> None:
    assert set(NAMES) - set(said()) == set()


def test_names_by_position() -> None:
    """log(priority, text, name), and so for notes: a typo would be a KeyError on a machine first."""
    for path in sorted((TOP / "persist").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr
                    if isinstance(node.func, ast.Attribute)
                    else node.func.id
                    if isinstance(node.func, ast.Name)
                    else ""
                )
                third = node.args[2] if name in ("log", "Note", "note") and len(node.args) > 2 else None
                if isinstance(third, ast.Constant):
                    assert third.value in MESSAGE_IDS, f"{path}:{node.lineno}"


def test_code_uses_only_known_names() -> None:
    for path in sorted((TOP / "persist").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "message_id"
                and isinstance(node.value, ast.Constant)
            ):
                assert node.value.value in MESSAGE_IDS, f"{path}:{node.value.lineno}"


def test_journalctl_compiles_the_catalog(tmp_path: Path) -> None:
    source = tmp_path / "usr/lib/systemd/catalog"
    source.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    (source / "persist.catalog").write_bytes(CATALOG.read_bytes())
    done = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--update-catalog"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    listed = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(MESSAGE_IDS.values())
