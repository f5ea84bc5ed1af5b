# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl verify: whether registry, configuration and initrd stage are right, here or in an image."""

from __future__ import annotations

import argparse
from typing import Any

from . import show


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser("verify", help="check registry, configuration and initrd stage",
                           description="Check what persist would do, without a boot. Exit status 1 when something must be mended.")
    show.options(sub, root=True)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is wrong; nothing printed but the last line means nothing is."""
    from ..boot.ini import WARNING, Problem
    from ..boot.load import load
    from ..state.verdict import initrd_stage_missing, stale_early

    root = show.root_of(arguments)
    loaded = load(root, {})
    problems = list(loaded.problems)
    if not loaded.facts.enabled:
        where = f"--root={root} " if root else ""
        problems.append(Problem(WARNING, "", f"persist-setup.target is not enabled. Run 'systemctl {where}enable persist-setup.target'."))
    missing = initrd_stage_missing(loaded, loaded.facts)
    if missing:
        problems.append(Problem(WARNING, "", missing))
    if not root:
        for name in stale_early(loaded):
            problems.append(Problem(WARNING, "", f"The initrd mounts {name} early and the registry does not ask for it. Run 'update-initramfs -u'."))
    bad = [p for p in problems if p.level <= WARNING]
    if arguments.json:
        show.print_json({"ok": not bad, "problems": [{"level": p.level, "where": p.where, "message": p.text} for p in problems]})
    else:
        for problem in problems:
            print(show.safe(str(problem)))
        print(f"{len(loaded.plan.entries)} entries, {len(bad)} problems.")
    return 1 if bad else 0
