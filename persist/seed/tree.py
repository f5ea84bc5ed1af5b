# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in a tree: counted, listed, and watched while it is copied. Nothing here waits for a tree that does
not answer."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest

from persist.errors import PersistError
from persist.record import Record, replace

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}


class Progress(Record):
    """Who hears how far a copy is, and how long it may stand still: the boot waits for it (persist.d(5),
    SeedFrom=)."""

    status: Callable[[str], None]
    stalled: float = 180.0  # seconds without one more byte or name
    first_look: float = 2.0  # seconds


class Summary(Record, frozen=False):
    """How much there is in a tree, by name: a file with two names counts twice."""

    files: int = 0
    directories: int = 0
    others: int = 0
    bytes: int = 0
    allocated: int = 0  # on the disk; a copy elsewhere may differ

    def add(self, st: os.stat_result) -> None:
        """Count one more name."""
        if stat.S_ISREG(st.st_mode):
            self.files += 1
            self.bytes += st.st_size
            self.allocated += st.st_blocks * 512 // max(1, st.st_nlink)
        elif stat.S_ISDIR(st.st_mode):
            self.directories += 1
        else:
            self.others += 1

    def __str__(self) -> str:
        return f"{self.files} {'file' if self.files == 1 else 'files'}, {size(self.bytes)}"


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB" if count >= 1024 else f"{count} bytes"
    return f"{count / (1 << 20):.1f} MiB"


def walk(top: str, *, one_device: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Every name in a tree and the top itself (as ``""``), in an order that depends on nothing but the
    names."""
    first = os.stat(top) if top.endswith("/.") else os.lstat(top)
    todo = [("", first)]
    while todo:
        at, st = todo.pop()
        yield at, st
        if not stat.S_ISDIR(st.st_mode) or (one_device and st.st_dev != first.st_dev):
            continue
        with os.scandir(f"{top}/{at}" if at else top) as entries:
            found = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
        found.sort(key=lambda pair: os.fsencode(pair[0]), reverse=True)
        todo.extend((f"{at}/{name}" if at else name, st) for name, st in found)


def count(top: str, *, one_device: bool = False, into: Summary | None = None) -> Summary:
    """Count what is in a tree, ``into`` a summary that others may watch; what vanishes meanwhile raises
    FileNotFoundError."""
    summary = Summary() if into is None else into
    for _name, st in walk(top, one_device=one_device):
        summary.add(st)
    return summary


def manifest(top: str) -> bytes:
    """One line of JSON for each name: path, kind, mode, uid, gid, size, mtime in ns.

    No digest of the content: size and time stamp tell a changed file from one that is as it was seeded, as
    they do for rsync, and reading every byte once more would double the time of a first boot.
    """
    lines = []
    for name, st in walk(top):
        kind = _KINDS[stat.S_IFMT(st.st_mode)]
        length = st.st_size if kind in ("f", "l") else 0
        lines.append(
            json.dumps(
                [name, kind, f"{stat.S_IMODE(st.st_mode):04o}", st.st_uid, st.st_gid, length, st.st_mtime_ns]
            )
        )
    return ("\n".join(lines) + "\n").encode("ascii")


def as_in(one: str, other: str) -> bool:
    """Whether two trees have the same names, and files as a manifest tells them apart."""
    for a, b in zip_longest(walk(one), walk(other)):
        if a is None or b is None or a[0] != b[0]:
            return False
        x, y = a[1], b[1]
        if (x.st_mode, x.st_uid, x.st_gid) != (y.st_mode, y.st_uid, y.st_gid):
            return False
        # A directory has other numbers on each filesystem, and the time of the last mount point made in it.
        if not stat.S_ISDIR(x.st_mode) and (x.st_size, x.st_mtime_ns) != (y.st_size, y.st_mtime_ns):
            return False
    return True


def stalled(label: str, progress: Progress) -> PersistError:
    """The error for a source that does not answer."""
    return PersistError(
        f"Copying {label} stalled: no progress for {progress.stalled / 60:.0f} minutes.",
        message_id="SEED_FAILED",
        hint="See what is mounted there ('findmnt -T'), and in 'journalctl -k' whether its disk or server "
        "answers.",
    )


def count_in_time(top: str, label: str, progress: Progress, *, one_device: bool) -> Summary:
    """Count, as in_time()."""
    return in_time(lambda summary: count(top, one_device=one_device, into=summary), label, progress)


def in_time(work: Callable[[Summary], object], label: str, progress: Progress) -> Summary:
    """Have ``work`` count into a summary, in a thread that can be left behind: a file server that does not
    answer would hold us, and all seeds behind us.

    Raises PersistError when nothing more was found for too long, else what ``work`` raises.
    """
    summary = Summary()
    failed: list[Exception] = []

    def run() -> None:
        try:
            work(summary)
        except Exception as e:  # noqa: BLE001  # raised below
            failed.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    clock = _Clock(progress)
    while thread.is_alive():
        if clock.stands_still(replace(summary)):
            raise stalled(label, progress)
        thread.join(1.0)
    if failed:
        raise failed[0]
    return summary


class _Clock:
    """For how long nothing has changed."""

    def __init__(self, progress: Progress) -> None:
        self.last, self.limit = Summary(), progress.stalled
        self.since = time.monotonic()

    def stands_still(self, now: Summary) -> bool:
        """Whether the same was seen for too long."""
        if now != self.last:
            self.last, self.since = now, time.monotonic()
        return time.monotonic() - self.since >= self.limit


class Watch:
    """Reports every few seconds how far a long copy is, which may take a tenth of the time and not more; ends
    one that stands still."""

    def __init__(self, top: str, total: Summary, label: str, progress: Progress) -> None:
        self.top, self.total, self.label, self.progress = top, total, label, progress
        self.clock = _Clock(progress)
        self.next = time.monotonic() + progress.first_look

    def __call__(self) -> str:
        """Look, if it is time to; why the copy has to end, or ''."""
        start = time.monotonic()
        if start < self.next:
            return ""
        try:
            now = count(self.top)
        except OSError:
            # Not made yet, or a name went away under us: nothing to report this time.
            now = replace(self.clock.last)
        total = self.total
        percent = min(99, now.bytes * 100 // total.bytes) if total.bytes else 0
        self.progress.status(
            f"Copying {self.label}: {now.files} of {total.files} files, "
            f"{size(now.bytes)} of {size(total.bytes)} ({percent} %)"
        )
        self.next = time.monotonic() + max(self.progress.first_look, 10 * (time.monotonic() - start))
        return "no progress" if self.clock.stands_still(now) else ""
