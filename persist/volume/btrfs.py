# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the formatter and the volume service both know of our btrfs."""

from __future__ import annotations

import fcntl
import os

SUBVOLUMES = ("@persist-state", "@persist-data", "@persist-state-snapshots")
_FS_INFO = 0x8400941F  # BTRFS_IOC_FS_INFO of linux/btrfs.h: two 64-bit numbers, then the UUID


def filesystem_uuid(path: str) -> str:
    """The UUID of the btrfs that is mounted at a path. Raises OSError, also for another filesystem."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        text = fcntl.ioctl(fd, _FS_INFO, bytes(1024))[16:32].hex()
    finally:
        os.close(fd)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
