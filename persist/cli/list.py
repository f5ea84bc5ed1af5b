# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl list: what the registry declares."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from . import show


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser("list", help="what the registry declares",
                           description="List the entries of the registry, each with its state; those that are not in force with the reason.")
    show.options(sub, root=True)
    show.full(sub)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the entries. Exit status 1 when a file has an error."""
    from ..boot import registry
    from ..boot.accept import accept
    from ..boot.config import load as load_config
    from ..boot.facts import Facts, gather_paths
    from ..boot.ini import ERROR, NOTICE, Problem
    from ..state.outside_state import passed_over

    problems: list[Problem] = []
    root = show.root_of(arguments)
    found = registry.load(root, problems)
    facts = Facts()
    facts.root = root
    gather_paths(facts, found, os.environ)
    _, outside = accept(load_config(root, problems), found, facts)
    why = {o.entry.source: (o.state, o.why) for o in outside}
    rows = []
    for entry in found.entries:
        state, reason = why.get(entry.source, ("declared", ""))
        rows.append({"path": entry.path, "method": entry.method, "required": entry.required, "source": entry.source, "state": state, "reason": reason})
    for entry, first in found.ignored:
        rows.append({"path": entry.path, "method": entry.method, "required": entry.required, "source": entry.source, "state": "ignored",
                     "reason": passed_over(first)})
    for problem in found.refused:
        rows.append({"path": problem.path, "method": "", "required": "", "source": problem.where,
                     "state": "refused" if problem.level <= ERROR else "ignored", "reason": problem.text})
    problems += [o for o in outside if o.level <= NOTICE]
    if arguments.json:
        show.print_json({"entries": rows, "problems": [{"level": p.level, "where": p.where, "message": p.text} for p in problems]})
    else:
        show.table(("PATH", "METHOD", "REQUIRED", "STATE", "DECLARED IN"), [(r["path"], r["method"], r["required"], r["state"], r["source"]) for r in rows],
                   flexible=(0, 4), full=arguments.full)
        for row in rows:
            if row["reason"]:
                print(show.safe(f"{row['path']}: {row['state']}, {row['reason']}"))
        told = {(row["source"], row["path"]) for row in rows if row["reason"]}
        for problem in problems:
            if (problem.where, problem.path) not in told:
                print(show.safe(str(problem)), file=sys.stderr)
    return 1 if any(p.level <= ERROR for p in problems) else 0
