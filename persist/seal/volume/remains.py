# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a state volume has beside the files of entries: snapshots, what a cut seed has left, swap space with
what was in memory, and marks of the machine and of the disks that it was made on. None of it is in any layer.

Each step looks at what is there, so a run that was cut is finished by the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from persist import cut
from persist.errors import PersistError
from persist.record import Record
from persist.seal.volume.where import Volume
from persist.seal.wipe import remove
from persist.system import blockdev
from persist.system.btrfs import SUBVOLUMES
from persist.system.run import run
from persist.system.safepath import Dir
from persist.volume.ondisk import binding, partition_table, store
from persist.volume.ondisk.binding import Binding
from persist.volume.ondisk.header import MARK_OFFSET

STEPS = ("snapshots", "left-over", "serials", "unbound", "volume-swap")
_STATE, _, _SNAPSHOTS = SUBVOLUMES
_SWAP = ("", "swap", "swsuspend")  # TYPE= of blkid(8): nothing where a run was cut while it made it anew


def _step(name: str) -> None:
    assert name in STEPS, name
    cut.after(name)


class Subvolume(Record):
    """A subvolume as btrfs(8) lists it; ``parent`` is the UUID of what it is a snapshot of, '' for none."""

    number: int
    uuid: str
    parent: str
    path: str


def parse(text: str) -> list[Subvolume]:
    """What 'btrfs subvolume list -q -u' prints. Raises PersistError for what cannot be understood. Pure."""
    found = []
    for line in text.split("\n"):
        if not line:
            continue
        head, _, path = line.partition(" path ")
        words = head.split(" ")
        fields = dict(zip(words[::2], words[1::2], strict=False)) if words[:1] == ["ID"] else {}
        ids = dict(zip(words, words[1:], strict=False))
        number = fields.get("ID", "")
        if not (number.isascii() and number.isdigit()) or "uuid" not in ids or not path:
            raise PersistError(f"The subvolumes of the state volume cannot be told apart: '{line}'.")
        parent = ids.get("parent_uuid", "-")
        found.append(Subvolume(int(number), ids["uuid"], "" if parent == "-" else parent, path))
    return found


def elsewhere(every: Iterable[Subvolume]) -> list[str]:
    """The paths of snapshots of the state, or of what it is a snapshot of, that lie elsewhere than where
    persist has them: they would keep what is wiped, and are not ours to remove. Pure."""
    rest = list(every)
    family = {each for one in rest if one.path == _STATE for each in (one.uuid, one.parent)}
    found: list[Subvolume] = []
    while more := [one for one in rest if {one.uuid, one.parent} & (family - {""})]:
        rest = [one for one in rest if one not in more]
        found += more
        family |= {each for one in more for each in (one.uuid, one.parent)}
    return sorted(one.path for one in found if one.path != _STATE and not _is_ours(one))


def _is_ours(one: Subvolume) -> bool:
    return one.path.startswith(_SNAPSHOTS + "/") or one.path in SUBVOLUMES


def _subvolumes(volume: Volume) -> list[Subvolume]:
    return parse(run("btrfs", "subvolume", "list", "-q", "-u", volume.top)) if volume.top else []


def _ours(every: Iterable[Subvolume]) -> list[Subvolume]:
    """The snapshots that go, those in others first."""
    found = [one for one in every if _is_ours(one) and one.path not in SUBVOLUMES]
    return sorted(found, key=lambda one: one.path.count("/"), reverse=True)


def _left_over(volume: Volume) -> Iterator[Dir]:
    """Directories in which nothing is kept: seeds that were cut, what links have led to before, what an
    overlay was copying, and what lies beside snapshots."""
    with Dir.at(volume.path) as top:
        for name in ("tmp", "replaced"):
            try:
                with top.inner(f".persist/{name}") as there:
                    yield there
            except FileNotFoundError:
                continue  # no link was ever replaced
        with top.inner(".persist/overlay") as overlays:
            for name in sorted(os.listdir(overlays.fd)):
                try:
                    with overlays.inner(f"{name}/work/work") as there:
                        yield there
                except FileNotFoundError:
                    continue  # it was never mounted
    if volume.top:
        with Dir.at(volume.top) as top:
            try:
                with top.inner(_SNAPSHOTS) as there:
                    yield there
            except FileNotFoundError:
                return  # somebody has removed it


