# SPDX-License-Identifier: LGPL-2.1-or-later
"""Filesystems and other things that somebody made by hand and gave our label: they are named, and what the
hint says makes a volume of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persist.system import blockdev

from .conftest import Make
from .rig import LoopDisk, tool
from .services import services

TRUST = {"allow_removable": True, "member_timeout": 0}


def look(disk: LoopDisk, device: str = "auto") -> dict[str, Any]:
    return services("volume", device=[device], config=TRUST, only=[disk.node]).last


def partition(disk: LoopDisk) -> str:
    """One partition with the name of a state volume."""
    tool("sfdisk", "--quiet", disk.node, stdin="label: gpt\nsize=250MiB, name=persist-data\n")
    disk.replug()
    return blockdev.partitions(disk.disk)[0].node


@pytest.mark.parametrize("where", ["disk", "partition"])
def test_btrfs_made_by_hand(make_disk: Make, where: str, tmp_path: Path) -> None:
    """It has no @persist-state: that is said, with commands that were tried, and after them it is the
    volume."""
    disk = make_disk(300, b"")
    node = disk.node if where == "disk" else partition(disk)
    tool("mkfs.btrfs", "-q", "-L", "persist-data", node)
    before = disk.file.read_bytes()
    found = look(disk)
    assert (found["kind"], found["reason"], found["status"]) == ("none", "not-a-volume", 0)
    assert (
        f"The btrfs on {node} has no subvolume @persist-state: it was not made by persist."
        in found["message"]
    )
    assert ("claim --force" in found["hint"]) == (where == "disk") and "btrfs-check" not in found["hint"]
    assert disk.file.read_bytes() == before and not found["rescue"]
    commands = re.findall(r"'([^']+)'", found["hint"])[:3]
    assert [c.split()[0] for c in commands] == ["mount", "btrfs", "umount"]
    (tmp_path / "mnt").mkdir()
    for command in commands:
        subprocess.run(
            command.replace("/mnt", str(tmp_path / "mnt")).split(), check=True, capture_output=True
        )
    found = look(disk)
    assert (found["kind"], found["reason"], found["device"]) == ("btrfs", "", node)


def test_a_volume_that_lost_its_subvolume(volume: LoopDisk, tmp_path: Path) -> None:
    """Made by persist, so the advice for a stranger's would be wrong."""
    place = tmp_path / "top"
    place.mkdir()
    tool("mount", "-o", "subvolid=5", f"{volume.node}p1", place)
    tool("btrfs", "subvolume", "snapshot", place / "@persist-state", place / "saved")
    tool("btrfs", "subvolume", "delete", "--commit-after", place / "@persist-state")
    tool("umount", place)
    found = look(volume)
    assert found["reason"] == "broken" and "its subvolume @persist-state is gone" in found["message"]
    assert (
        "subvolume create" not in found["hint"]
        and "claim" not in found["hint"]
        and "snapshot" in found["hint"]
    )


@pytest.mark.parametrize("label", ["LABEL", "PARTLABEL"])
def test_ext4_made_by_hand(make_disk: Make, label: str) -> None:
    """Seen and named; with the Device= of the hint it is found (mounting is systemd-mount's, and there is
    none here)."""
    disk = make_disk(300, b"")
    node = disk.node if label == "LABEL" else partition(disk)
    tool("mkfs.ext4", "-q", *(["-L", "persist-data"] if label == "LABEL" else []), node)
    found = look(disk)
    assert (found["kind"], found["reason"]) == ("none", "not-a-volume")
    assert (
        f"{node} has the {'label' if label == 'LABEL' else 'partition name'} persist-data and is ext4"
        in found["message"]
    )
    assert f"Device={label}=persist-data" in found["hint"] and "persistctl claim" not in found["hint"]
    assert look(disk, f"{label}=persist-data")["device"] == node


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("swap", "is swap space"),
        ("empty", "has no filesystem"),
        ("luks", "is encrypted"),
        ("vfat", "is vfat, which cannot keep state"),
    ],
)
def test_other_things_with_our_label(make_disk: Make, what: str, said: str) -> None:
    disk = make_disk(300, b"")
    node = partition(disk)
    if what == "swap":
        tool("mkswap", "-L", "persist-data", node)
    elif what == "vfat":
        tool("mkfs.vfat", "-n", "PERSIST", node)
    elif what == "luks":
        header = bytearray(4096)  # LUKS2 (its on-disk format, section 2.1), with a label
        header[:8] = b"LUKS\xba\xbe\0\2"
        header[8:16] = (16384).to_bytes(8, "big")
        header[24:36] = b"persist-data"
        header[168:204] = b"6a1e0b54-9a3a-4f0e-8a51-2f8f2d6f6b10"
        with open(node, "r+b") as f:
            f.write(header)
    found = look(disk)
    assert (found["kind"], found["reason"]) == ("none", "not-a-volume")
    assert node in found["message"] and said in found["message"]
    assert "persistctl claim" not in found["hint"]
