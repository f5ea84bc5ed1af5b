# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries on a boot, as far as persist-volume.service has to do with them: binds, which would be torn down
with a member if they were .mount units."""

from __future__ import annotations

from persist.boot.load import Loaded
from persist.entries import as_seeded, bind, early, late_etc, read_only_boot
from persist.errors import PersistError
from persist.log import DEBUG
from persist.volume import outcome
from persist.volume.outcome import Outcome


def _late_etc(loaded: Loaded) -> tuple[int, str] | None:
    try:
        return late_etc.give_way(loaded)
    except (PersistError, OSError) as e:
        return (
            DEBUG,
            f"The transient machine-id is left where it is: {e}",
        )  # the verdict says what is wrong with /etc


def bring_up(loaded: Loaded, result: Outcome) -> tuple[list[PersistError], tuple[int, str] | None]:
    """Look at the places of all entries, and mount what is seeded and ours to mount.

    Returns what went wrong, each with one entry, and what was done about the machine-id: a priority and a
    sentence.
    """
    said = None
    settled = as_seeded.settle(loaded)
    problems = early.set_options(loaded)
    if loaded.plan.read_only and result.kind == "tmpfs":
        problems += read_only_boot.prepare(loaded)
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
