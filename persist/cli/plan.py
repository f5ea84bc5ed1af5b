# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl plan: the units that the generator would write."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from persist.cli import show


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "plan",
        help="the units that the generator would write",
        description="Print what persist-generator would write on this machine, or on that of an image. "
        "Nothing is changed.",
    )
    show.options(sub, root=True)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan. Exit status 1 when a file has an error."""
    from persist.boot.facts import gather, why_nothing
    from persist.boot.ini import ERROR
    from persist.boot.load import Loaded

    root = show.root_of(arguments)
    facts = gather(root, {"SYSTEMD_PROC_CMDLINE": ""} if root else {})
    off = why_nothing(facts)
    facts.enabled = True  # what it would be is worth a look before it is switched on
    loaded = Loaded(root, facts, {})
    made = loaded.plan
    if arguments.json:
        show.print_json(
            {
                "reason": off or made.reason,
                "files": made.files,
                "before_pid1": [p.path for p in made.entries if p.before_pid1],
                "problems": [
                    {"level": p.level, "where": p.where, "message": p.text} for p in loaded.problems
                ],
            }
        )
    else:
        for name, text in made.files.items():
            print(f"# {show.safe(name)}\n{text}")
        if off or made.reason:
            print(
                f"{'Nothing of this is written' if made.files else 'Nothing to do'}: {off or made.reason}.",
                file=sys.stderr,
            )
        for problem in loaded.problems:
            print(show.safe(str(problem)), file=sys.stderr)
    return 1 if any(p.level <= ERROR for p in loaded.problems) else 0
