# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``persistctl volume`` does. The same steps as healing, asked for by hand. Each function returns what
the command prints."""

from __future__ import annotations

import os
from typing import Any

from persist.boot.config import Config, load
from persist.boot.paths import VOLUME
from persist.errors import CommandError, PersistError, Refusal
from persist.note import INFO, Note, Say
from persist.record import as_dict
from persist.system import blockdev, btrfs, mountinfo
from persist.system.run import run
from persist.volume import outcome
from persist.volume.format import format_lock, joining
from persist.volume.format.write_claim import write_claim
from persist.volume.heal import health, look
from persist.volume.heal import scrub as scrubbing
from persist.volume.heal.healer import Healer
from persist.volume.heal.kernel_work import progress
from persist.volume.heal.lock import by_hand
from persist.volume.members import in_kernel
from persist.volume.members.in_kernel import LiveDevice
from persist.volume.mount import swap
from persist.volume.ondisk import partition_table, store
from persist.volume.ondisk.header import Options
from persist.volume.space import follow_disk, reserve


def mounted(path: str, *, writable: bool = False) -> str:
    """The UUID of the volume at a path. Raises PersistError where there is none, or it takes no writes and
    has to."""
    at = mountinfo.at(path)
    if at is None or at.fstype != "btrfs":
        raise PersistError("There is no state volume on btrfs on this boot.", hint="See 'persistctl status'.")
    if writable and at.read_only:
        raise PersistError("The state volume is mounted read-only.", hint="See 'persistctl status'.")
    return btrfs.filesystem_uuid(path)


def _serial(m: LiveDevice, noted: dict[int, str]) -> str:
    """The serial number of a disk, of one that is not there as it was noted; '' where nobody knows it."""
    return (blockdev.whole(blockdev.by_node(m.node)).serial if m.ok else "") or noted.get(m.devid, "")


def _member(uuid: str, m: LiveDevice, noted: dict[int, str]) -> dict[str, Any]:
    mark = {"counter": m.mark.counter, "id": m.mark.id} if m.mark is not None else None
    return {
        "devid": m.devid,
        "node": m.node,
        "serial": _serial(m, noted),
        "state": m.state,
        "size": m.size,
        "allocated": m.used,
        "generation": m.block.generation if m.block else None,
        "mark": mark,
        "errors": health.errors(uuid, m.devid) if m.ok else None,
    }


def scrub_status(path: str = VOLUME) -> dict[str, Any]:
    """How far the last scrub is. Raises PersistError."""
    mounted(path)
    return {"message": scrubbing.last(run("btrfs", "scrub", "status", path, ok=(0, 1)))}


def describe(path: str = VOLUME) -> dict[str, Any]:
    """The volume and its members: sizes in bytes, '', None and nothing for what is not known. Raises
    PersistError and OSError.

    ``used`` and ``free`` are what df(1) shows; ``allocated`` of a member is what btrfs has in chunks on it,
    whether or not they are full.
    """
    uuid = mounted(path)
    operation = btrfs.attribute(uuid, "exclusive_operation")
    space = os.statvfs(path)
    data, metadata = look.profiles(uuid)
    record = store.read_record(path)
    said = outcome.read()
    noted = store.serials(record)
    return {
        "uuid": uuid,
        "path": path,
        "layout": look.chosen_layout(record),
        "profiles": {"data": sorted(data), "metadata": sorted(metadata)},
        "size": space.f_blocks * space.f_frsize,
        "used": (space.f_blocks - space.f_bfree) * space.f_frsize,
        "free": space.f_bavail * space.f_frsize,
        "reserve_used": reserve.in_use(path),
        "operation": operation,
        "progress": progress(path, operation),
        "scrub": scrub_status(path)["message"],
        "members": [_member(uuid, m, noted) for m in in_kernel.members(path)],
        "reasons": [as_dict(r) for r in health.examine(uuid, path)],
        "others": said.others if said is not None else [],
    }


def _healer(path: str, config: Config, say: Say) -> Healer:
    return Healer(path, config, say, lambda step, text: _tell(say, text) if step else None)


def _tell(say: Say, text: str) -> None:
    """Say what is being done, to who is waiting for it."""
    say(Note(INFO, text, "HEAL_STEP"))


def add(
    node: str, say: Say, *, force: bool = False, path: str = VOLUME, config: Config | None = None
) -> dict[str, Any]:
    """Claim a disk for the volume and make it a member now. Raises Refusal (the disk is left as it is),
    PersistError and OSError."""
    uuid = mounted(path, writable=True)
    config = load("", []) if config is None else config
    write_claim(node, config, force, Options(join=uuid))
    with by_hand():
        # persist-format.service may have done this already, where udev told it of the claim.
        with format_lock.alone():
            joining.prepare(
                blockdev.by_node(node),
                uuid,
                config,
                lambda step, nodes, text: _tell(say, f"{', '.join(nodes)}: {text}"),
            )
        _healer(path, config, say).heal()
    number = blockdev.by_node(node)
    names = {p.device for p in blockdev.partitions(number)}
    if not any(blockdev.number_of(m.node) in names for m in in_kernel.members(path) if m.ok):
        raise PersistError(
            f"Failed to make {node} a member of the state volume.",
            hint="See 'persistctl volume show' and 'journalctl -b -k'.",
        )
    for note in swap.enable([m.node for m in in_kernel.members(path) if m.ok], config):
        say(note)
    return {"device": node, "uuid": uuid, "message": f"{node} is a member of the state volume now."}


def _chosen(devices: list[LiveDevice], name: str) -> LiveDevice:
    """The device that somebody means. Raises Refusal."""
    if name == "missing":
        gone = [m for m in devices if not m.ok and m.devid]
        if len(gone) != 1:
            raise Refusal(
                "which",
                "No disk of the state volume is missing."
                if not gone
                else f"{len(gone)} disks of the state volume are missing.",
                hint="See 'persistctl volume show'.",
            )
        return gone[0]
    wanted = blockdev.by_node(name)
    numbers = {wanted.device, *(p.device for p in blockdev.partitions(wanted))}
    for m in devices:
        if m.devid and m.ok and blockdev.number_of(m.node) in numbers:
            return m
    raise Refusal(
        "not-a-member", f"{name} is not a disk of the state volume.", hint="See 'persistctl volume show'."
    )


def _check_removal(devices: list[LiveDevice], chosen: LiveDevice, path: str) -> None:
    """Raise Refusal where nothing would be left, another one is gone, or the others have no room."""
    left = [m for m in devices if m.devid and m.devid != chosen.devid]
    if any(not m.ok for m in left):
        raise Refusal(
            "degraded",
            "Another disk of the state volume is missing, so what this one has may be the only copy.",
            hint="Replace the missing one first, or drop it with 'persistctl volume remove missing'.",
        )
    if not any(m.ok for m in left):
        raise Refusal(
            "last-member",
            "That is the only disk of the state volume.",
            hint="Add another one first: 'persistctl volume add DEVICE'.",
        )
    space = os.statvfs(path)
    used = (space.f_blocks - space.f_bfree) * space.f_frsize
    # A mirror needs room for both copies, statvfs counts one.
    copies = 2 if len(left) > 1 else 1
    if used * copies > sum(m.size for m in left) * 9 // 10:
        raise Refusal(
            "no-room",
            f"What is on the state volume ({used >> 20} MiB) has no room on the disks that would be left.",
            hint="Remove what is not needed first.",
        )


def _swap_off(node: str) -> list[str]:
    """Switch off the swap partitions of ours on the disk of a member; returns the PARTUUIDs. Raises
    PersistError."""
    disk = blockdev.whole(blockdev.by_node(node))
    on = set(blockdev.swaps())
    ids = []
    for part in blockdev.partitions(disk):
        p = blockdev.probe(part.node)
        if p.get("PART_ENTRY_NAME") == partition_table.SWAP_NAME:
            ids.append(p.get("PART_ENTRY_UUID", "").lower())
            if part.node in on:
                run("swapoff", part.node)
    return ids


def remove(name: str, say: Say, *, path: str = VOLUME) -> dict[str, Any]:
    """Take a member out: convert the profiles down where too few are left, move its data, note it. Raises
    Refusal, PersistError and OSError."""
    uuid = mounted(path, writable=True)
    with by_hand():
        operation = btrfs.attribute(uuid, "exclusive_operation")
        if operation not in ("", "none"):
            raise Refusal(
                "busy",
                f"The kernel is busy with the state volume ({operation}).",
                hint="See 'persistctl volume show', and wait.",
            )
        devices = in_kernel.members(path)
        chosen = _chosen(devices, name)
        _check_removal(devices, chosen, path)
        record = store.read_record(path)
        left = sum(1 for m in devices if m.devid) - 1
        data, metadata = partition_table.profiles(look.chosen_layout(record), left)
        found = look.profiles(uuid)
        if any(not have <= {want} for have, want in zip(found, (data, metadata), strict=True)):
            _tell(say, f"converting data to {data} and metadata to {metadata}")
            run(
                "btrfs",
                "balance",
                "start",
                f"-dconvert={data},soft",
                f"-mconvert={metadata},soft",
                "--force",
                path,
                timeout=None,
            )
        gone_ids = [look.part_id(chosen.node)] if chosen.ok else []
        swaps = _swap_off(chosen.node) if chosen.ok else []
        _tell(say, f"moving what is on {chosen.node or 'the missing disk'} to the others")
        run("btrfs", "device", "remove", str(chosen.devid), path, timeout=None)
        if record:
            ids = [
                i
                for m in in_kernel.members(path)
                if m.ok and (i := look.part_id(m.node)) and i not in gone_ids
            ]
            store.write_record(
                path,
                record
                | {"members": sorted(ids), "swap": [i for i in store.swap_ids(record) if i not in swaps]},
            )
        _healer(path, load("", []), say).heal()
    what = (
        f"{chosen.node} is no longer a member of the state volume, and holds nothing of it."
        if chosen.ok
        else "The missing disk is no longer a member of the state volume."
    )
    hint = (
        " To use its disk for something else, erase it: 'wipefs --all'."
        if chosen.ok
        else " If it is attached again, it is ignored."
    )
    return {"device": chosen.node, "devid": chosen.devid, "uuid": uuid, "message": what + hint}


def scrub(say: Say, path: str = VOLUME) -> dict[str, Any]:
    """Read everything now. Raises PersistError."""
    uuid = mounted(path, writable=True)
    _tell(say, "reading all data of the state volume")
    try:
        found = scrubbing.scrub(path)
    except CommandError as e:
        raise PersistError(
            f"Failed to scrub the state volume: {e.message}",
            hint="Another scrub may be running: 'persistctl volume scrub --status'.",
        ) from e
    fate = "some cannot be repaired, see 'journalctl -k'" if found.beyond_repair else "all repaired"
    return {
        "uuid": uuid,
        "errors": found.errors,
        "failed": found.beyond_repair,
        "message": f"Errors were found ({found.errors}), {fate}."
        if found.errors
        else "All data was read, and no errors were found.",
    }


def grow(path: str = VOLUME) -> dict[str, Any]:
    """Follow disks that grew. Raises PersistError and OSError."""
    uuid = mounted(path, writable=True)
    with by_hand():
        grown = follow_disk.follow(path)
    message = "\n".join(
        f"{g.node}: {g.before >> 20} MiB before, {g.after >> 20} MiB now." for g in grown
    ) or follow_disk.why_not(path)
    return {"uuid": uuid, "grown": [as_dict(g) for g in grown], "message": message}
