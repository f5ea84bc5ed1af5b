# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a new filesystem of ours is filled with, by ioctls on its mounted top: a process for each would cost more than all of them do."""

from __future__ import annotations

import fcntl
import os
import struct

from . import store
from .btrfs import SUBVOLUMES, sync

_SUBVOL_CREATE, _RESIZE = 0x5000940E, 0x50009403  # linux/btrfs.h; struct btrfs_ioctl_vol_args: a number and a name
_SET_LABEL = 0x41009432  # 256 bytes


def _ioctl(path: str, request: int, argument: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, bytearray(argument))
    finally:
        os.close(fd)


def _arguments(name: str) -> bytes:
    return struct.pack("<q4088s", 0, name.encode("ascii"))


def resize(path: str, devid: int, size: int) -> None:
    """Let one device of the filesystem use so many bytes of its partition. Raises OSError."""
    _ioctl(path, _RESIZE, _arguments(f"{devid}:{size}"))


def subvolumes(path: str, uuid: str, members: list[str], swap: list[str], profile: str) -> None:
    """Make the subvolumes, the store and volume.json, and commit them. Raises OSError."""
    for name in SUBVOLUMES:
        _ioctl(path, _SUBVOL_CREATE, _arguments(name))
        os.chmod(f"{path}/{name}", 0o755)
    state = f"{path}/{SUBVOLUMES[0]}"
    store.make(state)
    store.write_record(state, store.record(uuid, members, swap) | {"profile": profile})
    sync(path)


def label(path: str, text: str) -> None:
    """Label the filesystem. The kernel commits a transaction with the label. Raises OSError."""
    _ioctl(path, _SET_LABEL, text.encode("ascii").ljust(256, b"\0"))
