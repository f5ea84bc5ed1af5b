# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume follows a disk or a partition that has grown: the backup of the table moves to the end, our data
partition, which is the last one, is extended, and then the filesystem, but for its reserve. Smaller it never
gets."""

from __future__ import annotations

import os

from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.record import Record
from persist.system import blockdev, btrfs, udevd
from persist.system.blockdev import Disk
from persist.system.run import run
from persist.volume.members import in_kernel
from persist.volume.ondisk import partition_table
from persist.volume.space import reserve

_SLACK = (
    2 * partition_table.MIB
)  # more than this behind the last partition and its backup table is a disk that grew
_SECTOR = 512  # of sysfs


class Grown(Record):
    """What one member won: its node, and the old and new size of the filesystem on it in bytes."""

    node: str
    before: int
    after: int


def _end(part: Disk) -> int:
    return int(blockdev.attribute(part.sys_path, "start") or "0") * _SECTOR + part.size


def tail(part: Disk) -> int:
    """Bytes behind a partition that it could be extended by; 0 where another partition follows, and for a
    whole disk."""
    if not part.is_partition:
        return 0
    disk = blockdev.whole(part)
    if any(_end(p) > _end(part) for p in blockdev.partitions(disk)):
        return 0
    left = (disk.size // partition_table.MIB - partition_table.LAST) * partition_table.MIB - _end(part)
    return left if left >= _SLACK else 0


def _extend(part: Disk) -> None:
    """Extend the last partition of a disk to its end. Raises PersistError and OSError."""
    if blockdev.probe(part.node).get("PART_ENTRY_NAME") != partition_table.DATA_NAME:
        return  # somebody else made it, and may have left that room on purpose
    disk = blockdev.whole(part)
    fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        blockdev.lock(fd, disk.node)
        size = (part.size + tail(part)) // _SECTOR
        block = int(blockdev.attribute(disk.sys_path, "queue/logical_block_size") or str(_SECTOR))
        # sfdisk(8) moves the backup table to the end of the disk where it writes at all.
        run(
            "sfdisk",
            "--quiet",
            "--no-reread",
            "--no-tell-kernel",
            "--force",
            "--wipe",
            "never",
            "--wipe-partitions",
            "never",
            "-N",
            blockdev.attribute(part.sys_path, "partition"),
            disk.node,
            stdin=f"size={size * _SECTOR // block}\n",
        )
        os.fsync(fd)
        run("partx", "--update", disk.node)
    finally:
        os.close(fd)
    udevd.trigger(disk.node)


def follow(path: str = VOLUME) -> list[Grown]:
    """Grow what can be grown; looks only, in sysfs, where nothing can. Raises PersistError and OSError."""
    grown = []
    for device in in_kernel.glance(path):
        if not device.ok or not device.devid:
            continue
        part = blockdev.by_node(device.node)
        if tail(part):
            _extend(part)
            part = blockdev.by_node(device.node)
        wanted = partition_table.filesystem_bytes(part.size)
        if wanted > device.size:
            btrfs.resize(path, device.devid, wanted)
            grown.append(Grown(device.node, device.size, wanted))
    return grown


def why_not(path: str = VOLUME) -> str:
    """A sentence for a volume that has nothing to grow into."""
    nodes = [d.node for d in in_kernel.glance(path) if d.ok and d.devid]
    if not nodes:
        raise PersistError(f"Failed to read any member of the volume at {path}.")
    return (
        f"{' and '.join(nodes)} {'is' if len(nodes) == 1 else 'are'} used to the "
        f"end{', but for the reserve' if reserve.is_kept_back(path) else ''}."
    )
