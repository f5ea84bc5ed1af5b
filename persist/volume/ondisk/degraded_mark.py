# SPDX-License-Identifier: LGPL-2.1-or-later
"""The degraded mark: in whose company this member was written, and what went before. docs/volume.md has the
format and the rules.

A new one is written to all members that are mounted together whenever one is away, and at each boot of a
volume of several: one mark is one stretch of history, written by one kernel. It lies on the data partition in
front of btrfs's superblock, where btrfs writes nothing, in one sector: there whole or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from persist.record import Record
from persist.system.superblock import read_at

OFFSET = 49152
LENGTH = 512
COUNTER_MAX = 999999999
_MAGIC = b"persist-degraded "
# No zeros in front: a shell takes them for octal numbers.
_FORM = rb"persist-degraded 1 ([0-9a-f-]{36}) (0|[1-9][0-9]{0,8}) ([0-9a-f]{16}(?:,[0-9a-f]{16})*)\n\0*"
UNKNOWN = "unknown"  # the id of a mark that cannot be understood
_WHOLE, _MOUNTED = 1, 2  # bits of the kind
_AHEAD = (
    2  # commits that the kernel may make of a mounted volume while a mark goes from one member to the next
)
_FULL = 25  # earlier ids; where there are so many, the first ones may be gone


class DegradedMark(Record):
    """``uuid`` of the filesystem, its own random ``id``, and the ids of the marks that were there before,
    newest first.

    ``counter``: how many times it was mounted without a member since it was last whole, 0 where it has been
    healed. An id is 6 random digits, 1 of its kind (whether all members were there, and whether they were
    mounted), and 1 of the log and 8 of the generation of the superblocks beside it then.
    """

    uuid: str
    counter: int
    id: str
    earlier: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The sector. The oldest earlier ids are left out where it is full."""
        text = f"persist-degraded 1 {self.uuid} {self.counter} {self.id}"
        for old in self.earlier:
            if len(text) + len(old) + 2 > LENGTH:
                break
            text += f",{old}"
        return f"{text}\n".encode("ascii").ljust(LENGTH, b"\0")

    @property
    def full(self) -> bool:
        """Whether ids from before the oldest one may have been left out."""
        return len(self.earlier) >= _FULL

    def before(self) -> DegradedMark | None:
        """The mark that this one was written over."""
        return (
            DegradedMark(self.uuid, self.counter, self.earlier[0], self.earlier[1:]) if self.earlier else None
        )

    def healed(self) -> DegradedMark:
        """The same after healing."""
        return DegradedMark(self.uuid, 0, self.id, self.earlier)


def parse(data: bytes) -> DegradedMark | None:
    """The mark in a sector, None where there is none that can be understood."""
    if not data.startswith(b"persist-degraded "):
        return None  # no mark at all, as nearly always: no pattern is compiled for it
    found = re.fullmatch(_FORM, data[:LENGTH])
    if found is None:
        return None
    first, *earlier = found[3].decode("ascii").split(",")
    return DegradedMark(found[1].decode("ascii"), int(found[2]), first, tuple(earlier))


def same(one: DegradedMark | None, other: DegradedMark | None) -> bool:
    """Whether two are one mark, whatever their counters say; no mark is the same as no mark."""
    return one is other if one is None or other is None else one.id == other.id


def newest(marks: Iterable[DegradedMark | None]) -> DegradedMark | None:
    """The newest mark of members that hold the same: not all carry it where a cut came between two."""
    every = [m for m in marks if m is not None]
    last = [m for m in every if not any(m.id in other.earlier for other in every)]
    return max(last, key=lambda m: (m.counter, m.id), default=None)


def _log_digit(log_root: int) -> int:
    """0 for no log, else one of 15: enough to tell the log of a mark from none, and mostly from another."""
    return 1 + (log_root >> 12) % 15 if log_root else 0


def make_id(generation: int, log_root: int, *, whole: bool, mounted: bool = False) -> str:
    """A fresh id of a mark that is written beside superblocks of this generation and log."""
    kind = _WHOLE * whole | _MOUNTED * mounted
    return f"{os.urandom(3).hex()}{kind:x}{_log_digit(log_root):x}{generation & 0xFFFFFFFF:08x}"


def _beginning(identity: str) -> tuple[int, int]:
    return int(identity[8:], 16), int(identity[7], 16)


def begins_at(identity: str, generation: int, log_root: int) -> bool:
    """Whether a mark was written beside this very state: nothing was written under it yet."""
    return identity != UNKNOWN and _beginning(identity) == (generation & 0xFFFFFFFF, _log_digit(log_root))


def effective(mark: DegradedMark, generation: int, log_root: int) -> tuple[str, ...]:
    """The ids of the stretches that a member with this mark and superblock went through, newest first.

    Left out are those that began at a state which it never came to: it was mounted with one that was newer,
    by a superblock or a log (torn.mend(), or a disk that was pulled), and a cut came before the first
    commit. It got nothing but the mark.
    """
    found = []
    now, log = generation & 0xFFFFFFFF, _log_digit(log_root)
    for one in (mark.id, *mark.earlier):
        then = _beginning(one)
        if then[0] == now + 1 or (then[0] == now and then[1] and not log):
            continue
        found.append(one)
        now, log = then
    return tuple(found)


