# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries on a boot, as far as persist-volume.service has to do with them: binds, which would be torn down
with a member if they were .mount units."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.load import Loaded
from persist.entries import as_seeded, bind, early, late_etc, read_only_boot
from persist.errors import PersistError
from persist.note import DEBUG, Note
from persist.volume import outcome
from persist.volume.outcome import Outcome


def _late_etc(loaded: Loaded) -> Note | None:
    try:
        return late_etc.give_way(loaded)
    except (PersistError, OSError) as e:  # the verdict says what is wrong with /etc
        return Note(DEBUG, f"The transient machine-id stays mounted: {e}", "MACHINE_ID_KEPT")


def bring_up(
    loaded: Loaded, result: Outcome, status: Callable[[str], None]
) -> tuple[list[PersistError], Note | None]:
    """Look at the places of all entries, and mount what is seeded and ours to mount; ``status`` hears of
    long copies.

    Returns what went wrong, each with one entry, and what was done about the machine-id.
    """
    said = None
    settled = as_seeded.settle(loaded)
    problems = early.set_options(loaded)
    if loaded.plan.read_only and result.kind == "tmpfs":
        problems += read_only_boot.prepare(loaded, status)
    if result.kind in (*outcome.REAL, "tmpfs"):
        said = _late_etc(loaded)
    if result.kind in (*outcome.REAL, "tmpfs") and not result.read_only:
        problems += bind.mount_seeded(loaded, settled)
    else:
        if result.kind == "root" and not result.read_only:
            problems += bind.note_stores(loaded, ("symlink",))
        if not result.root_read_only and (result.expected or result.read_only):
            problems += bind.hold_stale(loaded)
    return problems, said
