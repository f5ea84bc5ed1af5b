# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries on a boot, as far as persist-volume.service has to do with them: binds, which would be torn down
with a member if they were .mount units."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.load import Loaded
from persist.entries import as_seeded, bind, hold, read_only_boot
from persist.errors import PersistError
from persist.volume import outcome
from persist.volume.outcome import Outcome


def bring_up(loaded: Loaded, result: Outcome, status: Callable[[str], None]) -> list[PersistError]:
    """Look at the places of all entries, and mount what is seeded and ours to mount; ``status`` hears of
    long copies. Returns what went wrong, each with one entry."""
    settled = as_seeded.settle(loaded, root_kept=result.root_kept)
    problems: list[PersistError] = []
    if loaded.plan.read_only and result.kind == "tmpfs":
        problems += read_only_boot.prepare(loaded, status)
    if result.kind in (*outcome.REAL, "tmpfs") and not result.read_only:
        problems += bind.mount_seeded(loaded, settled.kept, settled.convert)
    else:
        if result.kind == "root" and not result.read_only:
            problems += bind.note_stores(loaded, ("symlink",), settled.convert)
        if not result.root_read_only and (result.expected or result.read_only):
            problems += hold.hold_stale(loaded)
    return problems
