# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the volume's record says of its disks. Nothing is written where it has none: persist did not make that
volume."""

from __future__ import annotations

from persist.system import blockdev
from persist.volume.members import in_kernel
from persist.volume.ondisk import partition_table, store


def swap_parts(nodes: list[str]) -> list[str]:
    """The PARTUUIDs of the swap partitions of ours on the disks of these data partitions. Raises
    PersistError."""
    found = []
    for disk in {d.sys_path: d for d in (blockdev.whole(blockdev.by_node(n)) for n in nodes)}.values():
        for part in blockdev.partitions(disk):
            p = blockdev.probe(part.node)
            if (
                p.get("TYPE") == "swap"
                and p.get("PART_ENTRY_NAME") == partition_table.SWAP_NAME
                and p.get("LABEL") == partition_table.SWAP_NAME
            ):
                found.append(p.get("PART_ENTRY_UUID", "").lower())
    return sorted(filter(None, found))


def note_members(path: str, ids: list[str]) -> None:
    """Note the members, by their PARTUUIDs, and the swap partitions on their disks. Raises PersistError and
    OSError."""
    record = store.read_record(path)
    if not record:
        return
    nodes = [m.node for m in in_kernel.glance(path) if m.ok]
    store.write_record(path, record | {"members": sorted(filter(None, ids)), "swap": swap_parts(nodes)})


def note_serials(path: str) -> None:
    """Note the serial numbers of the disks: of one that is missing nobody can ask it any more.
    Raises PersistError and OSError."""
    record = store.read_record(path)
    if not record:
        return
    devices = [m for m in in_kernel.glance(path) if m.devid]
    noted = store.serials(record)
    now = {
        m.devid: blockdev.whole(blockdev.by_node(m.node)).serial if m.ok else noted.get(m.devid, "")
        for m in devices
    }
    if now != noted:
        store.write_record(path, record | {"serials": {str(k): v for k, v in now.items()}})
