# SPDX-License-Identifier: LGPL-2.1-or-later
"""What healing has to know: the mounted volume, and what beside it could become a member. Looks only."""

from __future__ import annotations

import os
from collections.abc import Callable

from persist.boot.config import Config
from persist.errors import Refusal
from persist.note import Say
from persist.system import blockdev, btrfs
from persist.system.run import run
from persist.volume.find import candidates, trust
from persist.volume.find.choose import decide
from persist.volume.find.decision import Found, Known
from persist.volume.format import joining, may_format
from persist.volume.format.joining import Joiner
from persist.volume.heal.plan import Spare, State
from persist.volume.members import assemble, in_kernel
from persist.volume.members.ancestry import IsAncestor, Member, ancestor
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.ondisk import binding, partition_table, store
from persist.volume.ondisk.header import LAYOUTS, Layout
from persist.volume.ondisk.partition_table import DATA_NAME

_PROFILES = frozenset(("single", "dup", "raid0", "raid1", "raid1c3", "raid1c4", "raid10", "raid5", "raid6"))


def profiles(uuid: str) -> tuple[frozenset[str], frozenset[str]]:
    """The profiles of the data and of the metadata of a mounted filesystem; several while it is converted, or
    after it was degraded."""
    data, metadata, system = (
        frozenset(btrfs.names(uuid, f"allocation/{kind}")) & _PROFILES
        for kind in ("data", "metadata", "system")
    )
    return data, metadata | system


def chosen_layout(record: dict[str, object]) -> Layout:
    """The layout of a volume by its record: what was asked for when it was made."""
    return next((name for name in LAYOUTS if name == record.get("profile")), "auto")


def recorded(record: dict[str, object]) -> tuple[str, ...]:
    """The PARTUUIDs of the members by the record."""
    ids = record.get("members")
    return tuple(i.lower() for i in ids if isinstance(i, str)) if isinstance(ids, list) else ()


def part_id(node: str) -> str:
    """The PARTUUID of a partition, '' for a whole disk. Raises CommandError."""
    return blockdev.probe(node).get("PART_ENTRY_UUID", "").lower()


def _trusted(uuid: str, config: Config) -> list[str]:
    """The members of this filesystem that may be used: those that finding would take, and those that Device=
    names by their path."""
    every = [c for c in candidates.candidates() if c.uuid.lower() == uuid]
    decision = decide(config, Known(named=uuid, member=candidates.member), every)
    found = set(decision.members) if isinstance(decision, Found) else set()
    found |= {
        c.node
        for c in every
        if not c.untrusted
        or config.allow_removable
        or trust.names_node(config, *_numbers(c.node, c.disk_node))
    }
    return sorted(found)


def _numbers(*nodes: str) -> list[int]:
    return [os.stat(n).st_rdev for n in nodes if n and os.path.exists(n)]


def outsiders(uuid: str, devices: list[LiveDevice], config: Config) -> list[Member]:
    """Members of this filesystem on trusted disks that are not in use. Raises CommandError and OSError.

    One that is behind and that the kernel has open all the same (its writes failed for a while) is in use.
    """
    used = {blockdev.number_of(m.node) for m in devices if m.ok}
    return [
        m
        for m in assemble.read(_trusted(uuid, config), uuid)
        if blockdev.number_of(m.node) not in used and not in_kernel.is_open(uuid, m.node)
    ]


def _bound(member: Member) -> bool:
    return binding.is_here(member.node, member.superblock.fsid)


def stale(
    devices: list[LiveDevice],
    others: list[Member],
    bound: Callable[[Member], bool] = _bound,
    is_ancestor: IsAncestor = ancestor,
) -> list[Member]:
    """Those of the members not in use that were a device which is gone now, and hold nothing that is not on
    those in use.

    One whose disk is ``bound`` to this machine is not wiped for the sake of others that are not.
    """
    gone = {m.devid: m.uuid for m in devices if not m.ok and m.devid}
    found = [
        m
        for m in others
        if gone.get(m.superblock.devid) == m.superblock.device_uuid
        and not in_kernel.split(m, devices, is_ancestor)
    ]
    ids = [m.superblock.devid for m in others]
    found = [m for m in found if ids.count(m.superblock.devid) == 1]  # of a cloned disk neither is touched
    if any(bound(m) for m in found) and not any(
        bound(Member(d.node, d.block, d.mark)) for d in devices if d.ok and d.block is not None
    ):
        found = [m for m in found if not bound(m)]
    return found


def _wiped(ids: tuple[str, ...], used: set[str], config: Config) -> list[Spare]:
    """Partitions that the record names and that hold nothing: healing was stopped after it wiped them."""
    found = []
    for disk in blockdev.disks():
        for part in blockdev.partitions(disk):
            if part.device in used:
                continue
            p = blockdev.probe(part.node)
            if (
                p.get("PART_ENTRY_UUID", "").lower() not in ids
                or p.get("PART_ENTRY_NAME") != DATA_NAME
                or "TYPE" in p
            ):
                continue
            try:
                may_format.check_trust(disk, config)
            except Refusal:
                continue
            found.append(Spare(part.node, part.size, p["PART_ENTRY_UUID"].lower(), wiped=True))
    return found


def _unsplit(uuid: str, devices: list[LiveDevice], ready: list[Joiner]) -> list[Joiner]:
    """Without those that have been members, until a stop came before their claim was erased, and were written
    alone since."""
    return [j for j in ready if not any(in_kernel.split(m, devices) for m in assemble.read([j.node], uuid))]


def _spares(
    uuid: str, devices: list[LiveDevice], ids: tuple[str, ...], ready: list[Joiner], config: Config
) -> list[Spare]:
    found = []
    used = {blockdev.number_of(m.node) for m in devices if m.ok}
    if any(not m.ok for m in devices):
        found = [
            Spare(m.node, blockdev.by_node(m.node).size, part_id(m.node), m.superblock.devid)
            for m in stale(devices, outsiders(uuid, devices, config))
        ]
        found += _wiped(ids, used, config)
    taken = {s.node for s in found}
    found += [
        Spare(j.node, blockdev.by_node(j.node).size, j.mark.data_id)
        for j in _unsplit(uuid, devices, ready)
        if j.node not in taken and blockdev.number_of(j.node) not in used
    ]
    return found


def _suspended(path: str) -> bool:
    return "suspended" in run("btrfs", "replace", "status", "-1", path)


def gather(path: str, config: Config, say: Say) -> tuple[State, list[Joiner]]:
    """The state of the volume that is mounted at a path, and the disks that join it. Raises PersistError and
    OSError."""
    uuid = btrfs.filesystem_uuid(path)
    operation = btrfs.attribute(uuid, "exclusive_operation") or "none"
    devices = in_kernel.members(path)
    if operation != "none":
        return State(tuple(devices), operation), []
    record = store.read_record(path)
    ids = {m.devid: part_id(m.node) for m in devices if m.ok and m.devid}
    ids = {devid: i for devid, i in ids.items() if i}
    named = recorded(record)
    ready = joining.joiners(uuid, config, say)
    used = {blockdev.number_of(m.node) for m in devices if m.ok}
    count = sum(1 for m in devices if m.devid)
    return State(
        tuple(devices),
        operation,
        _suspended(path),
        tuple(_spares(uuid, devices, named, ready, config)),
        ids,
        named if record else tuple(ids.values()),
        profiles(uuid),
        partition_table.profiles(chosen_layout(record), count) if record else None,
        tuple(m.mark.counter for m in devices if m.ok and m.mark is not None),
        tuple(j.node for j in ready if blockdev.number_of(j.node) in used),
    ), ready
