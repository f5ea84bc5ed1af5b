# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mount the volume, or what stands in for it, and what entries need beside it. By mount(8), never by a ``.mount`` fragment.

All of it may have been done before (by the initrd, or by this service): what is mounted is kept.
"""

from __future__ import annotations

import os

from ..boot.paths import IMAGE, LOWER, VOLUME
from ..errors import CommandError, PersistError
from ..run import run
from . import mountinfo, newmount, store
from .btrfs import SUBVOLUMES, filesystem_uuid
from .find import Found
from .mountinfo import Mount

ROOT_STORE = "/var/lib/persist/root"
# As in packaging/initramfs-tools/persist-early. Access times would make each reading of state a write.
OPTIONS = f"noatime,subvol={SUBVOLUMES[0]}"


def mounted_uuid(path: str = VOLUME) -> str:
    """The UUID of the btrfs that is mounted at a path, '' for another filesystem."""
    try:
        return filesystem_uuid(path)
    except OSError:
        return ""  # not a btrfs: it knows no such ioctl


def _broken(found: Found, message: str) -> PersistError:
    return PersistError(f"The state volume on {found.node} does not mount: {message}", hint="It is left as it is. See 'journalctl -b -k' and btrfs-check(8).",
                        message_id="VOLUME_BROKEN", PERSIST_DEVICE=found.node, PERSIST_UUID=found.uuid, PERSIST_REASON="broken")


def mount_volume(found: Found) -> Mount:
    """Mount the volume at /run/persist/volume. Raises PersistError (VOLUME_BROKEN); the volume is then left as it is."""
    os.makedirs(VOLUME, 0o755, exist_ok=True)
    try:
        if found.forget:
            # udev has told the kernel about the copy too, and the kernel takes the newer of two.
            run("btrfs", "device", "scan", "--forget", *found.forget)
        if len(found.members) > 1:
            run("btrfs", "device", "scan", *found.members)
        run("mount", "-t", "btrfs", "-o", OPTIONS, found.node, VOLUME)
    except CommandError as e:
        raise _broken(found, e.message) from e
    mount = mountinfo.at(VOLUME)
    if mount is None:
        raise _broken(found, "mount(8) reported success and nothing is mounted.")
    wrong = ""
    if mounted_uuid() != found.uuid.lower():
        wrong = "another filesystem appeared in its place."
    elif os.path.realpath(mount.source) not in {os.path.realpath(m) for m in found.members}:
        wrong = f"the kernel took {mount.source}, which is a copy of it."
    if wrong:
        run("umount", VOLUME)
        raise _broken(found, wrong)
    return mount


def mount_tmpfs() -> None:
    """Stand in for the volume with memory: lost at power-off. Raises PersistError and OSError."""
    os.makedirs(VOLUME, 0o755, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=0755,size=50%", "tmpfs", VOLUME)
    store.make(VOLUME)


def mount_root_directory() -> None:
    """Stand in for the volume with a directory of the root filesystem, as it is below whatever is mounted on it.

    Raises PersistError and OSError (a read-only root).
    """
    directory = IMAGE + ROOT_STORE
    os.makedirs(directory, 0o755, exist_ok=True)
    store.make(directory)
    os.makedirs(VOLUME, 0o755, exist_ok=True)
    run("mount", "--bind", directory, VOLUME)


def bind_image() -> None:
    """Show the image without what is mounted on it: /run/persist/image as it is, /run/persist/lower read-only.

    Private at once, or every mount that the boot makes on the root would appear there too. Raises OSError.
    """
    for source, path, read_only in (("/", IMAGE, False), (IMAGE, LOWER, True)):
        os.makedirs(path, 0o755, exist_ok=True)
        if mountinfo.at(path) is None:
            newmount.bind(source, path, read_only=read_only)


def bind_public(path: str) -> str:
    """Show the volume under its public name. Returns why that cannot be, or ''. Raises PersistError."""
    if os.path.realpath(path) == VOLUME:
        return ""
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as e:
        return f"The directory {path} does not exist and cannot be made ({e.strerror}): the volume is only at {VOLUME}."
    real = os.path.realpath(path)
    at = mountinfo.at(real)
    if at is None:
        run("mount", "--bind", VOLUME, real)
        return ""
    volume = mountinfo.at(VOLUME)
    if volume is not None and (at.device, at.root) == (volume.device, volume.root):
        return ""
    return f"Something else is mounted at {path} ({at.source}): the volume is only at {VOLUME}."
