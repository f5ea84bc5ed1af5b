# SPDX-License-Identifier: LGPL-2.1-or-later
"""``persist-service STEP [ARGUMENT]``: what the units start. Each step imports only what it needs."""

from __future__ import annotations

import os
import sys


def _early_table() -> int:
    from .boot.load import load

    # The initrd is for the boots to come, so this boot's command line counts for nothing (it may be another machine's).
    loaded = load("", {"SYSTEMD_PROC_CMDLINE": ""})
    for spec in loaded.config.device:
        print(f"device\t{spec}")
    if loaded.config.allow_removable:
        print("removable")
    print(f"timeout\t{loaded.config.member_timeout}")
    sys.stdout.write(loaded.plan.early_table)
    return 0


def _seed(name: str) -> int:
    from .boot.paths import SEEDED
    from .state.seed_service import main as seed_main

    status = seed_main(name)
    if status == 0:
        # For the verdict: an entry that the initrd should mount comes late on the boot that seeds it, and only then.
        os.makedirs(SEEDED, 0o755, exist_ok=True)
        with open(f"{SEEDED}/{name}", "w", encoding="ascii"):
            pass
    return status


def main(argv: list[str]) -> int:
    """Run one step and return its exit status; 2 for a call that is wrong."""
    match argv:
        case ["format"]:
            from .volume.service import format_main

            return format_main()
        case ["volume"]:
            from .volume.service import volume_main

            return volume_main()
        case ["seed", name]:
            return _seed(name)
        case ["bind", name]:
            from .state.bind_service import main as bind_main

            return bind_main(name)
        case ["reload"]:
            from .state.reload_service import main as reload_main

            return reload_main()
        case ["verify"]:
            from .state.verify_service import main as verify_main

            return verify_main()
        case ["heal"]:
            from .volume.heal_service import heal_main

            return heal_main()
        case ["scrub"]:
            from .volume.scrub_service import scrub_main

            return scrub_main()
        case ["early-table"]:
            return _early_table()
    print("persist-service: expected format, volume, seed NAME, bind NAME, reload, verify, heal, scrub or early-table", file=sys.stderr)
    return 2
