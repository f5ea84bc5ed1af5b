# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disks that an image is made of: a state volume that would be carried along, swap space with what was
in memory, and blocks of what was wiped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from persist.boot.fstab import Line
from persist.errors import CommandError, PersistError
from persist.record import Record
from persist.system import blockdev, btrfs
from persist.system.blockdev import Disk
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.volume.find.decision import BTRFS
from persist.volume.ondisk.partition_table import DATA_NAME

_TRIM_SEC = 1500.0  # some disks take their time to discard
_SWAP = ("swap", "swsuspend")  # TYPE= of blkid(8); the latter holds an image of the memory


def _below(device: Disk) -> Iterator[Disk]:
    """The whole disks that a device lies on, through partitions and what maps others."""
    try:
        slaves = sorted(os.listdir(f"{device.sys_path}/slaves"))
    except FileNotFoundError:
        slaves = []
    if not slaves:
        yield blockdev.whole(device)
    for slave in slaves:
        yield from _below(blockdev.at(f"{blockdev.SYS_BLOCK}/{slave}"))


def whole_disks(node: str) -> set[str]:
    """The directories in sysfs of the whole disks that a node lies on; none where it is no block device."""
    try:
        return {disk.sys_path for disk in _below(blockdev.by_node(node))}
    except (PersistError, OSError):
        return set()  # the name of an overlay or a pool: others look at those


def captured(mounts: Iterable[Mount]) -> set[str]:
    """The whole disks that the mounts of an image lie on. btrfs and others have numbers of their own: what
    they name is looked at."""
    found: set[str] = set()
    for mount in mounts:
        by_number = f"/sys/dev/block/{mount.device}"
        if os.path.exists(by_number):
            found |= {disk.sys_path for disk in _below(blockdev.at(by_number))}
        else:
            found |= whole_disks(mount.source)
    return found


def volumes_on(disks: Iterable[str]) -> list[str]:
    """The nodes of filesystems with a state volume's label on these disks. Raises CommandError."""
    found = []
    for path in sorted(disks):
        disk = blockdev.at(path)
        for part in (disk, *blockdev.partitions(disk)):
            if blockdev.probe(part.node).get("LABEL") == DATA_NAME:
                found.append(part.node)
    return found


class Swap(Record):
    """Swap space of fstab: a node, or a file in the tree."""

    node: str
    uuid: str
    label: str
    is_file: bool = False


def _place(what: str, top: str) -> str:
    """Where the swap space of a line of fstab is, '' where it is not there."""
    if what.startswith("/dev/") and os.path.exists(what):
        return os.path.realpath(what)
    if what.startswith("/"):
        path = top.rstrip("/") + what
        return path if os.path.isfile(path) and not os.path.islink(path) else ""
    return run("findfs", what, ok=(0, 1)).strip() if "=" in what else ""


def swap_space(lines: Iterable[Line], top: str, *, looking: bool = False) -> tuple[list[Swap], list[str]]:
    """The swap space of fstab, on whatever disk, and in files of the tree whose directory is TOP; and what is
    wrong with it. On a disk of its own it has what was in memory, too, and nothing tells which of its disks
    somebody copies. ``looking``: the machine runs and uses it as ever, which the seal boot does not. Raises
    CommandError."""
    found, errors = [], []
    used = set() if looking else {blockdev.number_of(name) or name for name in blockdev.swaps()}
    for line in lines:
        node = "" if line.where or line.network() else _place(line.what, top)
        is_file = bool(node) and node.startswith(top.rstrip("/") + "/")
        if not node or not (is_file or whole_disks(node)):
            continue
        probed = blockdev.probe(node)
        if probed.get("TYPE") not in _SWAP:
            continue  # made anew at each boot, as crypttab has it
        if (line.what if is_file else blockdev.number_of(node)) in used:
            errors.append(f"The swap space {line.what} is in use: 'swapoff {line.what}'.")
        else:
            found.append(Swap(node, probed.get("UUID", ""), probed.get("LABEL", ""), is_file))
    return found, errors


def _empty_file(path: str) -> None:
    """Write zeros over a file, which keeps its blocks: swap space may have no holes. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "wb", buffering=0) as f:
        left, zeros = os.fstat(fd).st_size, bytes(1 << 20)
        while left > 0:
            left -= f.write(zeros[:left])
        os.fsync(fd)


def make_swap(swap: Swap) -> None:
    """Empty swap space and make it anew, as others know it. Raises CommandError, OSError."""
    if swap.is_file:
        _empty_file(swap.node)
    else:
        run("blkdiscard", "--force", "--zeroout", swap.node, timeout=None)
    uuid = ("--uuid", swap.uuid) if swap.uuid else ()
    label = ("--label", swap.label) if swap.label else ()
    run("mkswap", *uuid, *label, swap.node)


def trim(mounts: Iterable[Mount], top: str) -> list[str]:
    """Give back the blocks of what was wiped, on mounts in the tree whose directory is TOP. A btrfs that is
    in use keeps old metadata in what it has set aside for its next (tried), so that is moved before. Returns
    a warning for each place where they stay. Raises OSError."""
    said, moved = [], set()
    for mount in mounts:
        try:
            if mount.fstype == BTRFS and mount.device not in moved:
                moved.add(mount.device)
                btrfs.move_metadata(mount.mount_point, btrfs.MOVE_SEC)
            run("fstrim", mount.mount_point, timeout=_TRIM_SEC)
        except CommandError as e:
            shown = mount.mount_point.removeprefix(top) or "/"
            why = e.stderr.strip().rpartition(": ")[2] or e.message
            said.append(f"What was wiped can be read from the free blocks of '{shown}': {e.argv[0]}: {why}.")
    return said
