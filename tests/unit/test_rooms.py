# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rooms of the package: which may import which, and how full they may be. docs/architecture.md,
"Rooms"."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
ROOMS = (
    "",
    "boot",
    "boot.rare",
    "boot.seal",
    "system",
    "volume",
    "volume.ondisk",
    "volume.members",
    "volume.find",
    "volume.format",
    "volume.mount",
    "volume.space",
    "volume.heal",
    "seed",
    "migrate",
    "entries",
    "early",
    "verdict",
    "foresee",
    "register",
    "seal.look",
    "seal",
    "seal.volume",
    "seal.boot",
    "image",
    "services",
    "services.seal",
    "cli",
)
ONE = {"boot.rare": "boot", "boot.seal": "boot"}  # they import each other: what is loaded only at need
MOST = 14  # modules in a room
LOG = ("verdict", "services", "services.seal", "cli")  # who may import persist.log
MODULES = {
    ".".join(p.relative_to(TOP).with_suffix("").parts): p for p in sorted((TOP / "persist").rglob("*.py"))
}


def room(module: str) -> str:
    """The room in which a module lies, without 'persist.'; '' for the top."""
    return (
        module.removesuffix(".__init__").removeprefix("persist").strip(".")
        if module.endswith(".__init__")
        else module.rpartition(".")[0].removeprefix("persist").strip(".")
    )


def imports(module: str, path: Path) -> set[str]:
    """The modules of ours that a module imports, also within functions and for types only."""
    package = module.rpartition(".")[0].split(".")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "persist"}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(
                    [*package[: len(package) - node.level + 1], *((node.module,) if node.module else ())]
                )
                if node.level
                else node.module or ""
            )
            if base.split(".")[0] == "persist":
                found |= {name if (name := f"{base}.{a.name}") in MODULES else base for a in node.names}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__init__")])
def test_imports_go_one_way(module: str) -> None:
    for other in imports(module, MODULES[module]):
        where = room(other) if other in MODULES else room(f"{other}.__init__")
        assert ROOMS.index(ONE.get(where, where)) <= ROOMS.index(room(module)), f"{module} imports {other}"


@pytest.mark.parametrize("module", [m for m in MODULES if "persist.log" in imports(m, MODULES[m])])
def test_notes_are_logged_by_services(module: str) -> None:
    """What is found below them is returned as notes, or handed to a ``Say``: persist/note.py."""
    assert room(module) in LOG


def test_every_room_is_known_and_has_space() -> None:
    count = {
        name: sum(room(m) == name and not m.endswith("__init__") for m in MODULES)
        for name in {room(m) for m in MODULES}
    }
    assert set(count) == set(ROOMS)
    assert {name: n for name, n in count.items() if n > MOST} == {}


def test_the_document_has_the_same_order() -> None:
    text = (TOP / "docs/architecture.md").read_text(encoding="utf-8").split("## Rooms")[1]
    assert re.findall(r"^    persist/([\w/]*?)/? +\S", text, re.MULTILINE) == [
        name.replace(".", "/") for name in ROOMS
    ]


def test_setup_cfg_has_them_all() -> None:
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg", encoding="utf-8")
    assert config["options"]["packages"].split() == [f"persist.{name}".rstrip(".") for name in ROOMS]
