# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claimed disks to a state volume: mark, partition, mkfs, subvolumes, label, erase. Driven by what is on the
disks.

Each step is done on every disk before the next. Killed after any step, or in the middle of one, the next
start ends in the same result: the mark says what the table shall be, the filesystem gets its real label when
all is in it, and the claims are erased last. Until the label is there nothing of value is on the disks, so
whatever was done after the mark is simply done again.

``PERSIST_TEST_KILL_AFTER=STEP`` in the environment is a test hook: the process kills itself after that step,
with ``STEP:INDEX`` after that step on the disk at this place of the set.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

from persist.cut import KILL
from persist.errors import PersistError
from persist.record import Record
from persist.system import blockdev, btrfs, newmount, superblock
from persist.system.blockdev import Disk
from persist.system.parallel import each
from persist.system.run import ENVIRONMENT, run
from persist.volume.format.locked_disk import LockedDisk
from persist.volume.format.may_format import UNFINISHED, flush
from persist.volume.ondisk import header, partition_table, store
from persist.volume.ondisk.partition_table import DATA_NAME, SWAP_NAME

STEPS = ("mark", "partition", "mkfs", "subvolumes", "label", "erase")
TOOLS = ("sfdisk", "partx", "mkswap", "mkfs.btrfs", "wipefs", "blkid")
_SUBVOL_CREATE = 0x5000940E  # linux/btrfs.h; struct btrfs_ioctl_vol_args
_SET_LABEL = 0x41009432  # the same; 256 bytes

# A step begins: its name, the disks, and what is done to them.
OnStep = Callable[[str, tuple[str, ...], str], None]


class Formatted(Record):
    """The result: the filesystem's UUID and its data partitions, and the PARTUUIDs of the swap partitions."""

    uuid: str
    nodes: tuple[str, ...]
    swap: tuple[str, ...]
    disks: tuple[Disk, ...] = ()


def require_tools() -> None:
    """Raise PersistError, with the packages to install, unless all tools that formatting needs are there."""
    places = ENVIRONMENT["PATH"].split(":")
    missing = [t for t in TOOLS if not any(os.access(f"{place}/{t}", os.X_OK) for place in places)]
    if missing:
        raise PersistError(
            f"Formatting needs {', '.join(missing)}, which is not installed.",
            hint="Run 'apt install btrfs-progs fdisk'.",
            message_id="FORMAT_FAILED",
            PERSIST_REASON="tools-missing",
        )


def _make_subvolumes(path: str, uuid: str, members: list[str], swap: list[str], profile: str) -> None:
    """Make the subvolumes, the store and volume.json, and commit them. Raises OSError."""
    for name in btrfs.SUBVOLUMES:
        btrfs.ioctl(path, _SUBVOL_CREATE, btrfs.named(name))
        os.chmod(f"{path}/{name}", 0o700)  # see private.py
    state = f"{path}/{btrfs.SUBVOLUMES[0]}"
    store.make(state)
    store.write_record(state, store.record(uuid, members, swap) | {"profile": profile})
    btrfs.sync(path)


def _set_label(path: str, text: str) -> None:
    """Label the filesystem. The kernel commits a transaction with the label. Raises OSError."""
    btrfs.ioctl(path, _SET_LABEL, bytearray(text.encode("ascii").ljust(256, b"\0")))


