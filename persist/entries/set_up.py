# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume of a boot, found and mounted, and what comes beside it: the same before PID 1 and in
persist-volume.service."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.load import Loaded
from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.note import NOTICE, WARNING, Note, Say, Status
from persist.system import mountinfo
from persist.volume import mode, outcome, root_kept
from persist.volume.find import remembered
from persist.volume.find.decision import BTRFS, Known
from persist.volume.members import in_kernel
from persist.volume.mount import binds, fallback, find_and_mount
from persist.volume.mount.find_and_mount import Usable
from persist.volume.mount.private import keep_users_out
from persist.volume.outcome import Outcome


def find(
    loaded: Loaded,
    told: Known,
    result: Outcome,
    say: Say,
    status: Status,
    usable: Usable = find_and_mount.any_filesystem,
) -> None:
    """Find and mount the volume, or what the command line asks for in its place. The result has the reason
    where there is none; nothing stands in for it then. Raises PersistError and OSError."""
    config, machine = loaded.config, loaded.facts
    if machine.mode == "volatile":
        why = mode.why(machine)
        assert why is not None
        result.because_of(why)
        fallback.tmpfs(result, say)
    elif machine.mode == "ro":
        find_and_mount.read_only_below(config, told, result, say, status, usable)
    else:
        find_and_mount.for_writing(config, told, result, say, status, usable, enabled=machine.enabled)


def where_it_lies(result: Outcome) -> None:
    """A volume that somebody made in memory is used, and the verdict says that it keeps nothing. Raises
    OSError."""
    at = mountinfo.at(VOLUME)
    result.memory = root_kept.lost(at, files=False) if at is not None else ""


def note_known(result: Outcome) -> Note | None:
    """Note the volume on a root that keeps the note. Returns why that failed."""
    if not result.root_kept or result.memory or not result.uuid:
        return None
    try:
        remembered.note(result.uuid)
    except (OSError, ValueError) as e:
        return Note(
            WARNING,
            f"Failed to note the state volume of this machine: {e}",
            "FAILED",
            {"PERSIST_PATH": remembered.PATH},
        )
    return None


def make_room(result: Outcome, say: Say, path: str = VOLUME) -> None:
    """A volume that is full gets its reserve before anything is mounted from it. What fails is said."""
    from persist.volume.space import reserve

    try:
        if reserve.is_full(path):
            from persist.entries import reopen

            # An overlay on a full volume comes up read-only, and says so nowhere but in the kernel's log.
            say(reserve.make_room(result.uuid, path))
            for note in reopen.reopened():
                say(note)
    except (PersistError, OSError) as e:
        fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid}
        say(Note(WARNING, f"Failed to see whether the state volume is full: {e}", "FAILED", fields))


def _public(path: str, why_closed: str) -> Note | None:
    """Show the volume under its public name. Returns why that cannot be."""
    try:
        why_not = (
            f"The state volume is not shown to users at {path}. {why_closed}"
            if why_closed
            else binds.bind_public(path)
        )
    except PersistError as e:
        why_not = f"{path} cannot be mounted: {e.message}"
    return Note(NOTICE, why_not, "FAILED", {"PERSIST_PATH": path}) if why_not else None


def _swap(loaded: Loaded, say: Say, switch_on: Callable[[str], None] | None) -> None:
    from persist.volume.mount import swap

    try:
        # Not what the kernel has a name for: udev tells it about members that are left out, too.
        nodes = [m.node for m in in_kernel.glance(VOLUME) if m.ok]
        for note in swap.enable(nodes, loaded.config, switch_on or swap.on):
            say(note)
    except OSError as e:
        say(swap.not_used(e))


def beside(
    loaded: Loaded,
    result: Outcome,
    say: Say,
    *,
    takes_writes: bool,
    swap_on: Callable[[str], None] | None = None,
) -> list[Note]:
    """What comes with a volume: the image for the entries, the public name, swap space, a note of it on the
    root. Returns what the root filesystem did not take; the rest is said. ``swap_on``: how swap space on a
    node is switched on, where that is not swapon(8). Raises PersistError and OSError."""
    why_closed = keep_users_out(links=any(p.entry.method == "symlink" for p in loaded.plan.entries))
    binds.bind_image()
    refused = [_public(loaded.config.mount, why_closed)]
    if result.kind in outcome.REAL:
        fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid}
        say(Note(NOTICE, f"The state volume is mounted from {result.device}.", "VOLUME_MOUNTED", fields))
        refused.append(note_known(result))
        if not result.read_only and result.kind == BTRFS:
            if takes_writes:
                make_room(result, say)
            _swap(loaded, say, swap_on)
    return [note for note in refused if note is not None]
