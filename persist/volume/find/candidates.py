# SPDX-License-Identifier: LGPL-2.1-or-later
"""The filesystems of this machine, from udev or by probing: the thin edge of finding."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from persist.errors import Refusal
from persist.system import blockdev, udevd
from persist.system.blockdev import number_of
from persist.volume.find import trust
from persist.volume.find.decision import BTRFS, FILESYSTEM, Candidate
from persist.volume.members.ancestry import Member

UDEV_DATA = "/run/udev/data"


def decode(text: str) -> str:
    r"""Undo udev's encoding of labels (``\x20``), that of ID_FS_LABEL_ENC and ID_PART_ENTRY_NAME."""
    raw = re.sub(
        rb"\\x([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), text.encode("utf-8", "surrogateescape")
    )
    return raw.decode("utf-8", "surrogateescape")


def everything() -> list[Candidate]:
    """All block devices of this machine, also those without a filesystem, from udev's database, or by probing
    where no udev runs.

    Raises CommandError and OSError.
    """
    if udevd.runs():
        return _from_udev()
    from persist.volume.find import probing

    return probing.everything()


def _filesystems(every: Iterable[Candidate]) -> list[Candidate]:
    return [c for c in every if c.usage == FILESYSTEM]


def candidates() -> list[Candidate]:
    """All filesystems among them. Raises CommandError and OSError."""
    return _filesystems(everything())


def of(
    p: dict[str, str], node: str, device: str, disk_node: str, disk_device: str, disk_sys_path: str
) -> Candidate:
    """A candidate from udev's properties of a device."""
    return Candidate(
        node,
        device,
        disk_device,
        p.get("ID_FS_UUID", ""),
        p.get("ID_FS_UUID_SUB", "") or node,
        decode(p.get("ID_FS_LABEL_ENC", "")),
        p.get("ID_PART_ENTRY_UUID", ""),
        decode(p.get("ID_PART_ENTRY_NAME", "")),
        trust.why_untrusted(disk_sys_path, blockdev.attribute),
        p.get("ID_FS_TYPE", ""),
        disk_node,
        p.get("ID_FS_USAGE", "") if p.get("ID_FS_TYPE") else "",
    )


def _from_udev() -> list[Candidate]:
    from persist.system.udev import block_devices

    return [
        of(d.properties, d.node, number_of(d.node), d.disk_node, number_of(d.disk_node), d.disk_sys_path)
        for d in block_devices()
    ]


def from_database() -> list[Candidate]:
    """As candidates(), from udev's database without its library, which takes longer to load than a steady
    boot has for all of this.

    Incomplete while udev is busy, and empty where there is no udev: good for a second opinion and not for
    finding. Raises OSError.
    """
    found = []
    for disk in blockdev.disks():
        for device in [disk, *blockdev.partitions(disk)]:
            try:
                with open(f"{UDEV_DATA}/b{device.device}", encoding="utf-8", errors="surrogateescape") as f:
                    p = dict(
                        line[2:].rstrip("\n").split("=", 1)
                        for line in f
                        if line.startswith("E:") and "=" in line
                    )
            except FileNotFoundError:
                continue  # udev has not come to it yet
            found.append(of(p, device.node, device.device, disk.node, disk.device, disk.sys_path))
    return _filesystems(found)


def bound_here(candidate: Candidate) -> bool:
    """Whether formatting bound a candidate's disk to this machine and to this disk (see docs/volume.md)."""
    from persist.volume.ondisk import binding

    return candidate.fstype == BTRFS and binding.is_here(candidate.disk_node, candidate.uuid)


def member(candidate: Candidate) -> Member | None:
    """A candidate as a member of a btrfs, None where it cannot be read."""
    from persist.volume.members import assemble

    return next(iter(assemble.read([candidate.node], candidate.uuid)), None)


def held(node: str) -> bool:
    """Whether a device has a holder: it is open, or assembled."""
    try:
        return bool(os.listdir(f"{blockdev.by_node(node).sys_path}/holders"))
    except (OSError, Refusal):
        return False  # it went away
