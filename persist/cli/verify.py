# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl verify: what would be wrong with a machine, here, in an image, or with single registry files."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from persist.cli import show
from persist.errors import PersistError

if TYPE_CHECKING:
    from persist.boot.ini import Problem

_WORDS = {3: "error", 4: "warning", 5: "notice"}


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "verify",
        help="check registry, configuration and image before a boot",
        description="Check what persist would do, without a boot. With FILE, only these registry files are "
        "judged. "
        "Exit status 1 when something must be mended.",
    )
    sub.add_argument("files", nargs="*", metavar="FILE", help="a registry file that need not be installed")
    show.options(sub, root=True)
    sub.set_defaults(run=run)


def _problems(root: str, files: list[str]) -> tuple[int, list[Problem]]:
    """How many entries are in force, and everything that is wrong."""
    from persist.boot.facts import gather
    from persist.boot.ini import NOTICE, Problem
    from persist.boot.load import Loaded
    from persist.foresee.checks import foresee, judge_files
    from persist.foresee.image import Image

    facts = gather(root, {"SYSTEMD_PROC_CMDLINE": ""} if root or files else {})
    facts.enabled = True  # the registry is judged whether or not the switch is on, which is said apart
    loaded = Loaded(root, facts, {}, files, wanted=True)
    found = (judge_files if files else foresee)(loaded, Image(root))
    found += [
        Problem(NOTICE, file, "The name does not end in .conf: in persist.d the file would be ignored.")
        for file in files
        if not file.endswith(".conf")
    ]
    said = {problem.where for problem in found}
    found += [problem for problem in _identities(root, files) if problem.where not in said]
    return len(loaded.plan.entries), [p for p in found if p.level in _WORDS]


def _identities(root: str, files: list[str]) -> list[Problem]:
    """What is wrong with [Identity] sections, of the catalogue too."""
    from persist.boot.dropins import read
    from persist.seal.section import load, parse_file

    found: list[Problem] = []
    for file in files:
        parse_file(read(file, file, [], "") or b"", file, found, catalogue=False)
    if not files:
        load(root, found)
    return found


def _count(number: int, what: str) -> str:
    return (
        f"{number} {what}"
        if number == 1
        else f"{number} {what[:-1]}ies"
        if what.endswith("y")
        else f"{number} {what}s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what is wrong, each with its severity; the last line has the counts."""
    root = show.root_of(arguments)
    for file in arguments.files:
        if not os.path.isfile(file):
            raise PersistError(
                f"'{file}' is not a file.",
                hint="Name registry files, or leave them out to verify what is installed.",
            )
    entries, problems = _problems(root, arguments.files)
    counts = {level: sum(p.level == level for p in problems) for level in _WORDS}
    if arguments.json:
        show.print_json(
            {
                "ok": not counts[3] + counts[4],
                "entries": entries,
                "problems": [
                    {"level": p.level, "where": p.where, "path": p.path, "message": p.text} for p in problems
                ],
            }
        )
    else:
        for problem in problems:
            print(show.safe(f"{_WORDS[problem.level]}: {problem}"))
        found = (
            ", ".join(_count(counts[level], word) for level, word in _WORDS.items() if counts[level])
            or "nothing is wrong"
        )
        print(f"{_count(entries, 'entry')}: {found}.")
    return 1 if counts[3] + counts[4] else 0
