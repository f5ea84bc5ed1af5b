# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume is looked for and mounted, or the result says why that could not be."""

from __future__ import annotations

import errno
from collections.abc import Callable

from persist.boot.config import Config
from persist.boot.paths import READONLY, RESCUE, VOLUME
from persist.errors import PersistError
from persist.note import NOTICE, Note, Say, Status, of
from persist.reason import Reason
from persist.system import mountinfo
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.volume import mode, outcome
from persist.volume.find.decision import Found, Known
from persist.volume.members.assemble import Assembly
from persist.volume.mount import btrfs_mount, fallback, foreign, lookup, native, rescue, strange, taken_over
from persist.volume.mount.private import private
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome

# Why what was found is not mounted now, None where it is.
Usable = Callable[[Found], Reason | None]


def any_filesystem(found: Found) -> Reason | None:
    """Whatever is found is used."""
    return None


def make_store(at: str) -> None:
    """Make the store of a volume that takes one. Raises PersistError and OSError."""
    try:
        store.make(at)
    except OSError as e:
        # An immutable one, or a full one, is a volume all the same: writable.obstacle() says it, with what to
        # do.
        if e.errno not in (errno.EPERM, errno.ENOSPC, errno.EDQUOT):
            raise


def mount(
    found: Found,
    assembly: Assembly | None,
    config: Config,
    say: Say,
    status: Status,
    *,
    read_only: bool = False,
    at: str = VOLUME,
) -> Mount:
    """Mount what was found. Raises PersistError and OSError; the disks are then left as they are."""
    if assembly is None:
        mounted = native.mount_native(found, config, say, status, read_only=read_only, at=at)
    else:
        for odd in assembly.odd:
            say(odd.note(found.uuid))
        mounted = btrfs_mount.mount_assembly(found, assembly, say, read_only=read_only, at=at)
    try:
        strange.check(at, found.node, found.uuid, say)
        if assembly is None and not mounted.read_only:
            make_store(at)
    except (PersistError, OSError):
        run("umount", at)
        raise
    if assembly is not None and assembly.heal and not read_only:
        outcome.note_heal()
    return mounted


def _broken(result: Outcome, found: Found, assembly: Assembly | None, error: PersistError, say: Say) -> None:
    """A volume that does not mount, or must not be used, is left untouched, and shown read-only where that
    goes, so that it can be saved."""
    result.device, result.uuid = found.node, found.uuid
    say(of(error))
    message = error.message
    if error.fields.get("PERSIST_REASON") == foreign.CODE:
        result.because(foreign.CODE, message, error.hint)
        return
    if assembly is not None and assembly.use:
        why_not = rescue.try_rescue(found, assembly)
        if why_not is None:
            result.rescue = RESCUE
            message += f" What can be read of it is at {RESCUE}."
        say(why_not or _rescued(found))
    result.because(strange.STRANGE if error.message_id == "VOLUME_STRANGE" else "broken", message, error.hint)


def _rescued(found: Found) -> Note:
    return Note(
        NOTICE,
        f"The state volume on {found.node} is shown read-only at {RESCUE}, with rescue options. Copy what "
        "you need.",
        "VOLUME_RESCUE",
        {"PERSIST_DEVICE": found.node, "PERSIST_UUID": found.uuid, "PERSIST_PATH": RESCUE},
    )


def for_writing(
    config: Config,
    told: Known,
    result: Outcome,
    say: Say,
    status: Status,
    usable: Usable = any_filesystem,
    *,
    enabled: bool,
) -> None:
    """Fill in the result where the volume could be mounted, and the reason where not. ``enabled``: the master
    switch is on."""
    seen = lookup.find(config, told, result, say, status, may_format=enabled)
    if seen is None:
        return
    why_not = usable(seen[0])
    if why_not is not None:
        result.because_of(why_not)
        return
    try:
        rescue.put_down()
        taken_over.describe(result, mount(*seen, config, say, status))
        result.uuid = result.uuid or seen[0].uuid.lower()
        result.expected = False
    except PersistError as e:
        _broken(result, *seen, e, say)


def read_only_below(
    config: Config,
    told: Known,
    result: Outcome,
    say: Say,
    status: Status,
    usable: Usable = any_filesystem,
) -> None:
    """persist=ro: the volume read-only, and memory above it; nothing where what was found is not mounted
    now."""
    result.because_of(mode.READ_ONLY)
    seen = lookup.find(config, told, result, say, status, may_format=False)
    why_not = usable(seen[0]) if seen is not None else None
    if why_not is not None:
        result.because_of(why_not)
        return
    result.expected = False
    if seen is not None:
        private()
        try:
            mount(*seen, config, say, status, read_only=True, at=READONLY)
        except PersistError as e:
            _broken(result, *seen, e, say)
    fallback.tmpfs(result, say)
    at = mountinfo.at(VOLUME)
    if at is not None:
        taken_over.describe(result, at)
