# SPDX-License-Identifier: LGPL-2.1-or-later
"""All block devices by probing them, where no udev runs: to come to the same as by udev's database.

What udev would not read is not read here, and a disk that does not answer costs none of the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from persist.errors import CommandError
from persist.system import blockdev
from persist.system.blockdev import Disk, attribute
from persist.system.parallel import attempt
from persist.system.run import run
from persist.volume.find import candidates
from persist.volume.find.decision import FILESYSTEM, Candidate

# The ids of the devices that multipathd(8) has taken before, a line each: /3600508b400105e210000900000490000/
WWIDS = "/etc/multipath/wwids"
_MPATH = {"ID_FS_TYPE": "mpath_member"}  # as 60-multipath.rules has it
_SCSI_KINDS = {"t10": "1", "eui": "2", "naa": "3"}  # what scsi_id(8) puts in front, for what sysfs does
_TIMEOUT = 60.0  # seconds; a disk may have to spin up


def known_paths(path: str = WWIDS) -> frozenset[str]:
    """The ids of what is multipath on this machine; none where it has no multipath-tools."""
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return frozenset(re.findall(r"^/(.+)/$", f.read(), re.MULTILINE))
    except OSError:
        return frozenset()


def _holders(device: Disk) -> list[str]:
    """The device-mapper ids of what holds a device."""
    try:
        names = os.listdir(f"{device.sys_path}/holders")
    except OSError:
        return []  # it went away
    return list(filter(None, (attribute(f"{device.sys_path}/holders/{n}", "dm/uuid") for n in names)))


def is_path(disk: Disk, known: frozenset[str]) -> bool:
    """Whether a disk is one path of a multipath device, assembled or still to be: a path that is passive
    answers no read, and one that is used keeps multipathd(8) off."""
    if any(uuid.startswith("mpath-") for uuid in _holders(disk)):
        return True
    wwid = attribute(disk.sys_path, "device/wwid") or attribute(disk.sys_path, "wwid")
    kind, _, rest = wwid.partition(".")
    return bool(wwid) and (wwid in known or _SCSI_KINDS.get(kind, "") + rest in known)


def without_paths(disks: Iterable[Disk]) -> list[Disk]:
    """Those that are no path of a multipath device."""
    known = known_paths()
    return [d for d in disks if not is_path(d, known)]


def probe(node: str) -> dict[str, str]:
    """What udev's blkid would say of a device, nothing where it cannot be read. Raises CommandError where
    there is no blkid(8)."""
    try:
        # 2: nothing found; 8: two signatures at once, of which udev takes none.
        text = run("blkid", "-p", "-o", "udev", node, ok=(0, 2, 8), timeout=_TIMEOUT)
    except CommandError as e:
        if e.returncode in (126, 127):
            raise
        return {}
    found = blockdev.parse_probe(text)
    return {} if "ID_FS_AMBIVALENT" in found else found


def _of_device(device: Disk, disk: Disk) -> Candidate:
    found = probe(device.node)
    if found.get("ID_FS_USAGE") == FILESYSTEM and (_holders(device) or _holders(disk)):
        # What device-mapper shows of it is what counts: the filesystem would be there twice.
        found = {k: v for k, v in found.items() if not k.startswith("ID_FS_")}
    return candidates.of(found, device.node, device.device, disk.node, disk.device, disk.sys_path)


def _of_disk(disk: Disk, known: frozenset[str]) -> list[Candidate]:
    devices = [disk, *blockdev.partitions(disk)]
    if is_path(disk, known):
        return [
            candidates.of(_MPATH, d.node, d.device, disk.node, disk.device, disk.sys_path) for d in devices
        ]
    return [_of_device(d, disk) for d in devices]


def everything(wwids: str = WWIDS) -> list[Candidate]:
    """All block devices of this machine, also those without a filesystem. Raises CommandError where there is
    no blkid(8)."""
    known = known_paths(wwids)
    found: list[Candidate] = []
    for of_disk in attempt(lambda disk: _of_disk(disk, known), blockdev.disks()):
        if isinstance(of_disk, OSError):
            continue  # it went away
        if isinstance(of_disk, Exception):
            raise of_disk
        found += of_disk
    return found
