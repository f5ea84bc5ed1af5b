# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks as the kernel shows them in sysfs and devtmpfs: what they are, what they hold, who uses them. Changes
nothing.

No udev here: the formatter holds the lock that keeps udev away, and a chroot has none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time

from persist.errors import CommandError, PersistError, Refusal
from persist.record import Record
from persist.system import mountinfo
from persist.system.run import run

SYS_BLOCK = "/sys/class/block"
LOCK_TIMEOUT = 60  # seconds; udev holds its shared lock for the time of its rules
# Floppies and optical drives have a size without a medium, too; the others are areas of an eMMC, or flash
# without a block layer.
_NO_DISK = re.compile(r"(fd|sr|mtdblock)\d+|mmcblk\d+(boot\d+|rpmb)")
_LVM_ID = len("LVM-") + 64  # of a logical volume; what follows names a part of it


def attribute(sys_path: str, name: str) -> str:
    """One attribute in sysfs, '' where the kernel has none of this name."""
    try:
        with open(f"{sys_path}/{name}", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


class Disk(Record):
    """One block device: ``name`` and ``node`` (devtmpfs), its directory in sysfs, its ``device`` number as
    major:minor and size in bytes."""

    name: str
    node: str
    sys_path: str
    device: str
    size: int
    read_only: bool
    is_partition: bool

    @property
    def diskseq(self) -> str:
        """The kernel's number of this appearance of a disk, never given twice in a boot; the name where it
        has none (before 5.15)."""
        return attribute(self.sys_path, "diskseq") or self.name

    @property
    def mib(self) -> int:
        """Whole MiB."""
        return self.size >> 20

    @property
    def serial(self) -> str:
        """The disk's own serial number where sysfs has one, for a stable order."""
        return (
            attribute(self.sys_path, "serial")
            or attribute(self.sys_path, "device/serial")
            or attribute(self.sys_path, "wwid")
        )

    @property
    def model(self) -> str:
        """What the maker calls the disk, '' where it says nothing."""
        return " ".join(
            filter(None, (attribute(self.sys_path, f"device/{name}") for name in ("vendor", "model")))
        )


def _disk(sys_path: str) -> Disk:
    name = os.path.basename(sys_path).replace("!", "/")  # cciss!c0d0 is /dev/cciss/c0d0
    return Disk(
        name,
        f"/dev/{name}",
        sys_path,
        attribute(sys_path, "dev"),
        int(attribute(sys_path, "size") or "0") * 512,
        attribute(sys_path, "ro") == "1",
        os.path.exists(f"{sys_path}/partition"),
    )


def at(sys_path: str) -> Disk:
    """The device of a directory in sysfs, links followed."""
    return _disk(os.path.realpath(sys_path))


def by_number(number: int) -> Disk:
    """The device with this number (st_rdev). Raises OSError when it is gone."""
    link = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    if not os.path.exists(link):
        raise OSError(errno.ENODEV, f"No block device {os.major(number)}:{os.minor(number)}")
    return _disk(os.path.realpath(link))


def by_node(node: str) -> Disk:
    """The device behind a path, links followed. Raises Refusal when it is none."""
    try:
        st = os.stat(node)
        if not stat.S_ISBLK(st.st_mode):
            raise Refusal(
                "not-a-disk", f"'{node}' is not a block device.", hint="Name a whole disk, such as /dev/vdb."
            )
        return by_number(st.st_rdev)
    except OSError as e:
        raise Refusal(
            "not-a-disk",
            f"Failed to look at '{node}': {e.strerror or e}.",
            hint="See 'lsblk' for the disks of this machine.",
        ) from e


def number_of(path: str) -> str:
    """The device number behind a path as major:minor, '' where there is none."""
    try:
        number = os.stat(path).st_rdev
    except OSError:
        return ""  # a spec for a disk that is not here
    return f"{os.major(number)}:{os.minor(number)}" if number else ""


def _not_to_open(name: str, sys_path: str) -> bool:
    """Whether opening it would wait or lie: no disk, or a device-mapper device that is suspended or that LVM
    keeps for itself (as in lvm2's udev rules: DM_UDEV_DISABLE_OTHER_RULES_FLAG)."""
    dm = attribute(sys_path, "dm/uuid")
    return bool(
        _NO_DISK.fullmatch(name)
        or attribute(sys_path, "dm/suspended") == "1"
        or (dm.startswith("LVM-") and dm[_LVM_ID:])
    )


def disks(sys_block: str = SYS_BLOCK) -> list[Disk]:
    """All whole disks with a medium that can be read, in the order of their names."""
    found = []
    for name in sorted(os.listdir(sys_block)):
        path = os.path.realpath(f"{sys_block}/{name}")
        # A partition, or something that has just been pulled out, or an empty drive.
        if (
            os.path.exists(f"{path}/dev")
            and not os.path.exists(f"{path}/partition")
            and attribute(path, "size") not in ("", "0")
            and not _not_to_open(name, path)
        ):
            found.append(_disk(path))
    return found


def partitions(disk: Disk) -> list[Disk]:
    """The partitions of a disk that the kernel knows, by number."""
    found = []
    for name in os.listdir(disk.sys_path):
        path = f"{disk.sys_path}/{name}"
        number = attribute(path, "partition")
        if number.isascii() and number.isdigit():
            found.append((int(number), _disk(path)))
    return [d for _, d in sorted(found, key=lambda pair: pair[0])]


def whole(device: Disk) -> Disk:
    """The disk of a partition; a disk itself."""
    return _disk(os.path.dirname(device.sys_path)) if device.is_partition else device


def why_in_use(disk: Disk) -> tuple[str, str] | None:
    """Who uses a disk or one of its partitions: a stable code and a sentence, or None.

    Looks at holders (dm, md, bcache), mounts by device number, members of mounted btrfs filesystems, which
    mountinfo shows under another number, and swap; the kernel's own exclusive claim, last, also knows users
    without a name (ZFS).
    """
    every = [disk, *partitions(disk)]
    numbers = {d.device: d.node for d in every}
    names = {os.path.basename(d.sys_path): d.node for d in every}
    for d in every:
        try:
            holders = os.listdir(f"{d.sys_path}/holders")
        except OSError:
            holders = []  # it vanished; opening it will say so
        if holders:
            return "holder", f"{d.node} is held by {', '.join(sorted(holders))}."
    for m in mountinfo.mounts():
        if m.device in numbers:
            return "mounted", f"{numbers[m.device]} is mounted at {m.mount_point}."
    for filesystem in os.listdir("/sys/fs/btrfs") if os.path.isdir("/sys/fs/btrfs") else []:
        members = f"/sys/fs/btrfs/{filesystem}/devices"
        for member in os.listdir(members) if os.path.isdir(members) else []:
            if member in names:
                return "mounted", f"{names[member]} belongs to the mounted btrfs filesystem {filesystem}."
    for node in swaps():
        try:
            device = by_node(node)
        except Refusal:
            continue  # a swap file
        if device.device in numbers:
            return "swap", f"{numbers[device.device]} is in use as swap."
    return _exclusive(disk)


def _exclusive(disk: Disk) -> tuple[str, str] | None:
    try:
        # O_EXCL on a block device asks for the claim that mounts, md, dm and ZFS take; on a disk it minds its
        # partitions too.
        os.close(os.open(disk.node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as e:
        if e.errno == errno.EBUSY:
            return "busy", f"{disk.node} is in use by the kernel."
        return "unreadable", f"Failed to open {disk.node}: {e.strerror}."
    return None


def parse_swaps(text: str) -> list[str]:
    """The first column of /proc/swaps; the kernel escapes blanks, tabs, newlines and backslashes in it."""
    return [
        mountinfo.unescape(line.replace("\t", " ").partition(" ")[0]) for line in text.split("\n")[1:] if line
    ]


def swaps() -> list[str]:
    """What is in use as swap: device nodes and files."""
    try:
        with open("/proc/swaps", encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            return parse_swaps(f.read())
    except OSError:
        return []  # a kernel without swap


def lock(fd: int, node: str, timeout: float = LOCK_TIMEOUT) -> None:
    """Take udev's lock of a whole disk (systemd.io, block device locking), waiting at most ``timeout``
    seconds.

    ``fd`` is opened O_RDONLY: each close of a descriptor that could write makes udev look again. Raises
    PersistError.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as e:
            if time.monotonic() > deadline:
                raise PersistError(
                    f"{node} is locked by another program.",
                    hint="See 'lslocks'; try again when it has ended.",
                    PERSIST_DEVICE=node,
                    PERSIST_REASON="locked",
                ) from e
            time.sleep(0.1)


def probe(node: str, *where: str) -> dict[str, str]:
    """What libblkid finds on a device by a full, uncached probe: TYPE, LABEL, UUID, PART_ENTRY_UUID and so
    on.

    ``where`` may be ``-O offset -S size`` in bytes. Two signatures at once give TYPE ``ambivalent``. Raises
    CommandError.
    """
    try:
        text = run("blkid", "-p", "-o", "export", *where, node, ok=(0, 2))
    except CommandError as e:
        if e.returncode == 8:
            return {"TYPE": "ambivalent"}
        raise
    return parse_probe(text)


def parse_probe(text: str) -> dict[str, str]:
    """The properties that blkid(8) prints with -o export."""
    # Values are escaped for a shell (the backslash of "persist\ data"); none that we compare has anything to
    # escape.
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


def signatures(node: str) -> list[str]:
    """The types of all signatures on a device that wipefs(8) would erase, the backup table at the end
    included. Raises CommandError."""
    text = run("wipefs", "--no-act", "--json", node)
    found: list[str] = []
    for signature in (json.loads(text) if text.strip() else {}).get("signatures", []):
        if signature["type"] not in found:
            found.append(signature["type"])
    return found
