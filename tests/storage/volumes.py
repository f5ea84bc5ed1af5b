# SPDX-License-Identifier: LGPL-2.1-or-later
"""A state volume over several loop disks, made by plain tools, for the tests of what comes after
formatting."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from persist import log
from persist.boot.config import Config
from persist.system import blockdev, btrfs, mountinfo, superblock, uuids
from persist.volume.find.decision import Found
from persist.volume.members import assemble
from persist.volume.members.ancestry import Member
from persist.volume.members.assemble import Assembly
from persist.volume.mount import btrfs_mount
from persist.volume.ondisk import binding, header, partition_table, store
from persist.volume.ondisk.header import FormatMark

from .rig import LoopDisk, tool


class Volume:
    """A volume of ``disks``, which may be plugged and unplugged one by one. It is mounted at ``at``."""

    def __init__(self, top: Path, disks: list[LoopDisk], profile: str = "auto", whole: int = 0) -> None:
        self.at = str(top / "volume")
        os.makedirs(self.at, exist_ok=True)
        self.disks = disks
        self.uuid = uuids.new()
        self.dmi = ""  # the id of the machine's firmware, where it is not that of this machine
        self.marks = {str(d.file): FormatMark(uuids.new(), 0) for d in disks}
        for disk in disks:
            self.divide(disk)
        data, metadata = partition_table.profiles("single" if profile == "single" else "auto", len(disks))
        tool(
            "mkfs.btrfs",
            "--quiet",
            "--force",
            "--nodiscard",
            "--uuid",
            self.uuid,
            "--label",
            "persist-data",
            "--data",
            data,
            "--metadata",
            metadata,
            *(self.data(d) for d in disks),
        )
        tool("mount", "-o", "subvolid=5", self.data(disks[0]), self.at)
        for name in btrfs.SUBVOLUMES:
            tool("btrfs", "subvolume", "create", f"{self.at}/{name}")
        store.make(f"{self.at}/{btrfs.SUBVOLUMES[0]}")
        part_ids = [self.marks[str(d.file)].data_id for d in disks]
        store.write_record(
            f"{self.at}/{btrfs.SUBVOLUMES[0]}", store.record(self.uuid, part_ids, []) | {"profile": profile}
        )
        for number in range(1, len(disks) + 1):
            size = whole or partition_table.filesystem_bytes(
                os.stat(disk.file).st_size - 2 * partition_table.MIB
            )
            tool("btrfs", "filesystem", "resize", f"{number}:{size}", self.at)
        tool("umount", self.at)

    def divide(self, disk: LoopDisk) -> None:
        """Give a disk its partition."""
        disk.write(0, bytes(header.LENGTH))
        tool(
            "sfdisk",
            "--quiet",
            "--no-reread",
            "--no-tell-kernel",
            disk.node,
            stdin=partition_table.script(self.marks[str(disk.file)], disk.disk.mib),
        )
        tool("partx", "--update", disk.node)

    @staticmethod
    def data(disk: LoopDisk) -> str:
        """The data partition."""
        return f"{disk.node}p1"

    @property
    def config(self) -> Config:
        """A configuration that trusts the loop devices."""
        config = Config()
        config.device = [d.node for d in self.disks if d.node]
        return config

    def found(self, *disks: LoopDisk) -> Found:
        """As finding has it, of these disks or of all that are plugged."""
        nodes = tuple(self.data(d) for d in disks or self.disks if d.node)
        return Found(nodes[0], self.uuid, nodes)

    def look(self, *disks: LoopDisk) -> Assembly:
        """What would be mounted."""
        found = self.found(*disks)
        return assemble.assemble(assemble.read(found.members, found.uuid), self._bound)

    def _bound(self, member: Member) -> bool:
        if not self.dmi:
            return binding.is_here(member.node, self.uuid)
        disk = blockdev.whole(blockdev.by_node(member.node))
        noted = binding.read(disk.node)
        return noted is not None and binding.matches(noted, self.dmi, binding.disk_serial(disk))

    def up(self, *disks: LoopDisk) -> Assembly:
        """Mount it as the service does."""
        found, assembly = self.found(*disks), self.look(*disks)
        btrfs_mount.mount_assembly(found, assembly, log.say, at=self.at)
        return assembly

    def down(self) -> None:
        """Unmount it, and wait until the kernel has let go of it: a killed process may still be in a call, or
        another namespace have a copy."""
        deadline = time.monotonic() + 20
        while mountinfo.at(self.at) is not None or os.path.exists(f"{btrfs.SYSFS}/{self.uuid}"):
            subprocess.run(["umount", self.at], check=False, capture_output=True)
            assert time.monotonic() < deadline, "the volume is still in use"
            time.sleep(0.02)

    def write(self, name: str, text: str) -> None:
        """Write a file and sync it."""
        with open(f"{self.at}/{name}", "w", encoding="ascii") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())

    def read(self, name: str) -> str:
        """Read a file."""
        return Path(f"{self.at}/{name}").read_text(encoding="ascii")

    def generation(self, disk: LoopDisk) -> int:
        """What the superblock of a member says."""
        found = superblock.read(self.data(disk))
        assert found is not None
        return found.generation

    def pull(self, disk: LoopDisk) -> None:
        """Take a disk away, as between two boots; the volume is not mounted."""
        subprocess.run(
            ["btrfs", "device", "scan", "--forget", self.data(disk)], check=False, capture_output=True
        )
        disk.unplug()

    def back(self, disk: LoopDisk) -> None:
        """Plug it in again, under whatever name. udev would tell the kernel about it."""
        disk.replug()
        subprocess.run(["btrfs", "device", "scan", self.data(disk)], check=False, capture_output=True)

    def profiles(self) -> set[str]:
        """The profiles of the mounted volume, as 'data raid1'."""
        found = set()
        for kind in ("data", "metadata", "system"):
            found |= {
                f"{kind} {n}"
                for n in btrfs.names(self.uuid, f"allocation/{kind}")
                if n in ("single", "dup", "raid1", "raid1c3")
            }
        return found

    def scrub(self) -> str:
        """Read everything; what was found."""
        return tool("btrfs", "scrub", "start", "-B", self.at)


@contextmanager
def unmounted(path: str) -> Iterator[None]:
    """Whatever happens, nothing is mounted there afterwards."""
    try:
        yield
    finally:
        while subprocess.run(["umount", path], check=False, capture_output=True).returncode == 0:
            pass