def _disks(volume: Volume) -> list[blockdev.Disk]:
    found = {disk.sys_path: disk for disk in (blockdev.whole(blockdev.by_node(n)) for n in volume.nodes)}
    return [found[path] for path in sorted(found)]


def swap_space(volume: Volume) -> list[tuple[str, str]]:
    """The volume's own swap spaces, by the ids in its record: their nodes and UUIDs. Raises CommandError,
    OSError."""
    ids = store.swap_ids(store.read_record(volume.path))
    found = []
    for disk in _disks(volume) if ids else ():
        for part in blockdev.partitions(disk):
            p = blockdev.probe(part.node)
            if p.get("PART_ENTRY_UUID", "").lower() in ids and p.get("TYPE", "") in _SWAP:
                found.append((part.node, p.get("UUID", "")))
    return found


def wrong(volume: Volume, *, looking: bool) -> list[str]:
    """What is wrong with all that. Raises CommandError, OSError."""
    strange = [name for name in os.listdir(volume.top) if name not in SUBVOLUMES] if volume.top else []
    errors = [
        f"'{name}' lies beside the subvolumes of the state volume (subvolid=5), where nothing is wiped."
        for name in sorted(strange)
    ]
    errors += [
        f"'{path}' on the state volume is a snapshot, and would keep what is wiped: 'btrfs subvolume delete'."
        for path in elsewhere(_subvolumes(volume))
        if path not in strange
    ]
    used = {blockdev.number_of(name) for name in blockdev.swaps()}
    for node, _ in () if looking else swap_space(volume):
        if blockdev.number_of(node) in used:
            errors.append(f"The swap space {node} of the state volume is in use: 'swapoff {node}'.")
    return errors


def left(volume: Volume) -> list[str]:
    """What is there that should have gone. Raises CommandError, OSError."""
    found = [f"The snapshot '{one.path}' is there on the state volume." for one in _ours(_subvolumes(volume))]
    for there in _left_over(volume):
        if os.listdir(there.fd):
            found.append(f"'{there.name}' of the state volume is not empty.")
    return found


def _snapshots(volume: Volume) -> None:
    every = _ours(_subvolumes(volume))
    for one in every:
        # By its number: no name on a volume is resolved.
        run("btrfs", "subvolume", "delete", "--commit-after", "--subvolid", str(one.number), volume.top)
    if every:
        run("btrfs", "subvolume", "sync", volume.top, timeout=None)  # until their blocks are free


def _unbind(volume: Volume) -> None:
    """Bind the disks to no machine: what is noted there are this machine's id and their serial numbers, by
    which no clone is known."""
    for disk in _disks(volume):
        noted = binding.read(disk.node)
        if noted is None or noted.volume.lower() != volume.uuid:
            continue
        fd = os.open(disk.node, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, binding.encode(Binding(volume.uuid)), MARK_OFFSET)
            os.fsync(fd)
        finally:
            os.close(fd)


def empty(volume: Volume, make_swap: Callable[[str, str, str], None]) -> None:
    """Take all that away; ``make_swap`` empties the swap space on a node and makes it anew, with a UUID and a
    label. Raises PersistError, OSError."""
    _snapshots(volume)
    _step("snapshots")
    for there in _left_over(volume):
        for name in sorted(os.listdir(there.fd)):
            remove(there, name)
        there.sync()
    _step("left-over")
    record = store.read_record(volume.path)
    if record.pop("serials", None) is not None:
        store.write_record(volume.path, record)
    _step("serials")
    _unbind(volume)
    _step("unbound")
    for node, uuid in swap_space(volume):
        make_swap(node, uuid, partition_table.SWAP_NAME)
    _step("volume-swap")
