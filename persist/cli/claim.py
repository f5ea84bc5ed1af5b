# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl claim: mark a blank disk for persist."""

from __future__ import annotations

import argparse
from typing import Any

from . import show


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    sub = verbs.add_parser("claim", help="ask persist to format a disk",
                           description="Write the magic header to a blank disk. It is formatted at once where udev runs, or at the next boot.")
    sub.add_argument("device", metavar="DEVICE", help="the whole disk, such as /dev/vdb")
    sub.add_argument("--force", action="store_true", help="also a disk that is not blank: WHAT IS ON IT IS LOST; never one in use")
    show.options(sub)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Claim one disk."""
    from ..boot.config import load
    from ..boot.ini import Problem
    from ..volume.claim import write_claim

    problems: list[Problem] = []
    write_claim(arguments.device, load("", problems), force=arguments.force)
    if arguments.json:
        show.print_json({"device": arguments.device, "claimed": True})
    else:
        print(f"{arguments.device} carries the claim now. It is formatted at once where persist-setup.target is enabled, else at the first boot where it is; "
              "entries come up at the next boot.")
    return 0