def nothing_since(mark: DegradedMark, generation: int, log_root: int) -> bool:
    """Whether nothing was written under a mark to what shows this."""
    return mark.id != UNKNOWN and (
        begins_at(mark.id, generation, log_root) or mark.id not in effective(mark, generation, log_root)
    )


def began_after(identity: str, generation: int, log_root: int) -> bool:
    """Whether a mark was written beside this state or a later one of the same stretch. True of nearly all ids
    of earlier versions, which say nothing."""
    then, log = _beginning(identity)
    now = generation & 0xFFFFFFFF
    if int(identity[6], 16) & _MOUNTED:
        return now <= then + _AHEAD  # written by the same kernel, before the mark was on every member
    return now < then or (now == then and (not log_root or _log_digit(log_root) == log))


def is_whole(identity: str) -> bool:
    """Whether all members were there when a mark was written."""
    return identity != UNKNOWN and bool(int(identity[6], 16) & _WHOLE)


def _line(mark: DegradedMark, generation: int, log_root: int) -> tuple[str, ...]:
    """The ids before the next mark. One that all members had, and that all of them exchanged for another and
    were written since, is nobody's any more; the oldest stays."""
    ids = (mark.id, *mark.earlier)
    real = effective(mark, generation, log_root)
    kept = []
    then = (generation & 0xFFFFFFFF, _log_digit(log_root))
    for n, one in enumerate(ids):
        written = n > 0 and ids[n - 1] in real and _beginning(ids[n - 1]) != then
        if n > 0:
            then = _beginning(ids[n - 1])
        if not (written and n < len(ids) - 1 and is_whole(one) and is_whole(ids[n - 1])):
            kept.append(one)
    return tuple(kept)


def following(
    uuid: str,
    before: DegradedMark | None,
    generation: int,
    log_root: int = 0,
    *,
    whole: bool = False,
    mounted: bool = False,
) -> DegradedMark:
    """A new mark for a filesystem that was marked ``before``, or not, and whose superblocks say this.
    ``whole``: all members are there.

    ``mounted``: the kernel goes on writing meanwhile. What it commits before the mark is on the next member
    is no reason to call that one split.
    """
    fresh = make_id(generation, log_root, whole=whole, mounted=mounted)
    counter = before.counter if before is not None else 0
    earlier = _line(before, generation, log_root) if before is not None and before.id != UNKNOWN else ()
    return DegradedMark(uuid.lower(), counter if whole else min(counter + 1, COUNTER_MAX), fresh, earlier)


def of(data: bytes, uuid: str) -> DegradedMark | None:
    """The mark in the sector of a member of this filesystem; None for none, and for one of another filesystem
    that was here before.

    One that cannot be understood is not none, which would be an ancestor of every other: its id is UNKNOWN.
    """
    found = parse(data)
    if found is None and data.startswith(_MAGIC) and f" {uuid.lower()} ".encode("ascii") in data:
        return DegradedMark(uuid.lower(), 0, UNKNOWN)
    return found if found is not None and found.uuid == uuid.lower() else None


def read(node: str, uuid: str) -> DegradedMark | None:
    """The mark of a member of this filesystem, as of() has it. Raises OSError."""
    return of(read_at(node, OFFSET, LENGTH), uuid)


def _write(node: str, data: bytes) -> None:
    # Each close of a descriptor that could write makes udev look again; nothing is written that is there
    # already.
    if read_at(node, OFFSET, LENGTH) == data:
        return
    fd = os.open(node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, data, OFFSET)
        os.fsync(fd)
    finally:
        os.close(fd)


def write(nodes: Iterable[str], mark: DegradedMark) -> None:
    """Bring a mark onto each of these members, flushed. Raises OSError."""
    for node in nodes:
        _write(node, mark.encode())


def begin(nodes: Iterable[str], mark: DegradedMark) -> None:
    """As write(), of all or none: those without it would look as if they had been away. Raises OSError."""
    before = {}
    try:
        for node in nodes:
            before[node] = read_at(node, OFFSET, LENGTH)
            _write(node, mark.encode())
    except OSError:
        restore(before)
        raise


def clear(nodes: Iterable[str], uuid: str) -> None:
    """The volume is whole again: set the counter of each mark to 0. Raises OSError.

    The ids stay. A member that was written alone once, and comes back out of a drawer with a mark, would be
    taken for the newest if these had none.
    """
    for node in nodes:
        found = read(node, uuid)
        if found is not None and found.id != UNKNOWN:
            _write(node, found.healed().encode())


def restore(sectors: Mapping[str, bytes]) -> None:
    """Write back what was there. Raises OSError."""
    for node, data in sectors.items():
        _write(node, data)