class Formatting:
    """The steps over all disks of a set (or one that joins), by their index.

    Each step brings what it does to the media, the caches of the drives included: write() and partition() by
    fsync(2), as mkswap(8) and mkfs.btrfs(8) do themselves, our ioctls by a commit.
    """

    def __init__(self, members: list[LockedDisk], on_step: OnStep) -> None:
        self.members = members
        self.on_step = on_step
        self.mark = members[0].mark
        self.disks = tuple(m.disk.node for m in members)
        self.volume = self.mark.volume  # the filesystem, as soon as there is one

    def _begin(self, name: str, text: str) -> None:
        for member in self.members:
            member.check_same()
        self.on_step(name, self.disks, text)

    def _end(self, name: str) -> None:
        if os.environ.get(KILL, "").split(":")[0] == name:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_each(self, name: str, do: Callable[[LockedDisk], None], text: str) -> None:
        """Do one step on every disk."""
        self._begin(name, text)
        step, _, index = os.environ.get(KILL, "").partition(":")
        if step == name and index:
            for member in self.members[: int(index) + 1]:
                do(member)
        else:
            each(do, self.members)
        self._end(name)

    def once(self, name: str, do: Callable[[], None], text: str) -> None:
        """Do a step that is one for all disks."""
        self._begin(name, text)
        do()
        self._end(name)

    def nodes(self) -> list[str]:
        """The data partitions in their order."""
        return [m.node(DATA_NAME) for m in self.members]

    def mkfs(self) -> None:
        """Make the swap spaces and the filesystem, all at once: they have nothing to do with each other."""
        each(lambda do: do(), [self._mkfs_btrfs, *(m.mkswap for m in self.members)])

    def _mkfs_btrfs(self) -> None:
        """Make the filesystem under a label that says it is not ready. Nothing is discarded: the disks were
        blank.

        mkfs.btrfs chooses the id, which goes into the marks: given one, it reads every disk of the machine to
        see that it is new. And it has to be new each time: a kernel that still knows devices of an earlier
        start, or of a mount(2) that was killed, does not mount others beside them.
        """
        nodes = self.nodes()
        btrfs.forget(*nodes)
        data, metadata = partition_table.profiles(self.mark.layout, len(self.members))
        # Of each device; the larger ones grow when it is mounted.
        size = min(m.data_bytes() for m in self.members)
        run(
            "mkfs.btrfs",
            "--quiet",
            "--force",
            "--nodiscard",
            "--label",
            UNFINISHED,
            "--data",
            data,
            "--metadata",
            metadata,
            "--byte-count",
            str(size),
            *nodes,
            timeout=1800,
        )
        found = superblock.read(nodes[0])
        if found is None:
            raise PersistError(
                f"mkfs.btrfs reported success, but made no filesystem on {nodes[0]}.",
                hint="See 'journalctl -b -k' for errors of the disk.",
            )
        self.volume = found.fsid
        if self.mark.volume:
            each(lambda m: m.note_volume(found.fsid), self.members)

    def _top(self) -> AbstractContextManager[str]:
        """The top of the filesystem. A process that is killed at it leaves no mount behind."""
        nodes = self.nodes()
        return newmount.nowhere(
            "btrfs", nodes[0], ",".join(["subvolid=5", *(f"device={n}" for n in nodes)]), read_only=False
        )

    def subvolumes(self, top: str) -> None:
        """Make what a volume consists of."""
        smallest = min(m.data_bytes() for m in self.members)
        for devid, member in enumerate(self.members, 1):
            if member.data_bytes() > smallest:
                btrfs.resize(top, devid, member.data_bytes())
        ids = {
            name: [p.id for m in self.members for p in m.parts if p.name == name]
            for name in (DATA_NAME, SWAP_NAME)
        }
        _make_subvolumes(top, self.volume, ids[DATA_NAME], ids[SWAP_NAME], self.mark.layout)

    def label(self, top: str) -> None:
        """Give the filesystem its real label."""
        self.once("label", lambda: _set_label(top, DATA_NAME), "labelling the filesystem")

    def _check_apart(self) -> None:
        """Raise PersistError where two of the disks are one, seen by two ways (SAS without multipathd): the
        last mark is on both."""
        for member in self.members if len(self.members) > 1 else ():
            flush(member.disk)
            if (
                superblock.read_at(member.disk.node, header.MARK_OFFSET, header.LENGTH - header.MARK_OFFSET)
                != member.mark.encode()
            ):
                raise PersistError(
                    f"{member.disk.node} and another of {', '.join(self.disks)} are the same disk.",
                    hint="Set up multipathd, or detach one of its paths.",
                )

    def prepare(self) -> None:
        """What a new disk of a volume gets, whether it begins one or joins it."""
        if any(m.old != m.mark for m in self.members):
            self.on_each(
                "mark",
                LockedDisk.write_mark,
                "taking the disk" if len(self.members) == 1 else "taking the disks",
            )
        self._check_apart()
        self.on_each("partition", LockedDisk.partition, "writing the partition table")

    def join(self) -> None:
        """What is done to a disk that joins, before the filesystem takes it."""
        self.prepare()
        self.on_each("mkswap", LockedDisk.mkswap, "making swap space" if self.mark.swap else "no swap space")

    def _finish_label(self) -> None:
        """A cut while the label was written may have left it on some members only: then the others would look
        as if they had been away."""
        nodes, volume = self.nodes(), self.volume
        found = [superblock.read(n) for n in nodes]
        if (
            len(nodes) != self.mark.count
            or any(s is None or s.fsid != volume for s in found)
            or {s.label for s in found if s is not None} == {DATA_NAME}
        ):
            return
        from persist.volume.ondisk import degraded_mark

        if any(degraded_mark.read(n, volume) for n in nodes) or any(
            blockdev.why_in_use(m.disk) for m in self.members
        ):
            return  # it has been mounted since, and who is current was decided there
        with self._top() as top:
            self.label(top)

    def all(self, complete: bool) -> Formatted:
        """Do what is left to do."""
        if not complete:
            self.prepare()
            self.once(
                "mkfs",
                self.mkfs,
                "making the filesystem and swap space" if self.mark.swap else "making the filesystem",
            )
            with self._top() as top:
                self.once("subvolumes", lambda: self.subvolumes(top), "making the subvolumes")
                self.label(top)
        # Looked up first: without the claim nobody would come back to a disk whose partitions do not show.
        for member in self.members:
            if len(blockdev.partitions(member.disk)) < len(member.parts):
                member.show_partitions()
        if complete:
            self._finish_label()
        nodes = self.nodes()
        if not self.mark.volume:
            found = superblock.read(nodes[0])
            self.volume = found.fsid if found is not None else ""
        self.on_each("erase", lambda m: m.erase(self.volume), "erasing the claim")
        swap = tuple(p.id for m in self.members for p in m.parts if p.name == SWAP_NAME)
        return Formatted(self.volume, tuple(nodes), swap, tuple(m.disk for m in self.members))
