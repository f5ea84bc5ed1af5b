# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-volume.service: find the volume and mount it, or decide what this boot does without. Runs at each
boot."""

from __future__ import annotations

import errno
import os

from persist import log
from persist.boot.config import Config
from persist.boot.load import Loaded, load
from persist.boot.paths import READONLY, RESCUE, VOLUME
from persist.errors import PersistError
from persist.system import mountinfo
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.volume import mode, outcome, root_kept
from persist.volume.find import remembered
from persist.volume.find.choose import BTRFS, Found, Known
from persist.volume.find.search import what_is_known
from persist.volume.members import in_kernel
from persist.volume.members.assemble import Assembly
from persist.volume.mount import (
    btrfs_mount,
    fallback,
    foreign,
    lookup,
    native,
    rescue,
    strange,
    taken_over,
    writable,
)
from persist.volume.mount.private import keep_users_out, private
from persist.volume.mount.writable import Obstacle
from persist.volume.ondisk import store
from persist.volume.outcome import Outcome


def _note_known(result: Outcome) -> None:
    """Note the volume on a root that keeps the note."""
    if not result.root_kept or result.memory or not result.uuid or result.reason == "initrd-disagrees":
        return
    try:
        remembered.note(result.uuid)
    except (OSError, ValueError) as e:
        log.log(
            log.WARNING,
            f"The state volume of this machine cannot be noted: {e}",
            "FAILED",
            PERSIST_PATH=remembered.PATH,
        )


def _write_protected(result: Outcome, why: Obstacle, *, fresh: bool) -> None:
    """A volume that takes no writes: put down again where the root keeps none either, for then memory is of
    more use."""
    fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid, "PERSIST_REASON": why.code}
    message, hint = why.message, why.hint
    result.read_only = True
    if not result.root_kept and fresh:
        run("umount", VOLUME)
        result.kind, result.read_only = "none", False
        message += " It is not used."
        if why.code == "subvolume-read-only":
            hint = writable.unmounted_hint(result.device)
    elif result.root_kept:
        message += (
            " Entries are left to the root filesystem, binds read-only there unless they say Stale=allow; "
            "what is written is hidden when the volume "
            "is back."
        )
    if not result.reason or result.kind == "none":
        result.because(why.code, why.message, hint)
    log.log(log.WARNING, f"{message} {hint}", "VOLUME_READ_ONLY", **fields)


def _takes_writes(result: Outcome, *, fresh: bool) -> bool:
    """Ask the volume whether it takes writes; what stands against it is in the result, but for a full one.
    Raises PersistError and OSError."""
    why = writable.obstacle(VOLUME)
    if why is None or why.code == "full":
        return True
    if why.code in writable.READ_ONLY:
        _write_protected(result, why, fresh=fresh)
    else:
        if not result.reason:
            result.because(why.code, why.message, why.hint)
        log.log(
            log.WARNING,
            f"{why.message} {why.hint}",
            "VOLUME_UNWRITABLE",
            PERSIST_DEVICE=result.device,
            PERSIST_UUID=result.uuid,
            PERSIST_REASON=why.code,
        )
    return False


def _where_it_lies(result: Outcome) -> None:
    """A volume that somebody made in memory is used, and the verdict says that it keeps nothing. Raises
    OSError."""
    at = mountinfo.at(VOLUME)
    result.memory = root_kept.lost(at, files=False) if at is not None else ""


def _say_members(assembly: Assembly, found: Found) -> None:
    for note in assembly.notes:
        log.log(
            log.WARNING,
            f"{note.message} {note.hint}",
            note.message_id,
            PERSIST_DEVICE=" ".join(note.nodes),
            PERSIST_UUID=found.uuid,
            PERSIST_REASON=note.code,
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


def _find_and_mount(config: Config, told: Known, result: Outcome, *, enabled: bool) -> None:
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


def _read_only_below(config: Config, told: Known, result: Outcome) -> None:
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


def _beside(loaded: Loaded, result: Outcome, *, takes_writes: bool) -> None:
    """What comes with a volume: the image for the entries, the public name, swap space."""
    config = loaded.config
    open_to_users = keep_users_out(links=any(p.entry.method == "symlink" for p in loaded.plan.entries))
    btrfs_mount.bind_image()
    try:
        why_not = (
            f"The state volume is not shown to users at {config.mount}. {open_to_users}"
            if open_to_users
            else btrfs_mount.bind_public(config.mount)
        )
    except PersistError as e:
        why_not = f"{config.mount} cannot be mounted: {e.message}"
    if why_not:
        log.log(log.NOTICE, why_not, "FAILED", PERSIST_PATH=config.mount)
    if result.kind not in outcome.REAL:
        return
    fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid}
    log.log(log.INFO, f"The state volume is mounted from {result.device}.", "VOLUME_MOUNTED", **fields)
    _note_known(result)
    if result.read_only or result.kind != BTRFS:
        return
    from persist.entries import reopen
    from persist.volume.mount import swap
    from persist.volume.space import reserve

    try:
        if takes_writes and reserve.is_full(VOLUME):
            # An overlay on a full volume comes up read-only, and says so nowhere but in the kernel's log.
            reserve.make_room(result.uuid)
            reopen.say_reopened()
    except (PersistError, OSError) as e:
        log.log(log.WARNING, f"Nobody knows whether the state volume is full: {e}", "FAILED", **fields)
    try:
        # Not what the kernel has a name for: udev tells it about members that are left out, too.
        wrong = swap.enable([m.node for m in in_kernel.glance(VOLUME) if m.ok], config)
    except OSError as e:
        wrong = [f"The swap space of the state volume is not used: {e}"]
    for sentence in wrong:
        log.log(log.WARNING, sentence, "FAILED", **fields)


def _run(result: Outcome) -> int:
    from persist.entries import stores
    from persist.entries.bring_up import bring_up

    stores.clear()
    loaded = load("", os.environ)  # the verdict says what is wrong with it
    config, machine = loaded.config, loaded.facts
    result.on_root(root_kept.look())
    if config.netdev and not loaded.plan.net:
        result.because(
            "no-entries",
            "The state volume comes with the network, and no entry waits for it.",
            "Name the services of an entry in Services=.",
        )
        return 0
    told = what_is_known(machine)
    status, takes_writes = 0, False
    at = mountinfo.at(VOLUME)
    word = mode.volatile_word(machine)
    # What the initrd put on top of the volume stays usable, and where an earlier run of ours ended nothing is
    # taken away.
    fresh = at is None or (outcome.read() is None and not taken_over.early_entries())
    if at is not None:
        taken_over.keep(config, machine, told, result, at)
        strange.put_down(result, told)
    elif word:
        result.because("volatile", *mode.explain(word))
        fallback.tmpfs(result)
    elif mode.read_only(machine):
        _read_only_below(config, told, result)
    else:
        _find_and_mount(config, told, result, enabled=machine.enabled)
    if result.kind in outcome.REAL:
        _where_it_lies(result)
        takes_writes = _takes_writes(result, fresh=fresh)
    if result.kind == "none":
        status = fallback.fall_back(config, result)
    if result.kind != "none":
        _beside(loaded, result, takes_writes=takes_writes)
    problems, said = bring_up(loaded, result)
    if said is not None:
        log.log(said[0], said[1], "MACHINE_ID_KEPT")
    for problem in problems:
        log.log_error(problem)
    if config.netdev and result.kind in outcome.REAL:
        from persist.volume.mount import netdev

        netdev.note_all()
    return status


def _rescue(result: Outcome, error: Exception) -> None:
    """Something nobody thought of: a root that keeps nothing still gets a place to write."""
    text = str(error) if isinstance(error, PersistError) else f"{type(error).__name__}: {error}"
    log.log(log.ERR, f"The state volume could not be set up: {text}", "FAILED", PERSIST_REASON="failed")
    result.because(
        "failed",
        f"The state volume could not be set up: {text}",
        "See 'journalctl -b -u persist-volume.service'.",
    )
    try:
        at = mountinfo.at(VOLUME)
        if at is not None:
            taken_over.describe(result, at)  # it came up, and what failed came after it
            result.expected = False
            keep_users_out(links=True)
            return
        result.kind = "none"
        result.on_root(root_kept.look())
        if not result.root_kept:
            fallback.tmpfs(result)
            btrfs_mount.bind_image()
        elif result.expected:
            from persist.entries import bind

            for problem in bind.hold_stale(load("", os.environ)):
                log.log_error(problem)
    except (PersistError, OSError) as e:
        log.log(log.ERR, f"Nor could a tmpfs take its place: {e}", "FALLBACK", PERSIST_REASON="failed")
        result.kind = "none"


def volume_main() -> int:
    """Run as persist-volume.service. Never raises: exit status 1 after the unexpected, and where
    Fallback=fail found no volume."""
    result = Outcome()
    try:
        outcome.begin()
        status = _run(result)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said, and the boot goes on
        _rescue(result, e)
        status = 1
    try:
        outcome.write(result)
    except OSError as e:
        log.log(log.ERR, f"{outcome.RECORD} cannot be written: {e}", "FAILED")
        status = 1
    log.notify_status(f"State volume: {result.kind}{' on ' + result.device if result.device else ''}")
    return status
