# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks of ours whose filesystem cannot be read: known by what lies beside it, so that nobody formats another
one next to the data.

The binding in the boot area, the copies of the superblock, and the ids and names in the partition table
outlive the first superblock, without which neither udev nor the kernel knows that there is a filesystem.
Looks only.
"""

from __future__ import annotations

from collections.abc import Iterable

from persist.boot.config import Config
from persist.errors import CommandError
from persist.record import Record
from persist.system import blockdev, superblock, uuids
from persist.system.blockdev import Disk, number_of
from persist.volume.find import probing, trust
from persist.volume.find.candidates import decode
from persist.volume.ondisk import binding, header
from persist.volume.ondisk.binding import Binding
from persist.volume.ondisk.partition_table import DATA_NAME


class Unreadable(Record):
    """One of them. ``node`` is its data partition, or the disk where its partition table is gone (``table``
    False); ``disk`` is the whole disk.

    ``volume``: the filesystem's UUID, '' where nothing says it. ``here``: the disk is bound to this machine.
    ``copies``: the numbers of the copies of the superblock that are whole. ``untrusted``: why the disk is not
    trusted, or ''.
    """

    node: str
    disk: str
    device: str
    disk_device: str
    volume: str = ""
    here: bool = False
    copies: tuple[int, ...] = ()
    table: bool = True
    part_id: str = ""
    untrusted: str = ""

    @property
    def message(self) -> str:
        """What is wrong."""
        whose = "this machine's state volume" if self.here else "a state volume"
        what = f"{self.disk} is a disk of {whose}{f' (UUID={self.volume})' if self.volume else ''}"
        if not self.table:
            return f"{what}, and has no partition table that can be read."
        return f"{what}, and the filesystem on {self.node} cannot be read."

    @property
    def hint(self) -> str:
        """How it may be rescued; what it says was tried (tests/storage/test_unreadable.py)."""
        left = "It is left alone, and no disk is formatted while it is here."
        up = f"To give it up: 'persistctl claim --force {self.disk}'; what is on it is lost."
        if not self.table:
            return (
                f"{left} Restore the table from a backup ('sfdisk {self.disk} < BACKUP'), or have "
                f"testdisk(8) look for it. {up}"
            )
        if not self.copies:
            return (
                f"{left} No copy of its superblock is whole, so no tool of btrfs can read it: restore a "
                f"backup of the disk. {up}"
            )
        return (
            f"{left} Copy the disk first. 'btrfs rescue super-recover {self.node}' then writes its "
            "superblock anew from a copy, as does "
            f"'btrfs-select-super -s {self.copies[0]} {self.node}'; then restart the machine. {up}"
        )


def _partition_name(part: Disk) -> str:
    for line in blockdev.attribute(part.sys_path, "uevent").split("\n"):
        if line.startswith("PARTNAME="):
            return line[len("PARTNAME=") :]
    # The kernel has no name for a partition that a program has told it about.
    return decode(blockdev.probe(part.node).get("PART_ENTRY_NAME", ""))


def _taken_out(raw: bytes) -> bool:
    """Whether the kernel took a device out of its filesystem: nothing but the magic is gone
    (btrfs_scratch_superblock())."""
    magic = raw[superblock.MAGIC_AT : superblock.MAGIC_AT + len(superblock.MAGIC)]
    return not magic.strip(b"\0") and raw[0x30:0x38] == superblock.OFFSET.to_bytes(8, "little")


def _filesystem(disk: Disk, part: Disk, bound: Binding | None) -> Unreadable | None:
    """What is wrong with a partition, or a disk without any; None where it is none of ours, or can be
    read."""
    raw = superblock.read_at(part.node, superblock.OFFSET, superblock.SIZE)
    if superblock.parse(raw) is not None:
        return None
    copies = superblock.copies(part.node)
    labelled = any(copy.label == DATA_NAME for copy in copies.values())
    if not labelled and (not part.is_partition or _partition_name(part) != DATA_NAME):
        return None
    found = blockdev.probe(part.node)
    if found.get("TYPE", "btrfs") != "btrfs":
        return None  # somebody has made something else of it
    part_id = found.get("PART_ENTRY_UUID", "").lower()
    if not copies:
        table_id = (
            blockdev.probe(disk.node).get("PTUUID", "").lower() if part.is_partition and bound is None else ""
        )
        ours = bound is not None or (uuids.valid(table_id) and part_id == uuids.beside(table_id, 2))
        if not ours or _taken_out(raw):
            return None
    volume = next((copy.fsid for copy in copies.values()), bound.volume if bound is not None else "")
    return Unreadable(
        part.node,
        disk.node,
        part.device,
        disk.device,
        volume,
        _here(disk, bound),
        tuple(copies),
        True,
        part_id,
        trust.why_untrusted(disk.sys_path, blockdev.attribute),
    )


def _here(disk: Disk, bound: Binding | None) -> bool:
    return bound is not None and binding.matches(bound, binding.machine_dmi(), binding.disk_serial(disk))


def _of_disk(disk: Disk, words: list[str]) -> list[Unreadable]:
    head = superblock.read_at(disk.node, 0, header.LENGTH)
    if any(head.startswith(word.encode("ascii")) for word in words):
        return []  # it is being formatted, or joins: what its mark says counts
    bound = binding.parse(head)
    parts = blockdev.partitions(disk)
    found = [one for one in (_filesystem(disk, part, bound) for part in parts or [disk]) if one is not None]
    if not parts and not found and bound is not None and not blockdev.probe(disk.node).get("TYPE"):
        found.append(
            Unreadable(
                disk.node,
                disk.node,
                disk.device,
                disk.device,
                bound.volume,
                _here(disk, bound),
                table=False,
                untrusted=trust.why_untrusted(disk.sys_path, blockdev.attribute),
            )
        )
    return found


def _named(one: Unreadable, config: Config) -> bool:
    ids_of = {"UUID": one.volume, "PARTUUID": one.part_id, "LABEL": DATA_NAME, "PARTLABEL": DATA_NAME}
    for spec in config.device:
        key, _, value = spec.partition("=")
        if (
            number_of(spec) in (one.device, one.disk_device)
            if spec.startswith("/")
            else value and value.lower() == ids_of.get(key)
        ):
            return True
    return False


def trusted(every: Iterable[Unreadable], config: Config) -> list[Unreadable]:
    """Those that count: by the rule of finding, a disk on a bus that is not trusted only where it is
    named."""
    return [one for one in every if not one.untrusted or config.allow_removable or _named(one, config)]


def find(config: Config) -> list[Unreadable]:
    """All that count, by looking at the disks themselves. One that does not answer at all is none: nothing
    tells whose it is. Nor is a path to a multipath device, which has all that is on it."""
    found = []
    for disk in probing.without_paths(blockdev.disks()):
        try:
            found += _of_disk(disk, config.magic_headers)
        except (CommandError, OSError):
            continue  # see above
    return trusted(found, config)
