# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl list: what the registry declares."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from persist.cli import show

if TYPE_CHECKING:
    from persist.boot.accept import Outside
    from persist.boot.entry import Entry
    from persist.boot.facts import Facts
    from persist.boot.ini import Problem
    from persist.boot.registry import Registry


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

    why = mode.why(facts)
    if why is None:
        return ""
    what = "What this boot writes is not kept" if facts.mode == "ro" else "Nothing is kept on this boot"
    return f"{what}: {why.message}"


def _row(declared: Entry, state: str, reason: str) -> dict[str, str]:
    return {
        "path": declared.path,
        "method": declared.method,
        "required": declared.required,
        "source": declared.source,
        "state": state,
        "reason": reason,
    }


def _rows(found: Registry, outside: list[Outside], off: str) -> list[dict[str, str]]:
    """What the registry declares, each with its state; ``off``: why nothing is in force, ''."""
    from persist.boot.ini import ERROR
    from persist.verdict.outside_state import passed_over

    why = {o.entry.source: (o.state, o.why) for o in outside}
    plain = ("off", off) if off else ("declared", "")
    rows = [_row(entry, *why.get(entry.source, plain)) for entry in found.entries]
    rows += [_row(entry, "ignored", passed_over(first)) for entry, first in found.ignored]
    rows += [
        {
            "path": problem.path,
            "method": "",
            "required": "",
            "source": problem.where,
            "state": "refused" if problem.level <= ERROR else "ignored",
            "reason": problem.text,
        }
        for problem in found.refused
    ]
    return rows


def _print(rows: list[dict[str, str]], boot: str, problems: list[Problem], *, full: bool) -> None:
    show.table(
        ("PATH", "METHOD", "REQUIRED", "STATE", "DECLARED IN"),
        [(r["path"], r["method"], r["required"], r["state"], r["source"]) for r in rows],
        flexible=(0, 4),
        full=full,
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


def run(arguments: argparse.Namespace) -> int:
    """Print the entries. Exit status 1 when a file has an error."""
    from persist.boot.accept import accept
    from persist.boot.facts import gather, why_nothing
    from persist.boot.ini import ERROR, NOTICE
    from persist.boot.load import Loaded

    root = show.root_of(arguments)
    facts = gather(root, {"SYSTEMD_PROC_CMDLINE": ""} if root else {})
    why_off = why_nothing(facts)
    facts.enabled = True  # what is declared is listed, and judged, before it is switched on
    off = why_nothing(facts)
    loaded = Loaded(root, facts, {})
    problems, outside = loaded.problems, loaded.plan.outside
    if off:  # then there is no plan
        outside = accept(loaded.config, loaded.registry, facts)[1]
        problems += [o for o in outside if o.level <= NOTICE]
    rows = _rows(loaded.registry, outside, off)
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
        _print(rows, boot, problems, full=arguments.full)
    return 1 if any(p.level <= ERROR for p in problems) else 0
