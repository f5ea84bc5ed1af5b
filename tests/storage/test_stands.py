# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which disks a btrfs can do without: what we say before a mark is written is what the kernel says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from persist.system import btrfs

from .conftest import Make
from .rig import LoopDisk, tool
from .volumes import unmounted

MIB = 200


def said_and_true(at: str, disks: list[LoopDisk], missing: int, *profiles: str) -> tuple[bool, bool]:
    """Make a btrfs of these disks, with data on all of them, and take some away: whether we say that it may
    be written, and whether the kernel mounts it so."""
    nodes = [disk.node for disk in disks]
    tool("mkfs.btrfs", "--quiet", "--force", "--data", profiles[0], "--metadata", profiles[1], *nodes)
    with unmounted(at):
        tool("mount", nodes[0], at)
        size = f"count={300 if len(disks) > 4 else 120}"
        tool("dd", "if=/dev/zero", f"of={at}/bulk", "bs=1M", size, "conv=fsync", "status=none")
        tool("umount", at)
        for disk in disks[len(disks) - missing :]:
            disk.unplug()
        tool("btrfs", "device", "scan", "--forget")
        tool("btrfs", "device", "scan", *nodes[: len(disks) - missing])
        said = mounted(nodes[0], at, "ro,degraded") and btrfs.stands(at)
        subprocess.run(["umount", at], capture_output=True, check=False)
        return said, mounted(nodes[0], at, "degraded")


def mounted(node: str, at: str, options: str) -> bool:
    return (
        subprocess.run(["mount", "-o", options, node, at], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize(
    ("data", "metadata", "disks", "missing", "enough"),
    [
        ("raid1", "raid1", 2, 1, True),
        ("raid1", "raid1", 3, 2, False),
        ("single", "raid1", 2, 1, False),
        ("raid0", "raid1", 2, 1, False),
        ("raid1c3", "raid1c3", 3, 2, True),
        ("raid1", "raid1c3", 3, 2, False),
        ("raid1c4", "raid1c4", 4, 3, True),
        # Of some chunk all three copies are gone.
        ("raid1c3", "raid1c4", 6, 3, False),
        ("raid10", "raid10", 4, 1, True),
        ("raid5", "raid1", 3, 1, True),
        ("raid5", "raid1c3", 3, 2, False),
        ("raid6", "raid1c3", 4, 2, True),
    ],
)
def test_as_the_kernel_decides(
    make_disk: Make, tmp_path: Path, data: str, metadata: str, disks: int, missing: int, enough: bool
) -> None:
    every = [make_disk(MIB, b"") for _ in range(disks)]
    assert said_and_true(str(tmp_path), every, missing, data, metadata) == (enough, enough)
