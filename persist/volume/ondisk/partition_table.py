# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a disk is divided: sizes, names, types and the script for sfdisk. Pure. Sizes are in MiB unless they
say bytes."""

from __future__ import annotations

import os

from persist.errors import Refusal
from persist.record import Record
from persist.volume.ondisk.header import FormatMark, Layout

MIB = 1 << 20
MIN_DISK = 256  # what Lightwhale's users and issue 3 ask for; mkfs.btrfs itself needs 109 MiB
MIN_DATA = 200
FIRST = 1  # the first partition begins at 1 MiB, as fdisk aligns it on every disk
LAST = 1  # left free for the backup table at the end
SWAP_TYPE = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"  # both from the UAPI Discoverable Partitions Specification
DATA_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"  # "generic Linux data": never mounted by anyone but us
SWAP_NAME = "persist-swap"
DATA_NAME = "persist-data"

SWAP_DISK_MIN = 2048  # below, every byte is worth more as state
SWAP_MIN = 128
SWAP_MAX = 8192
RESERVE_MIB = 64


class Part(Record):
    """One partition to be made."""

    name: str
    type: str
    start: int
    size: int
    id: str


def swap_size(disk: int, memory: int, configured: int | None) -> int:
    """MiB of swap for a disk. ``configured`` is SwapSize= in bytes or None for automatic.

    Automatic: as much as there is memory, but at most a tenth of the disk and 8 GiB, in steps of 64 MiB; none
    on a disk below 2 GiB or where it would be under 128 MiB. Several disks share the memory: whoever calls
    divides it by their number. A configured size is that of each disk. Raises Refusal where it leaves no room
    for data.
    """
    if configured is not None:
        size = (configured + MIB - 1) // MIB
        if size and disk - FIRST - LAST - size < MIN_DATA:
            raise Refusal(
                "swap-too-large",
                f"SwapSize={size}M leaves no room for data on {disk} MiB.",
                hint="Make SwapSize= smaller in persist.conf.",
            )
        return size
    if disk < SWAP_DISK_MIN:
        return 0
    size = min(memory, disk // 10, SWAP_MAX) // 64 * 64
    return size if size >= SWAP_MIN else 0


def parts(mark: FormatMark, disk: int) -> list[Part]:
    """The partitions of a disk of ``disk`` MiB, swap first: data can then grow when the disk does."""
    at = FIRST
    found = []
    if mark.swap:
        found.append(Part(SWAP_NAME, SWAP_TYPE, at, mark.swap, mark.swap_id))
        at += mark.swap
    found.append(Part(DATA_NAME, DATA_TYPE, at, disk - LAST - at, mark.data_id))
    return found


def script(mark: FormatMark, disk: int) -> str:
    """The script for sfdisk(8). All ids are given, so that doing it again gives the same bytes."""
    lines = ["label: gpt", f"label-id: {mark.disk_id}"]
    lines += [
        f"start={p.start}MiB, size={p.size}MiB, type={p.type}, uuid={p.id}, name={p.name}"
        for p in parts(mark, disk)
    ]
    return "\n".join(lines) + "\n"


def filesystem_bytes(partition: int) -> int:
    """Bytes of the filesystem in a data partition of so many bytes: smaller by a reserve.

    A full btrfs mounts overlays read-only and cannot even delete; one that is smaller than its partition can
    be grown at 100 %.
    """
    reserve = RESERVE_MIB * MIB if partition >= 1024 * MIB else partition // 16
    return (partition - reserve) // MIB * MIB


def profiles(layout: Layout, members: int) -> tuple[str, str]:
    """The btrfs profiles for data and for metadata of a volume with so many members."""
    if members == 1:
        return "single", "dup"
    if layout == "single":
        return "single", "raid1"
    return "raid1", "raid1" if members == 2 else "raid1c3"


def memory_mib() -> int:
    """The machine's memory in MiB."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB)
