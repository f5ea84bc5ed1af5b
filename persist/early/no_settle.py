# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where all is mounted, nobody waits for udev.

persist-volume.service and persist-format.service come before local-fs.target and after
persist-settle.service, which comes after udevd and all that is coldplugged. PID 1 looks at conditions when it
has come to a unit, so a boot that skips all three would wait for udevd all the same, and with it the journal,
and what comes after it (seen with 252). A unit that is masked is not waited for.
"""

from __future__ import annotations

import os
from contextlib import suppress

from persist.early.swap_unit import UNITS

UNIT = "persist-settle.service"


def mask(units: str = UNITS) -> None:
    """Take the unit out of this boot; persist-soft-reboot.service lets it into the next one. Raises
    OSError."""
    os.makedirs(units, 0o755, exist_ok=True)
    with suppress(FileExistsError):  # an earlier run of this boot, or somebody's own
        os.symlink("/dev/null", f"{units}/{UNIT}")
