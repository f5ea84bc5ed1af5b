# SPDX-License-Identifier: LGPL-2.1-or-later
"""The argument parser of persistctl, and the only place where errors become exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from ..errors import PersistError
from ..log import safe
from ..version import VERSION

VERBS = ("status", "list", "plan", "verify", "preset", "claim", "volume")


def parser() -> argparse.ArgumentParser:
    """The whole command line; each verb's module adds its own part."""
    top = argparse.ArgumentParser(prog="persistctl", description="Look at persistent state, and set it up.",
                                  epilog="See persistctl(8) and persist(7).")
    top.add_argument("--version", action="version", version=f"persist {VERSION}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        import_module(f".{verb}", __package__).add(verbs)
    return top


def main(argv: list[str]) -> int:
    """Run persistctl. Exit status: each verb's own, 1 for an error, 2 for a wrong call."""
    arguments = parser().parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except PersistError as e:
        print(f"persistctl: {safe(e.message)}", file=sys.stderr)
        if e.hint:
            print(safe(e.hint), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has seen enough (persistctl list | head); Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as e:
        print(f"persistctl: {safe(str(e))}", file=sys.stderr)
        return 1
