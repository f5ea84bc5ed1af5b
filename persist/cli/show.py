# SPDX-License-Identifier: LGPL-2.1-or-later
"""How persistctl prints, and asks: tables for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from persist.errors import PersistError
from persist.log import safe as safe

if TYPE_CHECKING:
    from persist.boot.config import Config

COLOURS = {
    "online": "32",
    "mounted": "32",
    "early": "32",
    "linked": "32",
    "degraded": "33",
    "volatile": "31",
    "failed": "31",
    "refused": "33",
    "waiting": "33",
    "not-before-pid1": "33",
    "stale": "33",
}


def options(sub: argparse.ArgumentParser, *, root: bool = False) -> None:
    """``--json``, and ``--root`` where a verb can look at an image."""
    sub.add_argument("--json", action="store_true", help="print JSON")
    if root:
        sub.add_argument("--root", default="", metavar="DIR", help="look at the system image in DIR")


def full(sub: argparse.ArgumentParser) -> None:
    """``--full`` for verbs that print tables of paths, as systemctl(1) has it."""
    sub.add_argument("-l", "--full", action="store_true", help="do not cut paths to fit the terminal")


def root_of(arguments: argparse.Namespace) -> str:
    """``--root`` as a prefix: '' for the running system. Raises PersistError where there is no such
    directory."""
    root: str = os.path.abspath(arguments.root) if arguments.root else ""
    if root and not os.path.isdir(root):
        raise PersistError(
            f"'{root}' is not a directory.", hint="--root= takes the directory that an image is mounted on."
        )
    return "" if root == "/" else root


def settings() -> Config:
    """persist.conf, for a verb that gives disks away. What is wrong with it is said: a default may stand in
    for what was meant."""
    from persist.boot.config import load
    from persist.boot.ini import WARNING, Problem

    problems: list[Problem] = []
    found = load("", problems)
    for problem in problems:
        if problem.level <= WARNING:
            print(safe(str(problem)), file=sys.stderr)
    return found


def yes(sub: argparse.ArgumentParser) -> None:
    """``--yes``, for verbs that give disks away."""
    sub.add_argument("--yes", action="store_true", help="do not ask, on a terminal")


def somebody(arguments: argparse.Namespace) -> bool:
    """Whether somebody is there to be asked: on a terminal only, so that scripts go on as they are."""
    return not arguments.yes and sys.stdin.isatty() and sys.stderr.isatty()


def ask(lines: Sequence[str], what: str) -> bool:
    """Show what it is about, and ask. On standard error: standard output is for the result."""
    for line in lines:
        print(safe(line), file=sys.stderr)
    print(f"{what} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_json(value: Any) -> None:
    """One JSON document on standard output; paths that are not UTF-8 are escaped, not lost."""
    print(json.dumps(value, indent=2))


def mib(number: int) -> str:
    """A number of bytes in MiB."""
    return f"{number >> 20} MiB"


def print_lines(text: str) -> None:
    """Text of several lines on standard output, each as safe() has it."""
    print("\n".join(map(safe, text.split("\n"))))


def colour(word: str, text: str) -> str:
    """``text`` in the colour of a state, on a terminal that wants it."""
    code = COLOURS.get(word)
    if (
        code is None
        or not sys.stdout.isatty()
        or os.environ.get("NO_COLOR")
        or os.environ.get("TERM") == "dumb"
    ):
        return text
    return f"\033[{code}m{text}\033[0m"


def width(text: str) -> int:
    """The cells that a text takes on a terminal: two for the wide letters of East Asia, none for what
    combines with the letter before."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def columns() -> int:
    """The columns of the terminal."""
    return shutil.get_terminal_size().columns


def _room(full: bool) -> int:
    """The columns of the terminal, 0 where nothing is to be cut: standard output is no terminal, or somebody
    wants all of it."""
    return columns() if not full and sys.stdout.isatty() else 0


def cut(text: str, cells: int) -> str:
    """A text that takes at most so many cells: of a longer one the beginning and the end, which tell one path
    from another."""
    if width(text) <= cells:
        return text
    dots = "…" if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else "..."
    left = max(0, cells - len(dots))
    begin, end = text, text
    while width(begin) > left // 2:
        begin = begin[:-1]
    while width(end) > left - left // 2:
        end = end[1:]
    return begin + dots + end


_NARROWEST = 16  # no column is cut to less than that: a terminal that is narrower still wraps


def _fit(widths: list[int], flexible: Sequence[int], room: int) -> list[int]:
    """The widths of the columns within ``room``: only the flexible ones shrink, the widest first."""
    widths = list(widths)
    while room and sum(widths) + 2 * (len(widths) - 1) > room:
        widest = max(flexible, key=lambda i: widths[i], default=-1)
        if widest < 0 or widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, flexible: Sequence[int] = (), full: bool = False
) -> None:
    """A table as wide as its cells, the last column not padded; on a terminal the ``flexible`` columns are
    cut to make it fit."""
    lines = [[safe(c) for c in row] for row in rows]
    widths = _fit(
        [max(width(row[i]) for row in [list(head), *lines]) for i in range(len(head))], flexible, _room(full)
    )
    for number, row in enumerate([list(head), *lines]):
        fitted = [cut(cell, widths[i]) for i, cell in enumerate(row)]
        padded = [
            cell if i == len(head) - 1 else cell + " " * (widths[i] - width(cell))
            for i, cell in enumerate(fitted)
        ]
        print(
            "  ".join(
                padded if number == 0 else [colour(row[i], text) for i, text in enumerate(padded)]
            ).rstrip()
        )
