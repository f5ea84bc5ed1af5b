# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take away what makes a disk a member of a volume, so that it can become one anew. The one place where
healing destroys anything.

Between the look that chose a disk and this the disk may have been exchanged for another with the same name,
mounted, or written. So all is looked at again through the very descriptor that is written to, which the
kernel gives to one user at a time.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from persist.errors import PersistError
from persist.system import blockdev, superblock
from persist.volume.members.ancestry import Member
from persist.volume.ondisk import degraded_mark

_PATIENCE = 5.0  # seconds; a kernel before 6.4 takes a device for itself while udev has it looked at


def _open(node: str) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.open(node, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            if time.monotonic() > deadline:
                raise PersistError(
                    f"Refusing to erase {node}: it is in use by the kernel.",
                    hint="See 'lsblk' and 'persistctl volume show'.",
                    PERSIST_DEVICE=node,
                ) from e
            time.sleep(0.1)


def _foreign(node: str, raw: bytes, uuid: str) -> bool:
    """Whether a device holds what nobody asked for: a superblock of another filesystem, or any other
    signature."""
    if raw[superblock.MAGIC_AT : superblock.MAGIC_AT + len(superblock.MAGIC)] == superblock.MAGIC:
        return superblock.fsid(raw) != uuid  # one that was erased by half is still ours to erase
    return "TYPE" in blockdev.probe(node)


def erase(node: str, uuid: str, split: Callable[[Member], bool]) -> None:
    """Erase the superblock of a former member of this filesystem; nothing where there is none.

    Raises PersistError, and has touched nothing, where the device is in use, holds something else, or
    ``split`` says that the member holds what no other has; OSError where it cannot be written.
    """
    fd = _open(node)
    try:
        raw = os.pread(fd, superblock.SIZE, superblock.OFFSET)
        if _foreign(node, raw, uuid):
            raise PersistError(
                f"Refusing to erase {node}: it holds something else now.",
                hint="Was it exchanged? See 'blkid -p'.",
                PERSIST_DEVICE=node,
            )
        found = superblock.parse(raw)
        mark = degraded_mark.of(os.pread(fd, degraded_mark.LENGTH, degraded_mark.OFFSET), uuid)
        if found is not None and split(Member(node, found, mark)):
            raise PersistError(
                f"Refusing to erase {node}: it was written alone since.",
                hint="See 'persistctl volume show'.",
                PERSIST_DEVICE=node,
            )
        if raw.strip(b"\0"):
            os.pwrite(fd, bytes(len(raw)), superblock.OFFSET)
            os.fsync(fd)
    finally:
        os.close(fd)
