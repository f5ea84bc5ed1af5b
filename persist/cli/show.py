# SPDX-License-Identifier: LGPL-2.1-or-later
"""How persistctl prints: tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..log import safe as safe

COLOURS = {"online": "32", "mounted": "32", "early": "32", "linked": "32", "degraded": "33", "volatile": "31", "failed": "31", "refused": "33",
           "waiting": "33", "stale": "33"}


def options(sub: argparse.ArgumentParser, *, root: bool = False) -> None:
    """``--json``, and ``--root`` where a verb can look at an image."""
    sub.add_argument("--json", action="store_true", help="print JSON")
    if root:
        sub.add_argument("--root", default="", metavar="DIR", help="look at the system image in DIR")


def root_of(arguments: argparse.Namespace) -> str:
    """``--root`` as a prefix: '' for the running system."""
    root: str = os.path.abspath(arguments.root) if arguments.root else ""
    return "" if root == "/" else root


def print_json(value: Any) -> None:
    """One JSON document on standard output; paths that are not UTF-8 are escaped, not lost."""
    print(json.dumps(value, indent=2))


def colour(word: str, text: str) -> str:
    """``text`` in the colour of a state, on a terminal that wants it."""
    code = COLOURS.get(word)
    if code is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{code}m{text}\033[0m"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as its cells; the last column is not padded."""
    lines = [[safe(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *lines]) for i in range(len(head))]
    for number, row in enumerate([list(head), *lines]):
        padded = [cell if i == len(head) - 1 else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        print("  ".join(padded if number == 0 else [colour(row[i], text) for i, text in enumerate(padded)]).rstrip())
