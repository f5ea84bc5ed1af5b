# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether what is written to a filesystem is there after the next power-off. A root in memory takes writes
too: writable is not kept.

Lost is what lies on a tmpfs or ramfs, on zram or a RAM disk, in a device-mapper snapshot that is not
persistent, in a file of one of these, or in the upper layer of an overlay there. Whatever nothing is known of
counts as kept, such as the upper of an overlay that this namespace does not show.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from persist.errors import CommandError
from persist.record import Record
from persist.system import mountinfo
from persist.system.mountinfo import MEMORY, Mount
from persist.system.run import run

# systemd-volatile-root(8) mounts a tmpfs here for systemd.volatile=overlay, and takes it out of sight again.
_SYSTEMD = "/run/systemd/overlay-sysroot/"
_RAM = re.compile(r"(zram|ram)[0-9]+")
_DEEP = 8  # of what lies on what; more is taken for a loop


class Root(Record):
    """A root filesystem. ``shown`` names it for people; ``memory`` completes "what is written is lost,
    because it is …", '' where nothing says so."""

    shown: str
    read_only: bool
    memory: str

    @property
    def kept(self) -> bool:
        """Whether what is written now is there after the next power-off, as far as anybody knows."""
        return not self.read_only and not self.memory


def look(path: str = "/") -> Root:
    """The filesystem at a path as it is now, after systemd-remount-fs. Raises OSError."""
    read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    at = mountinfo.at(path)
    if at is None:
        return Root("", read_only, "")
    # The kernel's name for what it mounted itself says nothing.
    shown = at.fstype if at.source in (at.fstype, "none", "/dev/root", "") else f"{at.fstype} on {at.source}"
    return Root(shown, read_only, lost(at))


def _number(node: str) -> str:
    """The number of a device as mountinfo has it, '' where the path is none."""
    try:
        found = os.stat(node)
    except (OSError, ValueError):
        return ""  # the name of a pool or a share, or none that this namespace has
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if stat.S_ISBLK(found.st_mode) else ""


def _table(name: str) -> str:
    """The table of a device of the device-mapper. Raises CommandError."""
    return run("dmsetup", "table", name)


class Devices(Record):
    """Where block devices are looked at: the directory in sysfs that has them by number, what gives a node's
    number, and what gives the table of a device of the device-mapper."""

    directory: str = "/sys/dev/block"
    number: Callable[[str], str] = _number
    table: Callable[[str], str] = _table


def lost(
    at: Mount, *, files: bool = True, every: list[Mount] | None = None, devices: Devices | None = None
) -> str:
    """Why what is written to a mount is lost at power-off, as in Root.memory. ``files``: the files of loop
    devices count too. Raises OSError.

    ``every`` are the mounts of this namespace, for those who have them.
    """
    return _Look(mountinfo.mounts() if every is None else every, files, devices or Devices()).mount(at)


class _Look:
    """One look from a mount down to what it lies on. ``every`` are the mounts that this namespace shows."""

    def __init__(self, every: list[Mount], files: bool, devices: Devices) -> None:
        self.every, self.files, self.devices, self.deep = every, files, devices, 0

    def mount(self, at: Mount) -> str:
        self.deep += 1
        if self.deep > _DEEP:
            return ""
        if at.fstype in MEMORY:
            return f"a {at.fstype}"
        if at.fstype == "overlay":
            return self.overlay(at)
        # btrfs and others have numbers of their own: their first device is named.
        number = self.devices.number(at.source) if at.device.startswith("0:") else at.device
        return self.device(f"{self.devices.directory}/{number}") if number else ""

    def overlay(self, at: Mount) -> str:
        if "volatile" in at.super_options.split(","):
            return "an overlay with the option 'volatile', which never syncs its upper layer"
        path = at.upper
        if not path:
            return ""  # it takes no writes at all
        if path.startswith(_SYSTEMD):
            return "an overlay whose upper layer is a tmpfs"
        holder = self.holder(path, at)
        why = self.mount(holder) if holder is not None else ""
        return f"an overlay whose upper layer is {why}" if why else ""

    def holder(self, path: str, not_this: Mount | None = None) -> Mount | None:
        """What holds a directory or file that was named in another namespace, perhaps; None where it is not
        to be seen here."""
        real = os.path.realpath(path)
        if not os.path.exists(real):
            return None
        found = None
        for mount in self.every:
            if (real + "/").startswith(mount.mount_point.rstrip("/") + "/") and (
                found is None or len(mount.mount_point) >= len(found.mount_point)
            ):
                found = mount
        return None if found is None or (not_this is not None and found.device == not_this.device) else found

    def device(self, path: str) -> str:
        """``path`` is the device's directory in sysfs."""
        self.deep += 1
        path = os.path.realpath(path)
        if os.path.exists(f"{path}/partition"):
            path = os.path.dirname(path)
        name = os.path.basename(path)
        if self.deep > _DEEP:
            return ""
        if _RAM.fullmatch(name):
            return f"on {name}, which is memory"
        if os.path.isdir(f"{path}/loop"):
            return self.loop(path, name)
        if os.path.isdir(f"{path}/dm"):
            return self.mapped(path, name)
        below = self.below(path)
        if below and all(below):  # md: a mirror keeps what one of its disks keeps
            return f"on {name}, which is {below[0]}"
        return ""

    def below(self, path: str) -> list[str]:
        try:
            return [self.device(f"{path}/slaves/{slave}") for slave in sorted(os.listdir(f"{path}/slaves"))]
        except FileNotFoundError:
            return []

    def loop(self, path: str, name: str) -> str:
        if not self.files:
            return ""
        try:
            with open(f"{path}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as f:
                file = f.read().rstrip("\n")
        except OSError:
            return ""  # detached by now
        holder = self.holder(file)
        why = self.mount(holder) if holder is not None else ""
        return f"on {name}, whose file is on {why}" if why else ""

    def mapped(self, path: str, name: str) -> str:
        """A device of the device-mapper: a snapshot keeps what its exception store keeps, others what all
        that they lie on keep."""
        try:
            with open(f"{path}/dm/name", encoding="utf-8", errors="surrogateescape") as f:
                table = self.devices.table(f.read().rstrip("\n")).split("\n")
        except (OSError, CommandError):
            table = []  # not installed: a snapshot is then taken for one that is persistent
        for words in (line.split(" ") for line in table):
            # Start length snapshot origin store P|N chunk (dm-snapshot, "snapshot.rst").
            if words[2:3] == ["snapshot"] and len(words) > 5:
                why = self.device(f"{self.devices.directory}/{words[4]}")
                if words[5].startswith("N"):
                    return f"on {name}, a snapshot that is not persistent"
                return f"on {name}, a snapshot into what is {why}" if why else ""
        why = next((w for w in self.below(path) if w), "")
        return f"on {name}, which is {why}" if why else ""
