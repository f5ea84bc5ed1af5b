# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks of ours whose filesystem cannot be read: they are named, left alone, and nothing is formatted beside
them; and what the hint says helps."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from persist.system import blockdev, superblock
from persist.volume.ondisk import binding
from persist.volume.ondisk.partition_table import MIB

from .conftest import Make
from .rig import HEADER, LoopDisk, tool
from .services import services, uuid_of, write_note

TRUST = {"allow_removable": True, "member_timeout": 0}
COPY = 64 * MIB
MACHINE = "0a0b0c0d-1111-2222-3333-444444444444"  # the id of its firmware


def start(disk: LoopDisk) -> int:
    """Where the data partition of a small disk begins, in bytes."""
    name = blockdev.partitions(disk.disk)[-1].name
    return int(Path(f"/sys/class/block/{name}/start").read_text()) * 512


def overwrite(disk: LoopDisk, *copies: int) -> None:
    """Put rubbish over the superblock, and over these copies of it."""
    for at in (superblock.OFFSET, *copies):
        disk.write(start(disk) + at, b"\xa5" * superblock.SIZE)
    disk.replug()


def digest(disk: LoopDisk) -> bytes:
    return disk.file.read_bytes()


def look(disk: LoopDisk, **more: Any) -> dict[str, Any]:
    return services("volume", device=["auto"], config=TRUST, only=[disk.node], **more).last


def test_rescue_as_the_hint_says(volume: LoopDisk) -> None:
    """The first superblock is gone, its copy at 64 MiB is whole: the disk is named, and each command of the
    hint brings the volume back."""
    uuid, node = uuid_of(volume), f"{volume.node}p1"
    whole = digest(volume)
    for command in ("btrfs rescue super-recover", "btrfs-select-super"):
        overwrite(volume)
        node = f"{volume.node}p1"
        before = digest(volume)
        found = look(volume)
        assert (found["kind"], found["reason"]) == ("none", "unreadable")
        assert (
            f"UUID={uuid}" in found["message"]
            and node in found["message"]
            and "this machine's" not in found["message"]
        )
        assert "'persistctl claim'" not in found["hint"] and "claim --force" in found["hint"]
        assert digest(volume) == before
        said = re.search(rf"'({command} [^']*)'", found["hint"])
        assert said is not None, found["hint"]
        # 2: the superblock was written; 0 says that there was nothing to do.
        done = subprocess.run(
            said[1].replace("super-recover", "super-recover -y").split(), capture_output=True, text=True
        )
        assert done.returncode == (2 if "super-recover" in command else 0), done.stderr
        assert look(volume)["uuid"] == uuid
        volume.unplug()
        volume.file.write_bytes(whole)
        volume.replug()


@pytest.mark.parametrize("what", ["binding", "ids", "copy", "copy of a hand-made one"])
def test_what_tells_that_a_disk_is_ours(make_disk: Make, what: str) -> None:
    disk = make_disk(300, b"")
    if what == "copy of a hand-made one":
        tool("mkfs.btrfs", "-q", "-L", "persist-data", disk.node)
        disk.write(superblock.OFFSET, bytes(superblock.SIZE))
        disk.replug()
    else:
        disk.write(0, HEADER)
        assert disk.format().returncode == 0
        if what != "binding":
            disk.write(256, bytes(184))
        overwrite(disk, *([] if what == "copy" else [COPY]))
    before = digest(disk)
    found = look(disk)
    assert found["reason"] == "unreadable" and disk.node in found["message"], found
    assert ("super-recover" in found["hint"]) == what.startswith("copy")
    assert digest(disk) == before


def test_the_table_is_gone(volume: LoopDisk) -> None:
    uuid = uuid_of(volume)
    volume.write(512, bytes(33 * 512))
    volume.write(volume.disk.size - 33 * 512, bytes(33 * 512))
    volume.replug()
    found = look(volume)
    assert (
        found["reason"] == "unreadable" and uuid in found["message"] and "partition table" in found["message"]
    )


