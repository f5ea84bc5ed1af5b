# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/run/persist/migrations/ID``: the migration has its stamp, and PID 1 need not start its unit."""

from __future__ import annotations

import os
from contextlib import suppress

from persist.boot.paths import MIGRATED
from persist.system.files import write_atomically


def write(id: str) -> None:
    """Have PID 1 skip a migration. Raises OSError."""
    write_atomically(f"{MIGRATED}/{id}", "")


def clear() -> None:
    """Take all away: no stamp was looked at yet. Raises OSError."""
    with suppress(FileNotFoundError):
        for name in os.listdir(MIGRATED):
            os.unlink(f"{MIGRATED}/{name}")
