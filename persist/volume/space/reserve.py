# SPDX-License-Identifier: LGPL-2.1-or-later
"""The space that is kept back for the moment when the volume is full.

A full btrfs takes not even a directory: overlays come up read-only on it, without a word but in the kernel's
log, and it cannot be cleaned up. So the filesystem is smaller than its partitions (layout.filesystem_bytes),
and is grown into them when nothing can be made on it any more.
"""

from __future__ import annotations

import errno
import os

from persist.boot.paths import VOLUME
from persist.note import ERR, WARNING, Note
from persist.system import blockdev, btrfs
from persist.system.run import run
from persist.system.safepath import Dir
from persist.volume.members import in_kernel
from persist.volume.ondisk import partition_table, store

_SECTOR = 4096  # sizes of btrfs are whole sectors
_ROOM = 2  # the reserve is put back where at least twice as much is free


def is_full(path: str = VOLUME) -> bool:
    """Whether nothing can be made on the volume any more: tried with a directory in its store.

    Raises OSError for any other trouble, PersistError for a store that is not ours.
    """
    name = f"room.{os.getpid()}"
    try:
        # Made where somebody cleaned up, or made the filesystem himself.
        with Dir.at(path) as volume, volume.own(store.NAME) as top, top.own("tmp") as tmp:
            os.mkdir(name, 0o700, dir_fd=tmp.fd)
            os.rmdir(name, dir_fd=tmp.fd)
    except OSError as e:
        if e.errno == errno.ENOSPC:
            return True
        if e.errno != errno.EDQUOT:  # writable.obstacle() says that one, and no reserve helps
            raise
    return False


def _whole(node: str) -> int:
    return blockdev.by_node(node).size // _SECTOR * _SECTOR


def _use(path: str, kind: str) -> None:
    """Have the kernel make a chunk of metadata or of data from what has been won, before the other kind takes
    it all.

    Raises OSError, and PersistError for a store that is not ours.
    """
    name = f"room.{os.getpid()}"
    try:
        with Dir.at(path) as volume, volume.own(store.NAME) as top, top.own("tmp") as tmp:
            if kind == "metadata":
                os.mkdir(name, 0o700, dir_fd=tmp.fd)
                os.rmdir(name, dir_fd=tmp.fd)
                return
            try:
                tmp.write(name, bytes(4096))
            finally:
                tmp.remove(name)
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise  # there was hardly anything to be won


def grow(path: str = VOLUME) -> int:
    """Let the filesystem use its partitions to their end, most of it for metadata and some for data; returns
    how many bytes it won.

    Raises PersistError and OSError.
    """
    won = 0
    for kind, quarters in (("metadata", 3), ("data", 4)):
        for device in in_kernel.glance(path):
            more = (
                (_whole(device.node) - device.size) * quarters // 4 // _SECTOR * _SECTOR
                if device.ok and device.devid
                else 0
            )
            if more > 0:
                btrfs.resize(path, device.devid, device.size + more)
                won += more
        _use(path, kind)
    return won


def make_room(uuid: str, path: str = VOLUME) -> Note:
    """A volume that is full gets its reserve; what came of it. Raises PersistError and OSError."""
    won = grow(path)
    hint = "Remove what is not needed, or give it another disk with 'persistctl claim --join'."
    kept_back = is_kept_back(path)
    if won:
        what = ", its reserve" if kept_back else " to the end of its disk"
        return Note(
            WARNING,
            f"The state volume is full and was grown by {won >> 20} MiB{what}. {hint}",
            "SPACE_RESERVE",
            {"PERSIST_UUID": uuid},
        )
    what = ", and its reserve is used up" if kept_back else ""
    return Note(
        ERR,
        f"The state volume is full{what}. {hint}",
        "SPACE_LOW",
        {"PERSIST_UUID": uuid, "PERSIST_REASON": "full"},
    )


def is_kept_back(path: str = VOLUME) -> bool:
    """Whether the volume has a reserve at all: those that persist made, which have a record. No reserve is no
    reserve. Raises OSError."""
    return bool(store.read_record(path))


def in_use(path: str = VOLUME) -> int:
    """How many bytes of the reserve the filesystem has now, 0 where it never had one. Raises OSError and
    PersistError."""
    if not is_kept_back(path):
        return 0
    return sum(
        max(0, d.size - partition_table.filesystem_bytes(_whole(d.node)))
        for d in in_kernel.glance(path)
        if d.ok and d.devid
    )


def _shrink(path: str, devid: int, size: int) -> bool:
    """Make a device smaller; False where what lies at its end has no other place. Raises PersistError and
    OSError."""
    for usage in (0, 20, 50):
        # Chunks of data stay when what was in them is removed. Empty ones cost nothing to give back, and
        # nearly empty ones little.
        run("btrfs", "balance", "start", f"-dusage={usage}", path, ok=(0, 1), timeout=None)
        try:
            btrfs.resize(path, devid, size)
            return True
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
    return False


def spendable(path: str = VOLUME) -> list[tuple[int, int, int]]:
    """The devices whose reserve is in use although there is room to put it back: devid, size to come back to,
    and bytes. Raises PersistError, OSError."""
    found: list[tuple[int, int, int]] = []
    if not is_kept_back(path):
        return found
    space = os.statvfs(path)
    for device in in_kernel.glance(path):
        if device.ok and device.devid:
            wanted = partition_table.filesystem_bytes(_whole(device.node))
            reserve = device.size - wanted
            if reserve > 0 and _ROOM * reserve <= space.f_bavail * space.f_frsize:
                found.append((device.devid, wanted, reserve))
    return found


def shrink_back(path: str = VOLUME) -> int:
    """Put the reserve back where there is room for it; returns how many bytes. Raises PersistError and
    OSError."""
    return sum(reserve for devid, wanted, reserve in spendable(path) if _shrink(path, devid, wanted))
