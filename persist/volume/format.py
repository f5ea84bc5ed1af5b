# SPDX-License-Identifier: LGPL-2.1-or-later
"""A claimed disk to a state volume: mark, partition, mkswap, mkfs, subvolumes, label, erase. Driven by what is on the disk.

Killed after any step, or in the middle of one, the next start ends in the same result: the mark says what the table shall
be, the filesystem gets its real label when all is in it, and the claim is erased last. Until the label is there nothing of value is on the disk,
so whatever was done after the mark is simply done again.

``PERSIST_TEST_KILL_AFTER=STEP`` in the environment is a test hook: the process kills itself after that step.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..boot.config import Config
from ..boot.paths import RUN
from ..errors import PersistError
from ..run import ENVIRONMENT, run
from . import blockdev, claimable, header, layout, mountinfo, store
from .blockdev import Disk
from .btrfs import SUBVOLUMES, filesystem_uuid
from .claimable import UNFINISHED
from .header import Mark
from .layout import DATA_NAME, SWAP_NAME

STEPS = ("mark", "partition", "mkswap", "mkfs", "subvolumes", "label", "erase")
TOOLS = ("sfdisk", "partx", "mkswap", "mkfs.btrfs", "btrfs", "wipefs", "blkid")
WORK = f"{RUN}/format"

Status = Callable[[str, str], None]


@dataclass(frozen=True)
class Formatted:
    """The result: the filesystem's UUID and data partition, and the PARTUUIDs of the swap partitions."""

    uuid: str
    node: str
    swap: tuple[str, ...]


