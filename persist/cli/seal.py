# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl seal: what must not be cloned is wiped from a tree."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from persist.boot.seal.request import THEN
from persist.cli import show
from persist.errors import PersistError

NOT_SEALED = 3  # the exit status of a run that began to wipe and came to no end
_CLASSES = ("identity", "secret", "log", "cache", "user")


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "seal",
        help="make this machine, or a system image, fit to be cloned",
        description="Wipe what must not be cloned, as the [Identity] sections say: from the system image in "
        "DIR, or without --root from this machine, which restarts for it, runs nothing else, and is switched "
        "off. Exit status 1: nothing was touched; 3: it was begun, and the image is not sealed.",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    sub.add_argument(
        "--keep",
        action="append",
        default=[],
        choices=_CLASSES,
        metavar="CLASS",
        help=f"leave what is of this class ({', '.join(_CLASSES)}); may be repeated",
    )
    sub.add_argument(
        "--then",
        default=THEN[0],
        choices=THEN,
        help="what this machine does when it is sealed (default: %(default)s)",
    )
    sub.add_argument("--include-volume", action="store_true", help="seal the state volume, too")
    show.yes(sub)
    show.options(sub, root=True)
    sub.set_defaults(run=run)


def _say(lines: list[str]) -> None:
    for line in lines:
        print(show.safe(line), file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Make the first pass, and where it finds no error, seal."""
    if not arguments.root:
        from persist.cli import seal_here

        return seal_here.run(arguments)
    if arguments.include_volume:
        raise PersistError(
            "--include-volume is not for --root: a state volume is sealed by the machine that it belongs to.",
            hint="Leave --root out on that machine, or leave out --include-volume: what a volume keeps is "
            "not in the tree.",
        )
    if arguments.then != THEN[0]:
        raise PersistError("--then is for a machine that seals itself, not for --root.")
    from persist.seal import report
    from persist.seal.engine import Seal
    from persist.seal.opened import open_tree
    from persist.seal.way_back import judge, regenerate_list
    from persist.system.mountinfo import mounts

    show.root_of(arguments)
    with open_tree(arguments.root) as tree:
        work = Seal(tree, arguments.keep, mounts(), judge, regenerate_list)
        result = work.first_pass()
        wanted = not arguments.dry_run and not result.errors
        if wanted and show.somebody(arguments):
            lines = [*report.of_plan(result), *result.notes, report.summary(result, dry_run=True)]
            if not show.ask(lines, f"Seal {tree.path}? What is wiped does not come back."):
                raise PersistError("Nothing was touched.")
        if wanted:
            work.seal()
    if arguments.json:
        show.print_json(report.document(result, dry_run=arguments.dry_run))
    else:
        for line in report.of_plan(result) if arguments.dry_run else ():
            print(show.safe(line))
    for name, said in result.said:
        _say([f"{name}: {line}" for line in said.rstrip("\n").split("\n") if line])
    _say([f"notice: {note}" for note in result.notes])
    _say([f"notice: {line}" for line in report.of_traces(result)])
    _say([f"error: {error}" for error in [*result.errors, *result.failures]])
    if not arguments.json:
        print(show.safe(report.summary(result, dry_run=arguments.dry_run)))
    return 1 if result.errors else NOT_SEALED if result.failures else 0
