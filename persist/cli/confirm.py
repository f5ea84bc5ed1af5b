# SPDX-License-Identifier: LGPL-2.1-or-later
"""A question before a disk is given away: asked on a terminal only, so that scripts go on as they are."""

from __future__ import annotations

import argparse
import sys

from persist.cli import show


def option(sub: argparse.ArgumentParser) -> None:
    """``--yes``."""
    sub.add_argument("--yes", action="store_true", help="do not ask, on a terminal")


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether somebody is there to be asked."""
    return not arguments.yes and sys.stdin.isatty() and sys.stderr.isatty()


def ask(lines: list[str], what: str) -> bool:
    """Show what it is about, and ask. On standard error: standard output is for the result."""
    for line in lines:
        print(show.safe(line), file=sys.stderr)
    print(f"{what} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