def require_tools() -> None:
    """Raise PersistError, with the packages to install, unless all tools that formatting needs are there."""
    missing = [t for t in TOOLS if shutil.which(t, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        raise PersistError(f"Formatting needs {', '.join(missing)}, which is not installed.", hint="Run 'apt install btrfs-progs fdisk'.",
                           message_id="FORMAT_FAILED", PERSIST_REASON="tools-missing")


class _Formatter:
    """One disk under its lock; a method for each step."""

    def __init__(self, disk: Disk, fd: int, mark: Mark, status: Status) -> None:
        self.disk = disk
        self.fd = fd  # holds the lock; read-only
        self.mark = mark
        self.status = status
        self.parts = layout.parts(mark, disk.mib)
        self.diskseq = disk.diskseq

    def step(self, name: str, do: Callable[[], None], text: str) -> None:
        """Do one step and bring it to the medium, caches of the drive included."""
        if blockdev.attribute(self.disk.sys_path, "diskseq") not in (self.diskseq, ""):
            raise PersistError(f"{self.disk.node} is another disk now.", hint="It was exchanged while it was formatted.")
        self.status(name, f"{self.disk.node}: {text}")
        do()
        os.fsync(self.fd)
        if os.environ.get("PERSIST_TEST_KILL_AFTER") == name:
            os.kill(os.getpid(), signal.SIGKILL)

    def _write(self, data: bytes, offset: int) -> None:
        fd = os.open(self.disk.node, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, data, offset)
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_mark(self) -> None:
        """Note on the disk that it was blank and what it becomes: one sector, so whole or not at all."""
        self._write(self.mark.encode(), header.MARK_OFFSET)

    def _node(self, name: str) -> str:
        """The partition of this name, as planned. Raises PersistError when the kernel shows another picture."""
        sizes = {p.start * 2048: p for p in self.parts}
        for part in blockdev.partitions(self.disk):
            planned = sizes.get(int(blockdev.attribute(part.sys_path, "start") or "0"))
            if planned is not None and planned.name == name and part.size == planned.size * layout.MIB and os.path.exists(part.node):
                return part.node
        raise PersistError(f"The kernel does not show the {name} partition of {self.disk.node}.", hint="Restart the machine to go on.")

    def partition(self) -> None:
        """Write the table and tell the kernel. With our lock held no tool may lock, and nobody may wait for udev."""
        run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", "--wipe-partitions", "never", self.disk.node,
            stdin=layout.script(self.mark, self.disk.mib))
        os.fsync(self.fd)
        # Not BLKRRPART: that fails as soon as anyone has a partition open, and does nothing on a kernel without a GPT parser.
        run("partx", "--update", self.disk.node)
        deadline = time.monotonic() + 10
        while len(blockdev.partitions(self.disk)) < len(self.parts) and time.monotonic() < deadline:
            time.sleep(0.05)  # devtmpfs makes the nodes at once; this is for a kernel that is busy
        for part in self.parts:
            self._node(part.name)

    def mkswap(self) -> None:
        """Make the swap space, where there is one."""
        if self.mark.swap:
            run("mkswap", "--label", SWAP_NAME, self._node(SWAP_NAME))

    def mkfs(self) -> None:
        """Make the filesystem under a label that says it is not ready. Nothing is discarded: the disk was blank."""
        data = self.parts[-1]
        run("mkfs.btrfs", "--quiet", "--force", "--nodiscard", "--label", UNFINISHED, "--data", "single", "--metadata", "dup",
            "--byte-count", str(layout.filesystem_bytes(data.size * layout.MIB)), self._node(DATA_NAME), timeout=1800)

    @property
    def work(self) -> str:
        """Where the filesystem is mounted while it is filled."""
        return work_directory(self.disk)

    def subvolumes(self) -> None:
        """Make what a volume consists of."""
        os.makedirs(self.work, 0o700, exist_ok=True)
        run("mount", "-t", "btrfs", "-o", "subvolid=5,noatime", self._node(DATA_NAME), self.work)
        for name in SUBVOLUMES:
            run("btrfs", "subvolume", "create", f"{self.work}/{name}")
            os.chmod(f"{self.work}/{name}", 0o755)
        state = f"{self.work}/{SUBVOLUMES[0]}"
        store.make(state)
        members = [p.id for p in self.parts if p.name == DATA_NAME]
        store.write_record(state, store.record(filesystem_uuid(self.work), members, [p.id for p in self.parts if p.name == SWAP_NAME]))
        run("btrfs", "filesystem", "sync", self.work)

    def label(self) -> None:
        """Give the filesystem its real label, and put it down. The kernel commits a transaction with the label."""
        run("btrfs", "filesystem", "label", self.work, DATA_NAME)
        clear_work(self.disk)

    def erase(self) -> None:
        """Erase the claim and our mark: from now on this is a volume and nothing else."""
        self._write(bytes(header.LENGTH), 0)

    def all(self, progress: claimable.Progress) -> Formatted:
        """Do what is left to do."""
        if progress == "fresh":
            self.step("mark", self.write_mark, "taking the disk")
        if progress != "complete":
            self.step("partition", self.partition, "writing the partition table")
            self.step("mkswap", self.mkswap, "making swap space" if self.mark.swap else "no swap space")
            self.step("mkfs", self.mkfs, "making the filesystem")
            self.step("subvolumes", self.subvolumes, "making the subvolumes")
            self.step("label", self.label, "labelling the filesystem")
        # Looked up first: without the claim nobody would come back to a disk whose partitions do not show.
        if len(blockdev.partitions(self.disk)) < len(self.parts):
            run("partx", "--update", self.disk.node)
        node = self._node(DATA_NAME)
        found = blockdev.probe(node).get("UUID", "")
        self.step("erase", self.erase, "erasing the claim")
        return Formatted(found, node, tuple(p.id for p in self.parts if p.name == SWAP_NAME))


def work_directory(disk: Disk) -> str:
    """Where the filesystem of a disk is mounted while it is filled."""
    return f"{WORK}/{os.path.basename(disk.sys_path)}"


def clear_work(disk: Disk) -> None:
    """Unmount what filling the filesystem mounted, also for a process that was killed at it. Raises CommandError."""
    path = work_directory(disk)
    while mountinfo.at(path) is not None:
        run("umount", path)
    if os.path.isdir(path):
        os.rmdir(path)


def format_disk(disk: Disk, config: Config, status: Status) -> Formatted | None:
    """Format a claimed disk, or go on where it was left. None when the claim is gone by the time we have the lock.

    ``status(step, text)`` is called as each step begins. Raises Refusal (the disk stays as it is), PersistError and OSError; after those the claim
    is still there, and the next start goes on.
    """
    require_tools()
    # Read-only until it is really taken: udev looks again after each close of a descriptor that could write.
    fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if blockdev.by_number(os.fstat(fd).st_rdev) != disk:
            raise PersistError(f"{disk.node} is another disk now.", hint="It was exchanged; the new one is looked at when udev reports it.")
        blockdev.lock(fd, disk.node)
        clear_work(disk)
        claim = claimable.read_claim(disk, config.magic_headers)
        if claim is None:
            return None
        progress, mark = claimable.check(disk, claim, config)
        done = _Formatter(disk, fd, mark, status).all(progress)
    finally:
        os.close(fd)  # and with it the lock
    blockdev.trigger(disk.node, *(p.node for p in blockdev.partitions(disk)))
    return done
