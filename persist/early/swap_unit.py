# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swap space of the volume, for PID 1 to switch on.

/proc/swaps has the name that a node has within the mount that it was opened in. In the stage that is a copy
of the initrd's /dev, which goes, or the initrd's own, of which the real root may get a copy (systemd 257):
the name is /vdb1 then, and nobody can switch it off (tried, 252 and 257).
"""

from __future__ import annotations

import os
from contextlib import suppress

from persist.boot.paths import escape
from persist.system.files import write_atomically

UNITS = "/run/systemd/system"  # systemd.unit(5): of this boot, and kept over switch-root
WANTS = "persist-setup.target.wants"
# Nothing waits for it: a node that udev never speaks of costs this and nothing else.
_TEXT = """# Written by persist before PID 1 started.
[Unit]
Description=Swap space of the state volume
Documentation=man:persist(7)
DefaultDependencies=no
After=persist-volume.service
Conflicts=umount.target
Before=umount.target

[Swap]
What={node}
"""


def leave(node: str, units: str = UNITS) -> None:
    """Have PID 1 switch on the swap space on a node. Raises OSError."""
    name = f"{escape(node)}.swap"
    write_atomically(f"{units}/{name}", _TEXT.format(node=node))
    os.makedirs(f"{units}/{WANTS}", 0o755, exist_ok=True)
    with suppress(FileExistsError):  # an earlier run of this boot
        os.symlink(f"../{name}", f"{units}/{WANTS}/{name}")
