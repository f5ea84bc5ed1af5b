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
    sub = verbs.add_parser("list", help="what the registry declares", description="List the entries of the registry, those that are refused too.")
    show.options(sub, root=True)
    show.full(sub)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the entries. Exit status 1 when a file has an error."""
    from ..boot import registry
    from ..boot.config import load as load_config
    from ..boot.facts import Facts, gather_paths
    from ..boot.ini import ERROR, Problem
    from ..boot.plan import accept

    problems: list[Problem] = []
    root = show.root_of(arguments)
    found = registry.load(root, problems)
    facts = Facts()
    facts.root = root
    gather_paths(facts, found, os.environ)
    planned, refused = accept(load_config(root, problems), found, facts)
    kept = {p.entry.path: p for p in planned}
    rows = []
    for entry in found.entries:
        rows.append({"path": entry.path, "method": entry.method, "required": entry.required, "source": entry.source,
                     "state": "declared" if entry.path in kept else "refused"})
    problems += refused
    if arguments.json:
        show.print_json({"entries": rows, "problems": [{"level": p.level, "where": p.where, "message": p.text} for p in problems]})
    else:
        show.table(("PATH", "METHOD", "REQUIRED", "STATE", "DECLARED IN"), [(r["path"], r["method"], r["required"], r["state"], r["source"]) for r in rows],
                   flexible=(0, 4), full=arguments.full)
        for problem in problems:
            print(show.safe(str(problem)), file=sys.stderr)
    return 1 if any(p.level <= ERROR for p in problems) else 0
