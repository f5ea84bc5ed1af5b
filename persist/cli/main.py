# SPDX-License-Identifier: LGPL-2.1-or-later
"""The argument parser of persistctl, and the only place where errors become exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from persist.errors import PersistError
from persist.log import safe
from persist.version import VERSION

VERBS = (
    "status",
    "list",
    "plan",
    "verify",
    "register",
    "preset",
    "migrate",
    "claim",
    "volume",
    "seal",
    "image",
)
_OF_THIS_MACHINE = (
    "status",
    "preset",
    "migrate",
    "claim",
    "volume",
)  # nothing to look at where persist is not installed


def parser() -> argparse.ArgumentParser:
    """The whole command line; each verb's module adds its own part."""
    top = argparse.ArgumentParser(
        prog="persistctl",
        description="Look at persistent state, and set it up.",
        epilog="See persistctl(8) and persist(7).",
    )
    top.add_argument("--version", action="version", version=f"persist {VERSION}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        import_module(f".{verb}", __package__).add(verbs)
    return top


def open_streams() -> None:
    """What the caller has closed is /dev/null: else the next file, which may be a disk, would get its number
    and the text that goes there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # what Python makes of a closed one
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as we run


def _give_up(number: int) -> None:
    """Write no more to what failed; Python would try once more while it exits, and end with a status of its
    own."""
    os.dup2(os.open(os.devnull, os.O_RDWR), number)


def _say(*lines: str) -> None:
    """To standard error; where that takes nothing the exit status says it all."""
    try:
        for line in lines:
            print(safe(line), file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _give_up(2)


def _check_installed(arguments: argparse.Namespace) -> None:
    """On a host that only makes images the package persist is not there. Raises PersistError for a verb that
    is about what it does."""
    if arguments.verb not in _OF_THIS_MACHINE or vars(arguments).get("root"):
        return
    library = Path(__file__).parents[2]
    if not any((library / name).exists() for name in ("persist-service", "bin/persist-service")):
        raise PersistError(
            f"'persistctl {arguments.verb}' is about this machine, which has not the package persist.",
            hint="Here is only what looks at images (--root=DIR) and what makes them.",
        )


def _run(argv: list[str]) -> int:
    try:
        arguments = parser().parse_args(argv)
    except SystemExit:  # after --help, --version, and what is wrong with a call
        sys.stdout.flush()
        raise
    _check_installed(arguments)
    status = int(arguments.run(arguments))
    sys.stdout.flush()
    return status


def main(argv: list[str]) -> int:
    """Run persistctl. Exit status: each verb's own, 1 for an error, 2 for a wrong call. Raises SystemExit as
    argparse does."""
    open_streams()
    try:
        return _run(argv)
    except PersistError as e:
        _say(f"persistctl: {e.message}", *([e.hint] if e.hint else []))
    except BrokenPipeError:
        # The reader has seen enough (persistctl list | head).
        _give_up(1)
        return 0
    except OSError as e:
        _say(f"persistctl: {e}")
    try:
        sys.stdout.flush()
    except OSError:
        _give_up(1)
    return 1
