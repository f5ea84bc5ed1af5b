# SPDX-License-Identifier: LGPL-2.1-or-later
"""The patterns of the shipped catalogue as regular expressions, written apart from the engine's: what one of
the two takes for something else is seen."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

CATALOGUE = Path(__file__).resolve().parents[2] / "units/identity.d"
HOMES = r"(/root|/home/[^/]+)/"
ESP = r"(/efi|/boot/efi|/boot)/"


def sections(file: Path) -> list[dict[str, str]]:
    """The [Identity] sections of a file, the Path= lines of each made one."""
    found: list[dict[str, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        key, sign, value = line.partition("=")
        if line == "[Identity]":
            found.append({})
        elif line and not line.startswith("#"):
            assert sign and found, f"{file.name}: {line}"
            assert key == "Path" or key not in found[-1], f"{file.name}: {key}= twice"
            found[-1][key] = f"{found[-1]['Path']} {value}" if key in found[-1] else value
    return found


def regex(pattern: str) -> re.Pattern[str]:
    """What a pattern matches, as a whole path."""
    start = ""
    for prefix, text in (("~/", HOMES), ("ESP:/", ESP)):
        if pattern.startswith(prefix):
            start, pattern = text, pattern[len(prefix) :]
    out = ""
    for piece in re.split(r"(\*\*|\*|\?|\[[^]]+\])", pattern):
        out += {"**": ".+", "*": "[^/]*", "?": "[^/]"}.get(piece) or (
            piece if piece.startswith("[") else re.escape(piece)
        )
    return re.compile(f"{start}{out}\\Z")


@lru_cache(maxsize=1)
def of_catalogue() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each pattern with the name of its file."""
    return tuple(
        (file.name, regex(pattern))
        for file in sorted(CATALOGUE.glob("*.conf"))
        for section in sections(file)
        for pattern in section["Path"].split()
    )
