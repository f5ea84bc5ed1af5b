# SPDX-License-Identifier: LGPL-2.1-or-later
"""``persist-service STEP [NAME]``: what the units start. Each step loads only what it needs."""

from __future__ import annotations

import sys
from importlib import import_module

# Step: the module of this room, its function, and whether it takes a word more: the name of an instance, or
# where the stage runs.
STEPS = {
    "early": ("early", "main", True),
    "format": ("format", "format_main", False),
    "volume": ("volume", "volume_main", False),
    "seed": ("seed", "main", True),
    "link": ("seed", "link_main", True),
    "bind": ("bind", "main", True),
    "migrate": ("migrate", "main", True),
    "verify": ("verify", "main", False),
    "heal": ("heal", "heal_main", False),
    "regenerate": ("regenerate", "main", False),
    "seal-begin": ("seal.begin", "begin_main", False),
    "seal": ("seal.wipe", "seal_main", False),
    "operator-script": ("seal.wipe", "script_main", False),
    "seal-end": ("seal.end", "end_main", False),
    "seal-off": ("seal.end", "off_main", False),
    "seal-refused": ("seal.begin", "refused_main", False),
    "scrub": ("scrub", "scrub_main", False),
}


def main(argv: list[str]) -> int:
    """Run one step and return its exit status; 2 for a call that is wrong."""
    module, function, named = STEPS.get(argv[0] if argv else "", ("", "", False))
    if not module or len(argv) != 1 + named:
        steps = ", ".join(
            f"{step} NAME" if takes_name else step for step, (_, _, takes_name) in STEPS.items()
        )
        print(f"persist-service: expected one of {steps}", file=sys.stderr)
        return 2
    status = getattr(import_module(f"persist.services.{module}"), function)(*argv[1:])
    assert isinstance(status, int)
    return status
