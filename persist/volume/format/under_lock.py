# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take claimed disks under their locks, look at each again, and make a volume of them. format/steps.py has
the steps, format/disk_set.py the choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from persist.boot.config import Config
from persist.errors import PersistError, Refusal
from persist.system import blockdev, udevd
from persist.system.blockdev import Disk
from persist.system.parallel import attempt
from persist.volume.format import disk_set, may_format
from persist.volume.format.disk_set import Claimed, Picked
from persist.volume.format.locked_disk import LockedDisk
from persist.volume.format.may_format import Progress
from persist.volume.format.steps import Formatted, Formatting, OnStep, require_tools
from persist.volume.ondisk.header import Claim, FormatMark

Refuse = Callable[[Disk, Refusal], None]


@contextmanager
def locked(disks: list[Disk], timeout: float = blockdev.LOCK_TIMEOUT) -> Iterator[dict[str, int]]:
    """The locks of these disks, as read-only descriptors by their places in sysfs; udev leaves the disks
    alone meanwhile.

    Waits ``timeout`` seconds for each. Read-only until a disk is really taken: udev looks again after each
    close of a descriptor that could write. Raises PersistError and OSError.
    """
    with ExitStack() as stack:
        found: dict[str, int] = {}
        for disk in sorted(disks, key=lambda d: d.sys_path):
            fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)  # and with it the lock
            if blockdev.by_number(os.fstat(fd).st_rdev) != disk:
                raise PersistError(
                    f"{disk.node} is another disk now.",
                    hint="It was exchanged; the new one is looked at when udev reports it.",
                )
            blockdev.lock(fd, disk.node, timeout)
            found[disk.sys_path] = fd
        yield found


def trigger(disks: list[Disk]) -> None:
    """Have udev look at these disks and their partitions, once their locks are released. Raises
    CommandError."""
    udevd.trigger(*(node for d in disks for node in (d.node, *(p.node for p in blockdev.partitions(d)))))


def raise_refusal(disk: Disk, refusal: Refusal) -> None:
    """What is done about a disk that is refused, where nothing else is asked for."""
    raise refusal


class _Seen:
    """A claimed disk that was looked at under its lock."""

    def __init__(
        self, disk: Disk, claim: Claim, on_disk: FormatMark | None, progress: Progress, mark: FormatMark
    ) -> None:
        self.disk, self.claim, self.on_disk, self.progress, self.mark = disk, claim, on_disk, progress, mark


def _look(disks: list[Disk], config: Config, blank: bool, refuse: Refuse) -> list[_Seen]:
    """What is on the disks now, without those that are refused, and those that have lost their claim
    since."""

    def one(disk: Disk) -> _Seen | None:
        claim = may_format.read_claim(disk, config.magic_headers)
        if claim is None and not blank:
            return None
        progress, mark = may_format.check(disk, claim, config, len(disks))
        return _Seen(
            disk, claim or Claim(config.magic_headers[0]), claim.mark if claim else None, progress, mark
        )

    found = []
    for disk, seen in zip(disks, attempt(one, disks), strict=True):
        if isinstance(seen, Refusal):
            refuse(disk, seen)
        elif isinstance(seen, Exception):
            raise seen
        elif seen is not None:
            found.append(seen)
    return found


def format_disks(
    disks: list[Disk],
    config: Config,
    on_step: OnStep,
    *,
    refuse: Refuse = raise_refusal,
    alone: Callable[[Picked], None] | None = None,
    there: Callable[[Claimed], bool] = lambda claimed: False,
    blank: bool = False,
) -> Formatted | None:
    """Make one volume of claimed disks, or go on where it was left; None where no disk (or none that may) is
    left to do it with.

    ``refuse(disk, refusal)`` is called for a disk that must not be formatted; the others go on without it.
    ``alone`` raises Refusal where this set must not become a volume. ``there`` is as for disk_set.pick(),
    beside what is on the disks themselves. ``blank``: without a claim a disk that is blank from its first
    byte is taken too. ``on_step(step, nodes, text)`` is called as each step begins. Which disks were used is
    in the result.

    Raises Refusal (nothing was changed), PersistError and OSError; after those the claims are still there,
    and the next start goes on.
    """
    require_tools()
    with locked(disks) as locks:
        seen = _look(disks, config, blank, refuse)
        if not seen:
            return None
        at = {s.disk.sys_path: s for s in seen}
        picked = disk_set.pick(
            [(s.disk, s.claim) for s in seen], lambda c: at[c[0].sys_path].progress == "complete" or there(c)
        )
        if alone is not None:
            alone(picked)
        disk_set.check_enough(picked)
        marks = {path: s.mark for path, s in at.items()}
        wanted = (
            [marks[d.sys_path] for d, _ in picked.disks]
            if picked.complete
            else disk_set.places(picked, marks)
        )
        members = []
        for (disk, claim), mark in zip(picked.disks, wanted, strict=True):
            one = at[disk.sys_path]
            members.append(
                LockedDisk(disk, locks[disk.sys_path], one.on_disk, mark, one.progress, claim.word)
            )
        done = Formatting(members, on_step).all(picked.complete)
    trigger(list(done.disks))
    return done
