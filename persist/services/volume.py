# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-volume.service: find the volume and mount it, or decide what this boot does without. Runs at each
boot."""

from __future__ import annotations

from persist import log
from persist.boot.paths import VOLUME
from persist.early import from_before
from persist.entries import set_up
from persist.errors import PersistError
from persist.migrate import at_boot
from persist.services.running import running, say_early
from persist.system import mountinfo
from persist.volume import mode, outcome, root_kept
from persist.volume.find.search import what_is_known
from persist.volume.mount import binds, fallback, strange, taken_over, writable
from persist.volume.mount.private import keep_users_out
from persist.volume.outcome import Outcome


def _run(result: Outcome) -> int:
    from persist.entries import stores
    from persist.entries.bring_up import bring_up

    before = from_before.flags()
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
    # What was mounted from the volume before PID 1 stays usable, and where an earlier run of ours ended
    # nothing is taken away.
    fresh = at is None or (outcome.read() is None and not taken_over.in_use(at))
    if at is not None:
        taken_over.keep(result, at, log.say, mode.why(machine))
        strange.put_down(result, told, log.say)
    else:
        set_up.find(loaded, told, result, log.say, log.notify_status)
    if result.kind in outcome.REAL:
        set_up.where_it_lies(result)
        takes_writes = writable.takes_writes(result, log.say, fresh=fresh)
    if result.kind == "none":
        status = fallback.fall_back(config, result, log.say)
    if result.kind != "none":
        for note in set_up.beside(loaded, result, log.say, takes_writes=takes_writes):
            log.say(note)
    at_boot.begin(result, loaded, log.say, log.notify_status)
    # After a soft reboot in which the stage has left the volume to us.
    lost = from_before.elsewhere(loaded, before) if result.kind != "none" else []
    for problem in bring_up(loaded, result, log.notify_status):
        log.log_error(problem)
    from_before.leave(lost, before, log.say)
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
            from persist.entries import hold

            for problem in hold.hold_stale(running()):
                log.log_error(problem)
    except (PersistError, OSError) as e:
        log.log(log.ERR, f"Failed to mount a tmpfs in its place: {e}", "FALLBACK", PERSIST_REASON="failed")
        result.kind = "none"


def volume_main() -> int:
    """Run as persist-volume.service. Never raises: exit status 1 after the unexpected, and where
    Fallback=fail found no volume."""
    result = Outcome()
    say_early()
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
