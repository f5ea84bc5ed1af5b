# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-health.service: hourly, and when udev says that a member went or came. Marks, makes room, starts the healer, makes the verdict anew."""

from __future__ import annotations

import os
import time

from .. import log
from ..boot.config import Config, load
from ..boot.paths import RUN, VOLUME
from ..errors import PersistError
from . import btrfs, degraded, healplan, healstate, health, live, mountinfo, outcome, reserve, resize
from .degraded import Mark
from .heal_service import alone
from .live import Live

GONE = f"{RUN}/members-gone"  # a mark, and the devids that it was written for
_PATIENCE = 3300  # seconds before what failed is tried again: the healer starts this service when it ends
_CLEANER = 35.0  # seconds; the kernel drops chunks that got empty with each commit, every 30
_SETTLE = 2.0  # seconds between two looks: a disk that is pulled and put back makes several events, and one start


def _shown(mark: Mark | None) -> str:
    # Healed, it has the same id and another counter: it is not for the next one that goes.
    return f"{mark.uuid} {mark.id} {mark.counter}" if mark is not None else ""


def _noted(mark: Mark | None) -> set[int]:
    try:
        with open(GONE, encoding="ascii") as f:
            first, _, second = f.read().partition("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    return {int(w) for w in second.strip().split(" ") if w.isascii() and w.isdigit()} if first == _shown(mark) else set()


def mark_lost(uuid: str, devices: list[Live]) -> list[Live]:
    """Mark those that are left, at once, for members that went away since the mount; returns those. Raises OSError.

    Without a mark such a member would be told from the others by its generation alone, which a NOCOW file does not change.
    """
    lost = [m for m in devices if m.devid and m.state in ("lost", "behind")]
    left = [m.node for m in devices if m.ok and m.devid]
    head = live.head(devices)
    noted = _noted(head)
    fresh = [m for m in lost if m.devid not in noted]
    if fresh and left:
        mark = degraded.following(uuid, head)
        degraded.write(left, mark)
        outcome.write_atomically(GONE, f"{_shown(mark)}\n{' '.join(str(m.devid) for m in lost)}\n")
    return fresh if left else []


def _say(uuid: str, lost: list[Live]) -> None:
    for m in lost:
        log.log(log.WARNING, f"{m.node} of the state volume went away while it was in use. The volume goes on with the others.", "MEMBER_LOST",
                PERSIST_DEVICE=m.node, PERSIST_UUID=uuid, PERSIST_REASON=f"member-{m.state}")


def _room(uuid: str, path: str) -> None:
    """A full volume is grown, a grown one is shrunk, and one whose disk grew follows it. Raises PersistError and OSError."""
    for grown in resize.follow(path):
        log.log(log.NOTICE, f"The state volume uses {grown.after >> 20} MiB of {grown.node} now, which has grown.", "VOLUME_RESIZED",
                PERSIST_DEVICE=grown.node, PERSIST_UUID=uuid)
    if reserve.is_full(path):
        reserve.make_room(uuid, path)
        return
    reserve.say_reopened()
    put_back = reserve.shrink_back(path)
    if not put_back and reserve.spendable(path):
        time.sleep(_CLEANER)  # what was removed a moment ago is given back by then
        put_back = reserve.shrink_back(path)
    if put_back:
        log.log(log.NOTICE, f"There is room on the state volume again; its reserve of {put_back >> 20} MiB was put back.", "VOLUME_RESIZED", PERSIST_UUID=uuid)


def check(path: str, config: Config) -> bool:
    """One round; returns whether there is something for the healer. Raises PersistError and OSError."""
    uuid = btrfs.filesystem_uuid(path)
    _say(uuid, mark_lost(uuid, live.members(path)))
    with alone(wait=False) as ours:
        # Who has the lock will resize or balance too, and the kernel does one of these at a time.
        if ours and (btrfs.attribute(uuid, "exclusive_operation") or "none") == "none":
            _room(uuid, path)
    return healplan.next_step(healstate.gather(path, config)[0]) is not None


def failed_lately() -> bool:
    """Whether healing failed within the hour."""
    try:
        return time.time() - os.stat(health.HEAL_FAILED).st_mtime < _PATIENCE
    except FileNotFoundError:
        return False


def _picture(path: str) -> list[tuple[int, str, str]]:
    return [(m.devid, m.node, m.state) for m in live.members(path)]


def health_main() -> int:
    """Run as persist-health.service. Exit status 1 after what should not happen; the verdict is made in any case."""
    from ..state.verify_service import again

    status = 0
    try:
        at = mountinfo.at(VOLUME)
        if at is not None and at.fstype == "btrfs" and not at.read_only:
            config = load("", [])
            while True:
                before = _picture(VOLUME)
                heal = check(VOLUME, config)
                time.sleep(_SETTLE)
                if _picture(VOLUME) == before:
                    break
            if heal and not failed_lately():
                outcome.note_heal()  # again() starts the healer
    except PersistError as e:
        log.log_error(e)
        status = 1
    except Exception as e:  # noqa: BLE001  # whatever it is, it is said, and the verdict is made
        log.log(log.ERR, f"The health of the state volume could not be looked after: {type(e).__name__}: {e}.", "FAILED", PERSIST_REASON="health")
        status = 1
    return again() or status


