# SPDX-License-Identifier: LGPL-2.1-or-later
"""The degraded mark: who wrote to this member while another was away. docs/volume.md has the format and the rules.

It lies on the data partition in front of btrfs's superblock, where btrfs writes nothing, in one sector: there whole or not at all.
packaging/initramfs-tools/persist-early reads and writes the same in shell.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ..record import Record
from .superblock import read_at

OFFSET = 49152
LENGTH = 512
_FORM = rb"persist-degraded 1 ([0-9a-f-]{36}) (\d{1,9}) ([0-9a-f]{16}(?:,[0-9a-f]{16})*)\n\0*"


class Mark(Record):
    """``uuid`` of the filesystem, its own random ``id``, and the ids of the marks that were there before, newest first.

    ``counter``: how many times it was mounted without a member since it was last whole, 0 where it has been healed.
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

    def healed(self) -> Mark:
        """The same after healing."""
        return Mark(self.uuid, 0, self.id, self.earlier)


def parse(data: bytes) -> Mark | None:
    """The mark in a sector, None where there is none that can be understood."""
    found = re.fullmatch(_FORM, data[:LENGTH])
    if found is None:
        return None
    first, *earlier = found[3].decode("ascii").split(",")
    return Mark(found[1].decode("ascii"), int(found[2]), first, tuple(earlier))


def following(uuid: str, before: Mark | None) -> Mark:
    """A new mark for a filesystem that was marked ``before``, or not."""
    fresh = os.urandom(8).hex()
    return Mark(uuid.lower(), 1, fresh) if before is None else Mark(uuid.lower(), before.counter + 1, fresh, (before.id, *before.earlier))


def read(node: str, uuid: str) -> Mark | None:
    """The mark of a member of this filesystem; None for none, and for one of another filesystem that was here before. Raises OSError."""
    found = parse(read_at(node, OFFSET, LENGTH))
    return found if found is not None and found.uuid == uuid.lower() else None


def _write(node: str, data: bytes) -> None:
    # Each close of a descriptor that could write makes udev look again; nothing is written that is there already.
    if read_at(node, OFFSET, LENGTH) == data:
        return
    fd = os.open(node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, data, OFFSET)
        os.fsync(fd)
    finally:
        os.close(fd)


def write(nodes: Iterable[str], mark: Mark) -> None:
    """Bring a mark onto each of these members, flushed. Raises OSError."""
    for node in nodes:
        _write(node, mark.encode())


def clear(nodes: Iterable[str], uuid: str) -> None:
    """The volume is whole again: set the counter of each mark to 0. Raises OSError.

    The ids stay. A member that was written alone once, and comes back out of a drawer with a mark, would be taken for the newest if these had none.
    """
    for node in nodes:
        found = read(node, uuid)
        if found is not None:
            _write(node, found.healed().encode())


def restore(sectors: Mapping[str, bytes]) -> None:
    """Write back what was there. Raises OSError."""
    for node, data in sectors.items():
        _write(node, data)
