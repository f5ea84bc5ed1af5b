# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist-bind@.service runs: mount one bind entry, on the boot that seeds it or after the mount of
fstab that it lies in."""

from __future__ import annotations

import os

from persist.boot import paths
from persist.boot.load import Loaded
from persist.boot.plan import Planned
from persist.entries import as_seeded, stores
from persist.entries.bind import failure, mount_bind, mount_overlay
from persist.entries.hold import hold
from persist.errors import PersistError
from persist.log import DEBUG, ERR, log, log_error, say
from persist.services.running import root_kept, running
from persist.system import mountinfo


def _why_not(planned: Planned) -> str:
    """Why a bind entry is not mounted on this boot, or ''. The conditions of units above no mount of fstab
    say the same."""
    if not os.path.exists(paths.MOUNT_ENTRIES):
        return "there is no state volume"
    if planned.entry.required != "no" and not os.path.exists(paths.PERSISTENT):
        return "what this boot writes is lost, which Required= forbids"
    return (
        ""
        if stores.flag(planned.name)
        else "it was not seeded, or its content on the state volume was refused"
    )


def _bind(planned: Planned, *, net: bool) -> int:
    why_not = _why_not(planned)
    fields = {"PERSIST_PATH": planned.path, "PERSIST_METHOD": "bind", "PERSIST_SOURCE": planned.entry.source}
    if not why_not:
        mount_bind(planned)
        if net:
            from persist.volume.mount import netdev

            for note in netdev.note(planned.path):
                say(note)
        return 0
    if planned.entry.stale == "ro" and os.path.exists(paths.STALE):
        held = hold(planned)
        if held is not None:
            log_error(held)
    if planned.entry.required == "no":
        log(DEBUG, f"'{planned.path}' is not mounted: {why_not}.", "FALLBACK", **fields)
        return 0
    log(ERR, f"'{planned.path}' is not mounted: {why_not}.", "ENTRY_FAILED", **fields)
    return 1


def _as_seeded(planned: Planned, loaded: Loaded) -> None:
    """Mount an entry that keeps another form than its own, where persist-volume.service has not: below a
    mount of fstab. Raises PersistError and OSError."""
    if (
        planned.entry.method == "overlay"
        and paths.above(planned.path, loaded.plan.fstab)
        and not _why_not(planned)
        and mountinfo.at(planned.path) is None
    ):
        mount_overlay(planned, loaded)


def main(escaped_name: str) -> int:
    """Mount the bind entry with this escaped path; returns the exit status of the service."""
    loaded = running()
    plan, settled = loaded.plan, as_seeded.settle(loaded, root_kept=root_kept())
    kept = settled.kept
    for planned in plan.entries:
        if planned.name == escaped_name and (planned.entry.method == "bind" or planned.path in kept):
            break
    else:
        log(
            ERR,
            f"No entry of the registry with Method=bind has the name '{escaped_name}'. Its file was changed "
            "or removed since PID 1 read it: run 'systemctl daemon-reload'.",
            "ENTRY_FAILED",
        )
        return 1
    try:
        if planned.entry.method != "bind":
            _as_seeded(planned, loaded)
            return 0
        return _bind(planned, net=plan.net)
    except (PersistError, OSError) as e:
        log_error(failure(planned, e))
        return 1
