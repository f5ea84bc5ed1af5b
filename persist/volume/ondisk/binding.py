# SPDX-License-Identifier: LGPL-2.1-or-later
"""To which machine a disk of ours belongs: a record in the boot code area that a read-only machine can read
without mounting anything.

``persist-bound 1 <volume uuid> dmi=<uuid or -> serial=<serial or ->`` at bytes 256-439 of the whole disk,
where the mark was while it was formatted. It is a hint for choosing between several volumes and no
protection: whoever can write the disk can write it.
"""

from __future__ import annotations

import os
import re

from persist.errors import Refusal
from persist.record import Record
from persist.system import uuids
from persist.system.blockdev import Disk, by_node, whole
from persist.volume.ondisk.header import LENGTH, MARK_OFFSET, text

DMI = "/sys/class/dmi/id/product_uuid"
NONE = "-"
# What firmware has that was never given an id of its own.
_UNUSABLE = frozenset(
    (
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
    )
)
_BOUND = rb"persist-bound 1 ([0-9a-f-]{36}) dmi=([0-9a-f-]{36}|-) serial=([!-~]{1,64})\n\0*"


class Binding(Record):
    """The volume of a disk, the id of the machine that made it (lower case) and the disk's own serial number;
    '-' where there is none."""

    volume: str
    dmi: str = NONE
    serial: str = NONE


def encode(binding: Binding) -> bytes:
    """The bytes at MARK_OFFSET."""
    return f"persist-bound 1 {binding.volume} dmi={binding.dmi} serial={binding.serial}\n".encode(
        "ascii"
    ).ljust(LENGTH - MARK_OFFSET, b"\0")


def parse(data: bytes) -> Binding | None:
    """The binding in the first 440 bytes of a disk, None where there is none that can be understood."""
    found = re.fullmatch(_BOUND, data[MARK_OFFSET:LENGTH])
    return (
        Binding(found[1].decode("ascii"), found[2].decode("ascii"), found[3].decode("ascii"))
        if found
        else None
    )


def read(node: str) -> Binding | None:
    """The binding of a whole disk, None where there is none, or the disk cannot be read."""
    try:
        fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # no medium, or gone: then it is not what anybody looks for
    try:
        return parse(os.pread(fd, LENGTH, 0))
    except OSError:
        return None
    finally:
        os.close(fd)


def machine_dmi(path: str = DMI) -> str:
    """The id that the firmware gives this machine, in lower case; '-' where it has none that tells it from
    others."""
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            found = f.read().strip().lower()
    except OSError:
        return NONE  # no DMI: a container, many ARM boards
    return found if uuids.valid(found) and found not in _UNUSABLE else NONE


def disk_serial(disk: Disk) -> str:
    """The serial number of a disk as it is written in records, '-' where it has none."""
    return text(disk.serial) or NONE


def of_machine(disk: Disk, volume: str = "") -> Binding:
    """The binding of a disk of this volume to this machine."""
    return Binding(volume.lower(), machine_dmi(), disk_serial(disk))


def matches(binding: Binding, machine_dmi: str, disk_serial: str) -> bool:
    """Whether a disk with this serial number (as disk_serial() has it) in this machine is the one that was
    bound. Pure."""
    if binding.dmi == NONE and binding.serial == NONE:
        return False
    return binding.dmi in (machine_dmi.lower(), NONE) and binding.serial in (disk_serial, NONE)


def is_here(node: str, volume: str) -> bool:
    """Whether the disk of a device of this volume was bound to this machine and to itself."""
    try:
        disk = whole(by_node(node))
    except (Refusal, OSError):
        return False  # it went away
    noted = read(disk.node)
    if noted is None or noted.volume.lower() != volume.lower():
        return False
    here = of_machine(disk)
    return matches(noted, here.dmi, here.serial)
