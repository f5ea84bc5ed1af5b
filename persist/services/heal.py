# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-heal.service: look at the mounted volume, mark, make room, heal, and have the verdict made anew.
What the library raises is logged here.

The loop is in heal/loop.py. The service is started by persist-heal.path where somebody has left word, and
hourly by its timer.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from persist import log
from persist.boot.config import Config
from persist.boot.paths import BOOTED, VOLUME
from persist.entries import reopen
from persist.errors import PersistError
from persist.services.running import running
from persist.system import btrfs, mountinfo
from persist.system.files import write_atomically
from persist.system.run import run
from persist.volume import outcome
from persist.volume.heal import health, recorded
from persist.volume.heal.healer import Healer
from persist.volume.heal.lock import heal_lock
from persist.volume.heal.loop import Act, work
from persist.volume.members import in_kernel, lost
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.mount import swap
from persist.volume.space import follow_disk, reserve

_PATIENCE = (
    3300.0  # seconds before a step that failed is tried again with the same disks: less than the timer's hour
)
_CLEANER = 35  # seconds; the kernel drops chunks that got empty with each commit, every 30


class Stopped(BaseException):
    """Somebody asked us to stop (SIGTERM): the machine shuts down. Nobody takes it for an error of what was
    being done."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def interrupt(path: str, uuid: str) -> None:
    """End what the kernel does for us, so that a shutdown need not wait for it: the next start begins where
    the data is. Raises CommandError."""
    operation = btrfs.attribute(uuid, "exclusive_operation")
    if operation == "device replace":
        run("btrfs", "replace", "cancel", path, ok=(0, 1, 2))
    elif operation == "balance":
        run("btrfs", "balance", "pause", path, ok=(0, 1, 2))


def failed_with(picture: str) -> bool:
    """Whether healing failed within the hour, and had this picture of the disks. Raises OSError."""
    try:
        with open(health.HEAL_FAILED, encoding="utf-8") as f:
            age = time.time() - os.fstat(f.fileno()).st_mtime
            return f.read().partition("\n")[2].strip() == picture and age < _PATIENCE
    except FileNotFoundError:
        return False


def _forget_failure() -> None:
    if os.path.lexists(health.HEAL_FAILED):
        os.unlink(health.HEAL_FAILED)


def _swap(path: str, config: Config) -> None:
    for note in swap.enable([m.node for m in in_kernel.glance(path) if m.ok], config):
        log.say(note)


class Round:
    """The looks and steps of one run of the service on the volume at ``path``.

    ``ours``: the lock is held; else somebody changes the volume by hand, and will leave word. ``patient``: a
    step that failed lately is not tried again.
    """

    def __init__(
        self, path: str, config: Config, verdict: Callable[[], int], *, ours: bool, patient: bool
    ) -> None:
        self.path = path
        self.config = config
        self.uuid = btrfs.filesystem_uuid(path)
        self.healer = Healer(path, config, log.say, self._status, self._watch)
        self.ours = ours
        self.patient = patient
        self.status = 0  # the exit status of the last verdict
        self._verdict = verdict
        self._steps = 0  # since it was last said that healing began

    def _status(self, step: str, text: str) -> None:
        log.notify_status(f"Healing the state volume: {text}")
        if not step:
            return
        if not self._steps:
            log.log(log.NOTICE, "The state volume is healed now.", "HEAL_STARTED", PERSIST_UUID=self.uuid)
        self._steps += 1
        log.log(
            log.INFO,
            f"Healing the state volume: {text}.",
            "HEAL_STEP",
            PERSIST_UUID=self.uuid,
            PERSIST_STEP=step,
        )

    def _say_lost(self, gone: list[LiveDevice]) -> None:
        for m in gone:
            log.log(
                log.WARNING,
                f"{m.node} of the state volume went away while it was in use. The volume goes on with the "
                "others.",
                "MEMBER_LOST",
                PERSIST_DEVICE=m.node,
                PERSIST_UUID=self.uuid,
                PERSIST_REASON=f"member-{m.state}",
            )

    def _watch(self, gone: list[LiveDevice]) -> None:
        """While a step takes long: what happens to the volume is in the verdict all the same. After the step
        it is looked at again in any case."""
        self._say_lost(gone)
        if outcome.take_heal() or gone:
            self.verdict()

    def verdict(self) -> None:
        """Have the verdict made anew."""
        self.status = self._verdict()

    def _busy(self) -> bool:
        return (btrfs.attribute(self.uuid, "exclusive_operation") or "none") != "none"

    def _make_room(self) -> None:
        """A full volume is grown, and one whose disk grew follows it. Raises PersistError and OSError."""
        for grown in follow_disk.follow(self.path):
            log.log(
                log.NOTICE,
                f"The state volume uses {grown.after >> 20} MiB of {grown.node} now, which has grown.",
                "VOLUME_RESIZED",
                PERSIST_DEVICE=grown.node,
                PERSIST_UUID=self.uuid,
            )
        if reserve.is_full(self.path):
            log.say(reserve.make_room(self.uuid, self.path))
        for note in reopen.reopened():
            log.say(note)

    def _put_back(self) -> None:
        """Where there is room, what is to be noted is noted, and the reserve is put back. Raises PersistError
        and OSError."""
        if reserve.is_full(self.path):
            return
        recorded.note_serials(self.path)
        put_back = reserve.shrink_back(self.path)
        if not put_back and reserve.spendable(self.path):
            # What was removed a moment ago is given back by then. Word comes first: a member may have gone.
            for _ in range(_CLEANER):
                if outcome.heal_noted():
                    return
                time.sleep(1)
            put_back = reserve.shrink_back(self.path)
        if put_back:
            log.log(
                log.NOTICE,
                f"There is room on the state volume again; its reserve of {put_back >> 20} MiB was put back.",
                "VOLUME_RESIZED",
                PERSIST_UUID=self.uuid,
            )

    def _done(self) -> None:
        if self._steps:
            _swap(self.path, self.config)
            whole = all(m.ok for m in in_kernel.members(self.path))
            message = (
                "The state volume is whole again."
                if whole
                else "The state volume was healed as far as its disks allow."
            )
            log.log(log.NOTICE, message, "HEAL_DONE", PERSIST_UUID=self.uuid)
            self._steps = 0

    def look(self) -> Act | None:
        """Mark, make room, and return what is to be done next. Raises PersistError and OSError."""
        devices = in_kernel.settled(self.path, log.say)
        self._say_lost(lost.were_in_use(lost.mark_lost(self.uuid, devices), devices))
        if all(m.ok for m in devices):
            if in_kernel.head(devices) is None:
                in_kernel.begin(self.path)  # an earlier version mounted it, and wrote none
            else:
                in_kernel.level(devices)  # somebody may have replaced or added a disk by hand
                if not self._busy():
                    in_kernel.begin_whole(self.path)
        if not self.ours:
            return None
        if not self._busy():
            # The kernel does one of resize, balance, replace at a time.
            self._make_room()
        step = self.healer.next()
        if step is None:
            self._put_back()
            self._done()
            _forget_failure()
            return None
        if self.patient and failed_with(self.healer.picture()):
            return None
        _forget_failure()
        return lambda: self.healer.do(step)


def _note_failure(e: Exception, picture: str) -> None:
    text = e.message if isinstance(e, PersistError) else f"{type(e).__name__}: {e}."
    hint = e.hint if isinstance(e, PersistError) else ""
    message = f"Healing of the state volume failed: {text}"
    log.log(
        log.ERR,
        f"{message} {hint or 'Nothing is lost; it is tried again within the hour.'}",
        "HEAL_FAILED",
        PERSIST_REASON="heal-failed",
    )
    write_atomically(health.HEAL_FAILED, f"{message}\n{picture}\n")


def _run(asked: bool, verdict: Callable[[], int]) -> int:
    """One run on a volume that is mounted writable; exit status 1 when healing failed. ``asked``: by word,
    and neither hourly nor by hand."""
    this: Round | None = None
    try:
        with heal_lock(wait=False) as ours:
            this = Round(VOLUME, running().config, verdict, ours=ours, patient=asked)
            work(outcome.take_heal, outcome.heal_noted, this.look, this.verdict)
        log.notify_status("The state volume is healed as far as its disks allow")
        return this.status
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said
        _note_failure(e, this.healer.picture() if this is not None else "")
        log.notify_status("Healing failed")
        verdict()
        return 1


def serve(verdict: Callable[[], int]) -> int:
    """As heal_main(); ``verdict`` makes it anew, and returns an exit status."""
    signal.signal(signal.SIGTERM, _stop)
    # First of all, whatever comes of it: word that stays would start this service again and again.
    asked = outcome.take_heal()
    if not os.path.exists(BOOTED):
        return 0  # the verdict at the end of the boot looks at the volume
    at = mountinfo.at(VOLUME)
    try:
        if at is None or at.fstype != "btrfs" or at.read_only:
            return verdict() if at is not None else 0
        return _run(asked, verdict)
    except Stopped:
        if at is not None and at.fstype == "btrfs":
            interrupt(VOLUME, btrfs.filesystem_uuid(VOLUME))
        log.log(
            log.NOTICE,
            "Healing of the state volume was stopped; it goes on within the hour, or at the next boot.",
            "HEAL_STEP",
            PERSIST_STEP="stopped",
        )
        return 0


def heal_main() -> int:
    """Run as persist-heal.service. Exit status 1 when healing failed, or the verdict could not be made; the
    volume is in use all the same."""
    from persist.verdict.announce import again

    return serve(again)
