# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is this disk blank? Looks only: for data, for signatures, and where our partitions would begin."""

from __future__ import annotations

import mmap
import os

from persist.errors import Refusal
from persist.system import blockdev
from persist.system.blockdev import Disk
from persist.volume.ondisk import header, partition_table
from persist.volume.ondisk.header import FormatMark
from persist.volume.ondisk.partition_table import MIB

_PIECE = 64 << 10
ERASE = "If what is on it may be lost, run 'persistctl claim --force'."


def _data_at(disk: Disk, places: list[tuple[int, int]], skip: int = 0) -> int | None:
    """The offset of the first byte that is not zero in any of these places (offset and length, in whole
    blocks), None where there is none.

    ``skip``: so many bytes at the beginning of the disk do not count. Past the page cache: in small pieces
    that takes a quarter of the time, and it shows what is really there.
    """
    zeros = bytes(_PIECE)
    fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        # On a page border, as open(2) asks for.
        with (
            mmap.mmap(-1, _PIECE) as buffer,
            memoryview(buffer) as view,
        ):
            for start, length in places:
                at = start
                while at < start + length:
                    with view[: min(_PIECE, start + length - at)] as piece:
                        count = os.preadv(fd, [piece], at)
                    if not count:
                        break  # the end of the disk
                    data = buffer[:count] if at else bytes(skip) + buffer[skip:count]
                    if data != zeros[:count]:
                        return at + count - len(data.lstrip(b"\0"))
                    at += count
    except OSError as e:
        raise Refusal(
            "unreadable",
            f"Failed to read {disk.node}: {e.strerror}.",
            hint="See 'journalctl -b -k' for errors of the disk.",
        ) from e
    finally:
        os.close(fd)
    return None


def check_zero(disk: Disk, *places: tuple[int, int], skip: int = 0) -> None:
    at = _data_at(disk, list(places), skip)
    if at is not None:
        raise Refusal("not-blank", f"{disk.node} has data at byte {at}.", hint=ERASE)


def telling(part: partition_table.Part) -> list[tuple[int, int]]:
    """Offset and length of each place in a partition where libblkid knows of a signature.

    Nearly all are within the first MiB, RAID metadata at the end; VMFS is at 1 and at 2 MiB, a second header
    of LUKS2 at up to 4 MiB.
    """
    start, end = part.start * MIB, (part.start + part.size) * MIB
    return [(start, MIB + _PIECE), (start + 2 * MIB, _PIECE), (start + 4 * MIB, _PIECE), (end - MIB, MIB)]


def probe_part(disk: Disk, part: partition_table.Part) -> dict[str, str]:
    return blockdev.probe(disk.node, "--offset", str(part.start * MIB), "--size", str(part.size * MIB))


def kind_of(found: dict[str, str]) -> str:
    return found.get("TYPE") or found.get("PTTYPE") or ""


def _plainly_empty(disk: Disk, part: partition_table.Part) -> bool:
    """Zeros wherever there could be a signature: saves a process for each partition."""
    return part.size > 6 and _data_at(disk, telling(part)) is None


def check_blank(disk: Disk, mark: FormatMark, *, skip: int = header.LENGTH) -> None:
    """Raise Refusal unless a disk is blank but for its first ``skip`` bytes.

    Blank: no partition, no signature anywhere (wipefs's full probe, which knows a backup GPT at the end and
    RAID metadata), zeros in the first and the last MiB, where boot loaders and foreign formats without a
    signature keep their data, and no signature where our own partitions would begin: writing the table would
    bring an old filesystem there back to life.
    """
    found = blockdev.partitions(disk)
    if found:
        raise Refusal(
            "partitions", f"{disk.node} has partitions ({', '.join(p.name for p in found)}).", hint=ERASE
        )
    types = blockdev.signatures(disk.node)
    if types:
        raise Refusal("signature", f"{disk.node} is not blank, it carries {', '.join(types)}.", hint=ERASE)
    check_zero(disk, (0, MIB), (disk.size - MIB, MIB), skip=skip)
    for part in partition_table.parts(mark, disk.mib):
        kind = "" if _plainly_empty(disk, part) else kind_of(probe_part(disk, part))
        if kind:
            raise Refusal(
                "signature",
                f"{disk.node} has an old {kind} at {part.start} MiB, where its {part.name} partition "
                "would be.",
                hint=ERASE,
            )
