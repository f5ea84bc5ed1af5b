# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl list: what the registry declares."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from persist.cli import show

if TYPE_CHECKING:
    from persist.boot.facts import Facts


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser(
        "list",
        help="what the registry declares",
        description="List the entries of the registry, each with its state; those that are not in force with "
        "the reason.",
    )
    show.options(sub, root=True)
    show.full(sub)
    sub.set_defaults(run=run)


def _this_boot(facts: Facts) -> str:
    """What the kernel command line makes of all entries on this boot, as a sentence, '' where it says nothing
    of them."""
    from persist.volume import mode

    word = mode.volatile_word(facts)
    if word:
        return f"Nothing is kept on this boot: {mode.explain(word)[0]}"
    return f"What this boot writes is not kept: {mode.READ_ONLY[1]}" if mode.read_only(facts) else ""


def run(arguments: argparse.Namespace) -> int:
    """Print the entries. Exit status 1 when a file has an error."""
    from persist.boot.accept import accept
    from persist.boot.facts import gather, why_nothing
    from persist.boot.ini import ERROR, NOTICE
    from persist.boot.load import Loaded
    from persist.verdict.outside_state import passed_over

    root = show.root_of(arguments)
    facts = gather(root, {"SYSTEMD_PROC_CMDLINE": ""} if root else {})
    why_off = why_nothing(facts)
    facts.enabled = True  # what is declared is listed, and judged, before it is switched on
    off = why_nothing(facts)
    loaded = Loaded(root, facts, {})
    found, problems, outside = loaded.registry, loaded.problems, loaded.plan.outside
    if off:  # then there is no plan
        outside = accept(loaded.config, found, facts)[1]
        problems += [o for o in outside if o.level <= NOTICE]
    why = {o.entry.source: (o.state, o.why) for o in outside}
    rows = []
    for entry in found.entries:
        state, reason = why.get(entry.source, ("off", off) if off else ("declared", ""))
        rows.append(
            {
                "path": entry.path,
                "method": entry.method,
                "required": entry.required,
                "source": entry.source,
                "state": state,
                "reason": reason,
            }
        )
    for entry, first in found.ignored:
        rows.append(
            {
                "path": entry.path,
                "method": entry.method,
                "required": entry.required,
                "source": entry.source,
                "state": "ignored",
                "reason": passed_over(first),
            }
        )
    for problem in found.refused:
        rows.append(
            {
                "path": problem.path,
                "method": "",
                "required": "",
                "source": problem.where,
                "state": "refused" if problem.level <= ERROR else "ignored",
                "reason": problem.text,
            }
        )
    boot = f"Nothing of this is in force: {why_off}." if why_off else _this_boot(facts)
    if arguments.json:
        show.print_json(
            {
                "reason": boot,
                "entries": rows,
                "problems": [{"level": p.level, "where": p.where, "message": p.text} for p in problems],
            }
        )
    else:
        show.table(
            ("PATH", "METHOD", "REQUIRED", "STATE", "DECLARED IN"),
            [(r["path"], r["method"], r["required"], r["state"], r["source"]) for r in rows],
            flexible=(0, 4),
            full=arguments.full,
        )
        for row in rows:
            if row["reason"] and row["state"] != "off":
                print(show.safe(f"{row['path']}: {row['state']}, {row['reason']}"))
        if boot:
            print(show.safe(boot), file=sys.stderr)
        told = {(row["source"], row["path"]) for row in rows if row["reason"]}
        for problem in problems:
            if (problem.where, problem.path) not in told:
                print(show.safe(str(problem)), file=sys.stderr)
    return 1 if any(p.level <= ERROR for p in problems) else 0
