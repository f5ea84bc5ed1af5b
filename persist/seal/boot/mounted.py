# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which mounts of a machine are its image's, by mountinfo and not by fstab: what a native mount unit has put
on /var is as much of the image, and an empty directory there would be sealed with success. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from persist.boot.ini import words
from persist.boot.paths import MOUNT_ENTRIES, RUNNING, VOLUME
from persist.record import Record, made
from persist.system.mountinfo import MEMORY, Mount

# What the kernel or PID 1 has there, and what holds nothing by itself.
NO_FILES = frozenset(
    (
        *MEMORY,
        *words(
            "autofs proc sysfs devtmpfs devpts cgroup cgroup2 mqueue hugetlbfs configfs debugfs tracefs "
            "securityfs pstore efivarfs bpf binfmt_misc fusectl rpc_pipefs nfsd selinuxfs nsfs"
        ),
    )
)
_OURS = MOUNT_ENTRIES.rpartition("/")[0] + "/"  # /run/persist/


class Sorted(Record, frozen=False):
    """``inside`` are those that are put into the tree, parents first; ``errors`` those that cannot be."""

    inside: list[Mount] = made(list)
    errors: list[str] = made(list)


def _is_whole(mount: Mount) -> bool:
    """Whether all of a filesystem is mounted, or a subvolume of it, and not one of its directories."""
    return mount.root == "/" or f"subvol={mount.root}" in mount.super_options.split(",")


def _is_ours(mount: Mount, every: Iterable[Mount]) -> bool:
    """Whether persist has mounted it: an overlay over the image, or something of the volume."""
    if mount.fstype == "overlay":
        return _OURS in mount.super_options
    # Of the volume's own part: with Fallback=root that is a directory of the root filesystem.
    return any(
        m.device == mount.device and (mount.root + "/").startswith(m.root.rstrip("/") + "/")
        for m in every
        if m.mount_point == VOLUME
    )


def visible(every: Sequence[Mount]) -> list[Mount]:
    """Of the mounts on one place the one on top; none that another one covers from above."""
    tops: dict[str, Mount] = {}
    for mount in every:
        for point in [p for p in tops if p.startswith(mount.mount_point.rstrip("/") + "/")]:
            # Mounted before what is above it now: out of sight.
            if mount.mount_point != "/":
                del tops[point]
        tops[mount.mount_point] = mount
    return sorted(tops.values(), key=lambda m: m.mount_point.split("/"))


def sort(every: Sequence[Mount]) -> Sorted:
    """Sort the mounts of a machine: the root's own is not among them."""
    found = Sorted()
    seen = visible(every)
    root = next((m for m in seen if m.mount_point == "/"), None)
    for mount in seen:
        point = mount.mount_point
        if point == "/" or "/" + point.split("/")[1] in RUNNING:
            continue
        if mount.fstype in NO_FILES or _is_ours(mount, every):
            continue
        whole = (*((root,) if root is not None else ()), *(m for m in seen if _is_whole(m)))
        if _is_whole(mount) and mount.source.startswith("/dev/"):
            found.inside.append(mount)
        elif not _is_whole(mount) and any(m.device == mount.device for m in whole):
            continue  # it shows a directory that is somewhere else already
        elif mount.fstype == "overlay" or not mount.source.startswith("/dev/"):
            found.errors.append(
                f"'{point}' is a mount of '{mount.source}' ({mount.fstype}), which is no filesystem on a "
                "disk that could be sealed."
            )
        else:
            found.errors.append(
                f"'{point}' is a directory of the filesystem on {mount.source}, which is mounted nowhere as "
                "a whole, and so is sealed nowhere."
            )
    return found
