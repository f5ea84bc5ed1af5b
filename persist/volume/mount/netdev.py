# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mounts of a volume that comes with the network (``_netdev``): at shutdown the network must stay until they
have gone, or what is not written is lost.

PID 1 sees to that for a mount of which libmount has noted ``_netdev`` (systemd.mount(5)); any other one
without a fragment is ordered before local-fs.target, which would be a cycle. A drop-in does not do: PID 1
reads none for a mount that another unit has named before it was there.
"""

from __future__ import annotations

from persist.boot.paths import VOLUME
from persist.errors import CommandError
from persist.note import WARNING, Note
from persist.system import mountinfo
from persist.system.run import run

# What fstab-generator's mounts have, for a unit without default dependencies.
ORDER = ("remote-fs-pre.target", "network.target", "network-online.target")


def note(path: str) -> list[Note]:
    """Have libmount note that the mount at ``path`` needs the network; its other options stay. A failure is
    returned only."""
    try:
        run("mount", "-o", "remount,bind,_netdev", path)
        return []
    except CommandError as e:
        message = f"Failed to note that {path} needs the network, which may be stopped before it: {e.message}"
        return [Note(WARNING, message, "FAILED", {"PERSIST_PATH": path})]


def note_all() -> list[Note]:
    """Note it of the volume and of all that is bound from it; a filesystem that PID 1 has mounted itself is
    ordered by its unit. Returns what failed. Raises OSError."""
    volume = mountinfo.at(VOLUME)
    if volume is None:
        return []
    return [
        failed
        for mount in mountinfo.mounts()
        if mount.device == volume.device and (mount.mount_point != VOLUME or volume.fstype == "btrfs")
        for failed in note(mount.mount_point)
    ]
