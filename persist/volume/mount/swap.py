# SPDX-License-Identifier: LGPL-2.1-or-later
"""Switch on the volume's own swap space: by the partition ids in volume.json, never by label, and only on the
volume's own disks."""

from __future__ import annotations

from collections.abc import Callable

from persist.boot.config import Config
from persist.errors import CommandError, Refusal
from persist.note import WARNING, Note
from persist.system import blockdev
from persist.system.run import run
from persist.volume.ondisk import store


def own_swap(members: list[str], ids: list[str]) -> list[str]:
    """Nodes of the swap partitions with these PARTUUIDs on the disks of these members. A volume must not name
    another disk's.

    Raises Refusal (a member is gone) and CommandError.
    """
    found: list[str] = []
    for disk in {d.sys_path: d for d in (blockdev.whole(blockdev.by_node(m)) for m in members)}.values():
        for part in blockdev.partitions(disk):
            probed = blockdev.probe(part.node)
            if probed.get("TYPE") == "swap" and probed.get("PART_ENTRY_UUID", "").lower() in ids:
                found.append(part.node)
    return found


def not_used(error: object, node: str = "") -> Note:
    """The record of swap space that could not be switched on, on a node or at all."""
    where = f"on {node}" if node else "of the state volume"
    fields = {"PERSIST_DEVICE": node} if node else {}
    return Note(WARNING, f"The swap space {where} is not used: {error}", "FAILED", fields)


def still_off(nodes: list[str], swaps: list[str]) -> list[str]:
    """Those of these nodes that are not in use as swap, by what /proc/swaps has: a disk that was pulled out
    stays there while a page of it is in use, as "/dev/vdb1 (deleted)"."""
    on = set(filter(None, map(blockdev.number_of, swaps)))
    return [node for node in nodes if blockdev.number_of(node) not in on]


def on(node: str) -> None:
    """Switch on the swap space on a node. Raises CommandError."""
    run("swapon", node)


def enable(members: list[str], config: Config, switch_on: Callable[[str], None] = on) -> list[Note]:
    """Switch on what is not on yet. Returns what went wrong. Raises OSError where the volume cannot be
    read."""
    if config.netdev:
        # no order keeps the network until the last page has come back (tried: the swap space outlived it)
        return []
    ids = store.swap_ids(store.read_record())
    if not ids:
        return []
    try:
        nodes = own_swap(members, ids)
    except (CommandError, Refusal) as e:
        return [not_used(e.message)]
    wrong = [] if nodes else [not_used("its partition was not found on the disks of the volume.")]
    for node in still_off(nodes, blockdev.swaps()):
        try:
            switch_on(node)
        except (CommandError, OSError) as e:
            wrong.append(not_used(e.message if isinstance(e, CommandError) else e.strerror, node))
    return wrong
