# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-volume.service: find the volume and mount it, or decide what this boot does without. Runs at each
boot."""

from __future__ import annotations

from persist import log
from persist.boot.load import Loaded
from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.services.running import running
from persist.system import mountinfo
from persist.volume import mode, outcome, root_kept
from persist.volume.find import remembered
from persist.volume.find.decision import BTRFS
from persist.volume.find.search import what_is_known
from persist.volume.members import in_kernel
from persist.volume.mount import (
    binds,
    fallback,
    find_and_mount,
    strange,
    taken_over,
    writable,
)
from persist.volume.mount.private import keep_users_out
from persist.volume.outcome import Outcome


def note_known(result: Outcome) -> None:
    """Note the volume on a root that keeps the note."""
    if not result.root_kept or result.memory or not result.uuid or result.reason == "initrd-disagrees":
        return
    try:
        remembered.note(result.uuid)
    except (OSError, ValueError) as e:
        log.log(
            log.WARNING,
            f"Failed to note the state volume of this machine: {e}",
            "FAILED",
            PERSIST_PATH=remembered.PATH,
        )


def _where_it_lies(result: Outcome) -> None:
    """A volume that somebody made in memory is used, and the verdict says that it keeps nothing. Raises
    OSError."""
    at = mountinfo.at(VOLUME)
    result.memory = root_kept.lost(at, files=False) if at is not None else ""


def make_room(result: Outcome, path: str = VOLUME) -> None:
    """A volume that is full gets its reserve before anything is mounted from it. What fails is logged."""
    from persist.entries import reopen
    from persist.volume.space import reserve

    try:
        if reserve.is_full(path):
            # An overlay on a full volume comes up read-only, and says so nowhere but in the kernel's log.
            log.say(reserve.make_room(result.uuid, path))
            for note in reopen.reopened():
                log.say(note)
    except (PersistError, OSError) as e:
        fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid}
        log.log(log.WARNING, f"Failed to see whether the state volume is full: {e}", "FAILED", **fields)


def _beside(loaded: Loaded, result: Outcome, *, takes_writes: bool) -> None:
    """What comes with a volume: the image for the entries, the public name, swap space."""
    config = loaded.config
    open_to_users = keep_users_out(links=any(p.entry.method == "symlink" for p in loaded.plan.entries))
    binds.bind_image()
    try:
        why_not = (
            f"The state volume is not shown to users at {config.mount}. {open_to_users}"
            if open_to_users
            else binds.bind_public(config.mount)
        )
    except PersistError as e:
        why_not = f"{config.mount} cannot be mounted: {e.message}"
    if why_not:
        log.log(log.NOTICE, why_not, "FAILED", PERSIST_PATH=config.mount)
    if result.kind not in outcome.REAL:
        return
    fields = {"PERSIST_DEVICE": result.device, "PERSIST_UUID": result.uuid}
    log.log(log.INFO, f"The state volume is mounted from {result.device}.", "VOLUME_MOUNTED", **fields)
    note_known(result)
    if result.read_only or result.kind != BTRFS:
        return
    from persist.volume.mount import swap

    if takes_writes:
        make_room(result)
    try:
        # Not what the kernel has a name for: udev tells it about members that are left out, too.
        for note in swap.enable([m.node for m in in_kernel.glance(VOLUME) if m.ok], config):
            log.say(note)
    except OSError as e:
        log.say(swap.not_used(e))


def _run(result: Outcome) -> int:
    from persist.entries import stores
    from persist.entries.bring_up import bring_up

    stores.clear()
    loaded = running()
    config, machine = loaded.config, loaded.facts
    result.on_root(root_kept.look())
    if config.netdev and not loaded.plan.net:
        result.because(
            "no-entries",
            "The state volume comes with the network, and no entry waits for it.",
            "Name the services of an entry in Services=.",
        )
        return 0
    told = what_is_known(machine, log.say)
    status, takes_writes = 0, False
    at = mountinfo.at(VOLUME)
    # What the initrd put on top of the volume stays usable, and where an earlier run of ours ended nothing is
    # taken away.
    fresh = at is None or (outcome.read() is None and not taken_over.early_entries())
    if at is not None:
        taken_over.keep(config, machine, told, result, at, log.say)
        strange.put_down(result, told, log.say)
    elif machine.mode == "volatile":
        why = mode.why(machine)
        assert why is not None
        result.because_of(why)
        fallback.tmpfs(result, log.say)
    elif machine.mode == "ro":
        find_and_mount.read_only_below(config, told, result, log.say, log.notify_status)
    else:
        find_and_mount.for_writing(config, told, result, log.say, log.notify_status, enabled=machine.enabled)
    if result.kind in outcome.REAL:
        _where_it_lies(result)
        takes_writes = writable.takes_writes(result, log.say, fresh=fresh)
    if result.kind == "none":
        status = fallback.fall_back(config, result, log.say)
    if result.kind != "none":
        _beside(loaded, result, takes_writes=takes_writes)
    problems, said = bring_up(loaded, result, log.notify_status)
    if said is not None:
        log.say(said)
    for problem in problems:
        log.log_error(problem)
    if config.netdev and result.kind in outcome.REAL:
        from persist.volume.mount import netdev

        for note in netdev.note_all():
            log.say(note)
    return status


def rescue(result: Outcome, error: Exception) -> None:
    """After an error that nothing has caught: a root that keeps nothing still gets a place to write."""
    text = str(error) if isinstance(error, PersistError) else f"{type(error).__name__}: {error}"
    log.log(log.ERR, f"Failed to set up the state volume: {text}", "FAILED", PERSIST_REASON="failed")
    result.because(
        "failed",
        f"Failed to set up the state volume: {text}",
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
            fallback.tmpfs(result, log.say)
            binds.bind_image()
        elif result.expected:
            from persist.entries import bind

            for problem in bind.hold_stale(running()):
                log.log_error(problem)
    except (PersistError, OSError) as e:
        log.log(log.ERR, f"Failed to mount a tmpfs in its place: {e}", "FALLBACK", PERSIST_REASON="failed")
        result.kind = "none"


def volume_main() -> int:
    """Run as persist-volume.service. Never raises: exit status 1 after the unexpected, and where
    Fallback=fail found no volume."""
    result = Outcome()
    try:
        outcome.begin()
        status = _run(result)
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said, and the boot goes on
        rescue(result, e)
        status = 1
    try:
        outcome.write(result)
    except OSError as e:
        log.log(log.ERR, f"Failed to write {outcome.RECORD}: {e}", "FAILED")
        status = 1
    log.notify_status(f"State volume: {result.kind}{' on ' + result.device if result.device else ''}")
    return status