@pytest.mark.parametrize(
    "what", ["whole", "another filesystem", "taken out", "blank partition", "erased by force"]
)
def test_what_is_not_unreadable(volume: LoopDisk, make_disk: Make, tmp_path: Path, what: str) -> None:
    node = f"{volume.node}p1"
    if what == "another filesystem":
        tool("mkfs.ext4", "-q", "-F", node)
    elif what == "taken out":
        other = make_disk(300, b"")
        place = tmp_path / "volume"
        place.mkdir()
        tool("mount", node, place)
        tool("btrfs", "device", "add", "-f", other.node, place)
        tool("btrfs", "device", "remove", node, place)
        tool("umount", place)
        other.unplug()
    elif what == "blank partition":
        volume.write(0, bytes(MIB))
        volume.write(start(volume), bytes(250 * MIB))
        tool("sfdisk", "--quiet", volume.node, stdin="label: gpt\nsize=100MiB, name=persist-data\n")
    elif what == "erased by force":
        volume.write(0, bytes(2 * MIB))
        volume.write(volume.disk.size - MIB, bytes(MIB))
        volume.write(start(volume) + COPY, bytes(superblock.SIZE))
    volume.replug()
    assert look(volume)["reason"] != "unreadable"


def test_no_claim_is_honoured_beside_it(volume: LoopDisk, make_disk: Make) -> None:
    """Neither formatted nor joined; once the disk is gone, the claim is looked at again."""
    overwrite(volume)
    before = digest(volume)
    claimed = make_disk(300)
    blank = make_disk(300, b"")
    nodes = [claimed.node]
    here = [claimed.node, blank.node, volume.node]
    for config in (TRUST, TRUST | {"join": "auto"}, TRUST | {"format_blank": True}):
        seen = services("format", "format", disks=nodes, device=["auto"], config=config, only=here)
        assert seen.report == [{"failed": 0}] * 2 and seen.log.count("is left alone") >= 2
        assert volume.node in seen.log and seen.refused == []
    assert (
        services(
            "volume",
            device=["auto", blank.node],
            config=TRUST | {"format_blank": True},
            enabled=True,
            only=here,
        ).last["kind"]
        == "none"
    )
    assert claimed.read(0, MIB) == HEADER.ljust(MIB, b"\0") and blank.read(0, MIB) == bytes(MIB)
    assert digest(volume) == before
    volume.unplug()
    assert (
        services("format", "volume", disks=nodes, device=nodes, config=TRUST, only=nodes).last["kind"]
        == "btrfs"
    )


def test_a_stick_keeps_nobody_from_formatting(volume: LoopDisk, make_disk: Make) -> None:
    """By the rule of finding: what is on a bus that is not trusted, and not named, does not count."""
    overwrite(volume)
    claimed = make_disk(300)
    here = [claimed.node, volume.node]
    assert (
        services(
            "format",
            "volume",
            disks=[claimed.node],
            device=[claimed.node],
            config={"member_timeout": 0},
            only=here,
        ).last["kind"]
        == "btrfs"
    )


def test_the_volume_that_is_known_is_the_unreadable_one(volume: LoopDisk, tmp_path: Path) -> None:
    uuid = uuid_of(volume)
    write_note(tmp_path, uuid)
    overwrite(volume)
    found = look(volume, root=tmp_path)
    assert (found["reason"], found["expected"]) == ("unreadable", True)
    assert "To begin anew without it" not in found["hint"] and "super-recover" in found["hint"]
    # The binding says whether it is this machine's: a disk without a serial number, and a machine with an id.
    bound = binding.read(volume.node)
    assert bound is not None
    volume.write(256, binding.encode(binding.Binding(uuid, MACHINE, "-")))
    assert "this machine's" in look(volume, dmi=MACHINE)["message"]
    assert "this machine's" not in look(volume, dmi=uuid)["message"]
