# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume is looked for and mounted, or the result says why that could not be."""

from __future__ import annotations

import errno

from persist import log
from persist.boot.config import Config
from persist.boot.paths import READONLY, RESCUE, VOLUME
from persist.errors import PersistError
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


def _say_members(assembly: Assembly, found: Found) -> None:
    for odd in assembly.odd:
        log.log(
            log.WARNING,
            f"{odd.message} {odd.hint}",
            odd.message_id,
            PERSIST_DEVICE=" ".join(odd.nodes),
            PERSIST_UUID=found.uuid,
            PERSIST_REASON=odd.code,
        )


def _make_store(at: str) -> None:
    """Make the store of a volume that takes one. Raises PersistError and OSError."""
    try:
        store.make(at)
    except OSError as e:
        # An immutable one, or a full one, is a volume all the same: writable.obstacle() says it, with what to
        # do.
        if e.errno not in (errno.EPERM, errno.ENOSPC, errno.EDQUOT):
            raise


def _mount(
    found: Found, assembly: Assembly | None, config: Config, *, read_only: bool = False, at: str = VOLUME
) -> Mount:
    """Mount what was found. Raises PersistError and OSError; the disks are then left as they are."""
    if assembly is None:
        mounted = native.mount_native(found, config, read_only=read_only, at=at)
    else:
        _say_members(assembly, found)
        mounted = btrfs_mount.mount_assembly(found, assembly, read_only=read_only, at=at)
    try:
        strange.check(at, found.node, found.uuid)
        if assembly is None and not mounted.read_only:
            _make_store(at)
    except (PersistError, OSError):
        run("umount", at)
        raise
    if assembly is not None and assembly.heal and not read_only:
        outcome.note_heal()
    return mounted


def _broken(result: Outcome, found: Found, assembly: Assembly | None, error: PersistError) -> None:
    """A volume that does not mount, or must not be used, is left untouched, and shown read-only where that
    goes, so that it can be saved."""
    result.device, result.uuid = found.node, found.uuid
    log.log_error(error)
    message = error.message
    if error.fields.get("PERSIST_REASON") == foreign.CODE:
        result.because(foreign.CODE, message, error.hint)
        return
    if assembly is not None and assembly.use and rescue.try_rescue(found, assembly):
        result.rescue = RESCUE
        message += f" What can be read of it is at {RESCUE}."
        log.log(
            log.NOTICE,
            f"The state volume on {found.node} is shown read-only at {RESCUE}, with rescue options. Copy "
            "what you need.",
            "VOLUME_RESCUE",
            PERSIST_DEVICE=found.node,
            PERSIST_UUID=found.uuid,
            PERSIST_PATH=RESCUE,
        )
    result.because(strange.STRANGE if error.message_id == "VOLUME_STRANGE" else "broken", message, error.hint)


def find_and_mount(config: Config, told: Known, result: Outcome, *, enabled: bool) -> None:
    """Fill in the result where the volume could be mounted, and the reason where not. ``enabled``: the master
    switch is on."""
    seen = lookup.find(config, told, result, may_format=enabled)
    if seen is None:
        return
    try:
        rescue.put_down()
        taken_over.describe(result, _mount(*seen, config))
        result.uuid = result.uuid or seen[0].uuid.lower()
        result.expected = False
    except PersistError as e:
        _broken(result, *seen, e)


def read_only_below(config: Config, told: Known, result: Outcome) -> None:
    """persist=ro: the volume read-only, and memory above it."""
    result.because(*mode.READ_ONLY)
    seen = lookup.find(config, told, result, may_format=False)
    result.expected = False
    if seen is not None:
        private()
        try:
            _mount(*seen, config, read_only=True, at=READONLY)
        except PersistError as e:
            _broken(result, *seen, e)
    fallback.tmpfs(result)
    at = mountinfo.at(VOLUME)
    if at is not None:
        taken_over.describe(result, at)
