# SPDX-License-Identifier: LGPL-2.1-or-later
"""One disk that is formatted, under its lock: the steps that are of this disk alone."""

from __future__ import annotations

import os
import time

from persist.errors import PersistError
from persist.record import replace
from persist.system import blockdev
from persist.system.blockdev import Disk
from persist.system.run import run
from persist.volume.format.may_format import Progress
from persist.volume.ondisk import binding, header, partition_table
from persist.volume.ondisk.header import FormatMark
from persist.volume.ondisk.partition_table import SWAP_NAME


def write(disk: Disk, data: bytes, offset: int) -> None:
    """Write to a whole disk and flush. Raises OSError."""
    fd = os.open(disk.node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)
        os.fsync(fd)
    finally:
        os.close(fd)


class LockedDisk:
    """One disk under its lock; a method for each step that is of this disk alone."""

    def __init__(
        self, disk: Disk, fd: int, old: FormatMark | None, mark: FormatMark, progress: Progress, word: str
    ) -> None:
        self.disk = disk
        self.fd = fd  # holds the lock; read-only
        self.old = old  # what is on the disk
        self.mark = mark
        self.progress = progress
        self.word = word
        self.parts = partition_table.parts(mark, disk.mib)
        self.diskseq = disk.diskseq

    def check_same(self) -> None:
        """Raise PersistError where the disk behind the node was exchanged."""
        if blockdev.attribute(self.disk.sys_path, "diskseq") not in (self.diskseq, ""):
            raise PersistError(
                f"{self.disk.node} is another disk now.", hint="It was exchanged while it was formatted."
            )

    def write_mark(self) -> None:
        """Note on the disk that it was blank and what it becomes: one sector, so whole or not at all."""
        if self.progress == "blank":
            # A disk without a claim is given one, so that everything else is as for a claim.
            write(self.disk, header.encode(self.word)[: header.MARK_OFFSET] + self.mark.encode(), 0)
        elif self.old != self.mark:
            write(self.disk, self.mark.encode(), header.MARK_OFFSET)

    def note_volume(self, volume: str) -> None:
        """Put the id of the filesystem into the mark."""
        self.mark = replace(self.mark, volume=volume)
        write(self.disk, self.mark.encode(), header.MARK_OFFSET)

    def node(self, name: str) -> str:
        """The partition of this name, as planned. Raises PersistError when the kernel shows another
        picture."""
        starts = {p.start * 2048: p for p in self.parts}
        for part in blockdev.partitions(self.disk):
            planned = starts.get(int(blockdev.attribute(part.sys_path, "start") or "0"))
            if (
                planned is not None
                and planned.name == name
                and part.size == planned.size * partition_table.MIB
                and os.path.exists(part.node)
            ):
                return part.node
        raise PersistError(
            f"The kernel does not show the {name} partition of {self.disk.node}.",
            hint="Restart the machine to go on.",
        )

    def show_partitions(self) -> None:
        """Tell the kernel where it does not know. With our lock held no tool may lock, and nobody may wait
        for udev. Raises PersistError."""
        # Not BLKRRPART: that fails as soon as anyone has a partition open, and does nothing on a kernel
        # without a GPT parser.
        run("partx", "--update", self.disk.node)
        deadline = time.monotonic() + 10
        while len(blockdev.partitions(self.disk)) < len(self.parts) and time.monotonic() < deadline:
            time.sleep(0.05)  # devtmpfs makes the nodes at once; this is for a kernel that is busy
        for part in self.parts:
            self.node(part.name)

    def partition(self) -> None:
        """Write the table and tell the kernel."""
        run(
            "sfdisk",
            "--quiet",
            "--no-reread",
            "--no-tell-kernel",
            "--wipe",
            "never",
            "--wipe-partitions",
            "never",
            self.disk.node,
            stdin=partition_table.script(self.mark, self.disk.mib),
        )
        os.fsync(self.fd)
        self.show_partitions()

    def mkswap(self) -> None:
        """Make the swap space, where there is one."""
        if self.mark.swap:
            run("mkswap", "--label", SWAP_NAME, self.node(SWAP_NAME))

    def data_bytes(self) -> int:
        """How much of the data partition the filesystem uses."""
        return partition_table.filesystem_bytes(self.parts[-1].size * partition_table.MIB)

    def erase(self, volume: str) -> None:
        """Erase the claim and our mark, in the one write that binds the disk to the machine: from now on this
        is a volume and nothing else."""
        write(self.disk, bytes(header.MARK_OFFSET) + binding.encode(binding.of_machine(self.disk, volume)), 0)
