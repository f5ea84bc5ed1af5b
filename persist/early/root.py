# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the root filesystem is going to be once PID 1 has looked at fstab.

Boot loaders mount writable systems with ``ro``, and systemd-remount-fs.service gives the root the options of
its line later (systemd-remount-fs.service(8)). So before PID 1 the mount itself says nothing.
"""

from __future__ import annotations

import os

from persist.boot.facts import Facts
from persist.record import replace
from persist.system import mountinfo
from persist.volume.root_kept import Root

# Filesystems that no option makes writable.
_FOR_READING = ("squashfs", "erofs", "cramfs", "romfs", "iso9660", "udf")
_READ_ONLY_WORDS = ("ro", "rw", "defaults")


def wants_writing(facts: Facts) -> bool | None:
    """Whether the line of fstab for the root says that it is writable; None where there is none."""
    lines = [line for line in facts.lines if line.where == "/"]
    if not lines:
        return None
    said = [word for word in lines[0].options.split(",") if word in _READ_ONLY_WORDS]
    return not said or said[-1] != "ro"


def _device_is_read_only(device: str, sys: str) -> bool:
    """The kernel's flag of a block device by its number, 8:1."""
    try:
        with open(os.path.join(sys, "dev/block", device, "ro"), encoding="ascii") as f:
            return f.read().strip() == "1"
    except OSError:
        return False  # not a block device: a network filesystem, a pool


def will_be(facts: Facts, now: Root, path: str = "/", sys: str = "/sys") -> Root:
    """The root as it is now, and writable where it is mounted ``ro`` and PID 1 is going to change that.

    A guess as any about what is to come: the verdict looks again. Raises OSError where /proc is not mounted.
    """
    at = mountinfo.at(path)
    if (
        not now.read_only
        or at is None
        or at.fstype in _FOR_READING
        or not wants_writing(facts)
        or _device_is_read_only(at.device, sys)
    ):
        return now
    return replace(now, read_only=False)
