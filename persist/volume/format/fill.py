# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a new filesystem of ours is filled with, by ioctls on its mounted top: a process for each would cost
more than all of them do."""

from __future__ import annotations

import os

from persist.system.btrfs import SUBVOLUMES, ioctl, named, sync
from persist.volume.ondisk import store

_SUBVOL_CREATE, _SET_LABEL = (
    0x5000940E,
    0x41009432,
)  # linux/btrfs.h; struct btrfs_ioctl_vol_args, and 256 bytes


def subvolumes(path: str, uuid: str, members: list[str], swap: list[str], profile: str) -> None:
    """Make the subvolumes, the store and volume.json, and commit them. Raises OSError."""
    for name in SUBVOLUMES:
        ioctl(path, _SUBVOL_CREATE, named(name))
        os.chmod(f"{path}/{name}", 0o700)  # see private.py
    state = f"{path}/{SUBVOLUMES[0]}"
    store.make(state)
    store.write_record(state, store.record(uuid, members, swap) | {"profile": profile})
    sync(path)


def label(path: str, text: str) -> None:
    """Label the filesystem. The kernel commits a transaction with the label. Raises OSError."""
    ioctl(path, _SET_LABEL, bytearray(text.encode("ascii").ljust(256, b"\0")))
