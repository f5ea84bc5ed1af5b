# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-heal.service: heal the volume, say how far it is, and have the verdict made anew. Here what the library raises is logged."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from types import FrameType

from .. import log
from ..boot.config import Config, load
from ..boot.paths import RUN, VOLUME
from ..errors import PersistError
from ..lock import held
from ..run import run
from . import btrfs, health, live, mountinfo, outcome, swap
from .heal import Healer

LOCK = f"{RUN}/heal.lock"


class Stopped(Exception):
    """Somebody asked us to stop (SIGTERM): the machine shuts down."""


def alone(*, wait: bool = True) -> AbstractContextManager[bool]:
    """One at a time: this service, persist-health.service and persistctl. Waits for the others, or yields False without ``wait``. Raises OSError."""
    return held(LOCK, wait=wait)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def interrupt(path: str, uuid: str) -> None:
    """End what the kernel does for us, so that a shutdown need not wait for it: the next start begins where the data is. Raises CommandError."""
    operation = btrfs.attribute(uuid, "exclusive_operation")
    if operation == "device replace":
        run("btrfs", "replace", "cancel", path, ok=(0, 1, 2))
    elif operation == "balance":
        run("btrfs", "balance", "pause", path, ok=(0, 1, 2))


def _forget_failure() -> None:
    if os.path.lexists(health.HEAL_FAILED):
        os.unlink(health.HEAL_FAILED)


def _swap(path: str, config: Config) -> None:
    for sentence in swap.enable([m.node for m in live.glance(path) if m.ok], config):
        log.log(log.WARNING, sentence, "FAILED")


def _heal(path: str) -> int:
    """Heal, and log it; returns the number of steps. Raises PersistError and OSError."""
    uuid = btrfs.filesystem_uuid(path)
    begun: list[str] = []

    def status(step: str, text: str) -> None:
        log.notify_status(f"Healing the state volume: {text}")
        if not step:
            return
        if not begun:
            log.log(log.NOTICE, "The state volume is healed now.", "HEAL_STARTED", PERSIST_UUID=uuid)
            begun.append(step)
        log.log(log.INFO, f"Healing the state volume: {text}.", "HEAL_STEP", PERSIST_UUID=uuid, PERSIST_STEP=step)

    config = load("", [])
    count = Healer(path, config, status).heal()
    if count:
        _swap(path, config)
        whole = all(m.ok for m in live.members(path))
        message = "The state volume is whole again." if whole else "The state volume was healed as far as its disks allow."
        log.log(log.NOTICE, message, "HEAL_DONE", PERSIST_UUID=uuid)
    return count


def _heal_all() -> bool:
    """Heal until nobody has left word in the meantime: a start of this service while it runs is none. Returns whether anything was done."""
    done = 0
    while True:
        # Taken away first: what comes while we are at it leaves word again.
        if os.path.lexists(outcome.HEAL):
            os.unlink(outcome.HEAL)
        done += _heal(VOLUME)
        if not os.path.lexists(outcome.HEAL):
            return bool(done)


def heal_main() -> int:
    """Run as persist-heal.service. Exit status 1 when healing failed; the volume is in use all the same."""
    from ..state.verify_service import again as verify_again

    signal.signal(signal.SIGTERM, _stop)
    status, again = 0, True
    try:
        at = mountinfo.at(VOLUME)
        if at is None or at.fstype != "btrfs" or at.read_only:
            return 0
        with alone():
            again = _heal_all() or os.path.lexists(health.HEAL_FAILED)
            _forget_failure()
    except Stopped:
        interrupt(VOLUME, btrfs.filesystem_uuid(VOLUME))
        log.log(log.NOTICE, "Healing of the state volume was stopped and goes on at the next boot.", "HEAL_STEP", PERSIST_STEP="stopped")
        return 0
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said
        text = e.message if isinstance(e, PersistError) else f"{type(e).__name__}: {e}."
        hint = e.hint if isinstance(e, PersistError) else ""
        message = f"Healing of the state volume failed: {text}"
        log.log(log.ERR, f"{message} {hint or 'Nothing is lost; the next boot tries again.'}", "HEAL_FAILED", PERSIST_REASON="heal-failed")
        outcome.write_atomically(health.HEAL_FAILED, message + "\n")
        status = 1
    log.notify_status("The state volume is healed as far as its disks allow" if not status else "Healing failed")
    if again:
        # The verdict can be online now. Not by persist-health.service alone: while that runs, a start of it is none. But it looks again a moment later,
        # should this look have come upon something that was just being written.
        status = verify_again() or status
        run("systemctl", "--no-block", "start", "persist-health.service")
    return status
