# SPDX-License-Identifier: LGPL-2.1-or-later
"""A btrfs that bears our label and was not made by persist: it has no subvolume to mount. It is not broken,
and one command makes it a volume."""

from __future__ import annotations

import errno
import os

from persist.errors import PersistError
from persist.system import blockdev, newmount
from persist.system.btrfs import SUBVOLUMES
from persist.volume.find.decision import Found
from persist.volume.ondisk import binding

CODE = "not-a-volume"


def _subvolumes(node: str, degraded: bool) -> set[str]:
    """Which of our subvolumes are at the top. Nothing is written. Raises OSError."""
    options = f"rescue=nologreplay,subvolid=5{',degraded' if degraded else ''}"
    with newmount.nowhere("btrfs", node, options, read_only=True) as top:
        at = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return {name for name in SUBVOLUMES if _is_directory(name, at)}
        finally:
            os.close(at)


def _is_directory(name: str, at: int) -> bool:
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at))
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    return True


def is_bound(found: Found) -> bool:
    """Whether formatting noted this volume on the disk of one of its members: then it has what it needs, and
    nothing has to be looked at."""
    for node in found.members:
        try:
            noted = binding.read(blockdev.whole(blockdev.by_node(node)).node)
        except PersistError:
            continue  # it went away
        if noted is not None and noted.volume == found.uuid.lower():
            return True
    return False


def explain(found: Found, node: str, degraded: bool) -> PersistError | None:
    """Why a filesystem did not mount, where that is because it has no @persist-state; None where it is
    something else."""
    try:
        there = _subvolumes(node, degraded)
        disk = blockdev.whole(blockdev.by_node(node))
    except (PersistError, OSError):
        return None  # it does not even mount without a subvolume
    if SUBVOLUMES[0] in there:
        return None
    fields = {"PERSIST_DEVICE": found.node, "PERSIST_UUID": found.uuid}
    top = f"'mount -o subvolid=5 {node} /mnt'"
    if there or is_bound(found):
        return PersistError(
            f"The state volume on {node} does not mount: its subvolume {SUBVOLUMES[0]} is gone.",
            message_id="VOLUME_BROKEN",
            PERSIST_REASON="broken",
            hint=f"It is left as it is. See its top ({top}) for a snapshot: 'btrfs subvolume snapshot "
            f"/mnt/SNAPSHOT /mnt/{SUBVOLUMES[0]}' "
            "brings it back.",
            **fields,
        )
    anew = (
        f" Or give the disk to persist: 'persistctl claim --force {node}'; what is on it is lost."
        if node == disk.node
        else ""
    )
    return PersistError(
        f"The btrfs on {node} has no subvolume {SUBVOLUMES[0]}: it was not made by persist.",
        message_id="VOLUME_FOREIGN",
        PERSIST_REASON=CODE,
        hint=f"To make it a state volume: {top}, 'btrfs subvolume create /mnt/{SUBVOLUMES[0]}', 'umount "
        f"/mnt', and restart the machine.{anew}",
        **fields,
    )
