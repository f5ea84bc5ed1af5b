# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook of initramfs-tools asks for when an initrd is built: the table of the entries that are
mounted there."""

from __future__ import annotations

import sys

from persist.boot.load import load


def main() -> int:
    """Print the table. The exit status is 0."""
    # The initrd is for the boots to come, so this boot's command line counts for nothing (it may be another
    # machine's).
    loaded = load("", {"SYSTEMD_PROC_CMDLINE": ""})
    for spec in loaded.config.device:
        print(f"device\t{spec}")
    if loaded.config.allow_removable:
        print("removable")
    print(f"timeout\t{loaded.config.member_timeout}")
    sys.stdout.write(loaded.plan.early_table)
    return 0
