# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind entries held read-only on a root filesystem that boots without the volume it has known: what would be
written there is what the volume hides when it is back."""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.paths import above
from persist.boot.plan import Planned
from persist.entries.bind import Places, error, failure
from persist.errors import PersistError
from persist.system import newmount
from persist.system.files import kind as kind_of
from persist.system.files import write_atomically
from persist.system.safepath import Dir


def hold(planned: Planned) -> PersistError | None:
    """Make one bind entry read-only where it is. None where there is nothing to hold, or it is held. Raises
    PersistError and OSError."""
    with Dir.at("/") as live:
        fd = live.node(planned.path)
    if fd is None:
        return None
    try:
        if kind_of(os.fstat(fd).st_mode) not in ("directory", "file"):
            raise PersistError(f"It is a {kind_of(os.fstat(fd).st_mode)}.")
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            return None
        # What is mounted below stays in sight, and as it is.
        newmount.attach(fd, fd, read_only=True, recursive=True)
    finally:
        os.close(fd)
    return error(
        planned,
        "ENTRY_STALE",
        f"'{planned.path}' is read-only on this boot: its state volume is missing or read-only, and would "
        "hide what is written now when it is back.",
        f"Attach the disk of the volume, or set Stale=allow ({planned.entry.source}).",
    )


def hold_stale(loaded: Loaded) -> list[PersistError]:
    """Hold each bind entry with Stale=ro read-only, on a writable root that has known a volume and boots
    without it, or with one that takes no writes.

    The result is what to log: each entry that is held, and each that could not be. Entries below a mount of
    fstab are held by persist-bind@.service, after that mount; it looks for /run/persist/stale. Raises
    OSError.
    """
    write_atomically(paths.STALE, "")
    places = Places(loaded)
    said = []
    for planned in loaded.plan.entries:
        if (
            planned.entry.method != "bind"
            or planned.entry.stale != "ro"
            or above(planned.path, loaded.plan.fstab)
        ):
            continue
        try:
            later = places.later(planned.path)
            if later:
                raise PersistError(f"{later} is mounted only later.", hint="Mount it from fstab(5).")
            held = hold(planned)
        except (PersistError, OSError) as e:
            held = failure(planned, e, "Failed to make", "read-only while the state volume is away")
        if held is not None:
            said.append(held)
    return said
