# SPDX-License-Identifier: LGPL-2.1-or-later
"""What healing never touches, on real btrfs: split members, what is in use, what was exchanged, what is
somebody else's, and a volume that is too full."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from persist import log
from persist.errors import PersistError
from persist.system import btrfs, mountinfo, superblock
from persist.volume.format import write_claim
from persist.volume.heal import healer, wipe
from persist.volume.members import in_kernel
from persist.volume.ondisk.header import Options

from .conftest import Make
from .healing import MIB, check_whole, exchange, full_and_stale, joiner, run_heal, single, split, stale
from .rig import HEADER, tool
from .volumes import Volume


def test_split_member_is_never_touched(place: Path, make_disk: Make) -> None:
    v = split(place, make_disk)
    b = v.disks[1]
    before = b.read(1 << 20, 8 << 20)
    assert v.read("text") == "new" and run_heal(v) == (0, [])
    assert b.read(1 << 20, 8 << 20) == before
    # A blank disk takes its place, and it is left as it is.
    joiner(v, make_disk(MIB, b""))
    run_heal(v)
    assert b.read(1 << 20, 8 << 20) == before
    v.down()
    assembly = v.look()
    assert not assembly.degraded and [m.node for m in assembly.split] == [v.data(b)]
    v.up()
    assert v.read("text") == "new" and [m.state for m in in_kernel.members(v.at)] == ["ok", "ok"]


def test_split_member_is_given_back(place: Path, make_disk: Make) -> None:
    """By 'persistctl claim --force --join', although udev has told the kernel about it since the mount."""
    v = split(place, make_disk)
    b = v.disks[1]
    btrfs.scan(v.data(b))
    assert {m.node for m in in_kernel.members(v.at) if not m.ok} == {v.data(b)}
    write_claim.write_claim(b.node, v.config, force=True, options=Options(join=v.uuid))
    joiner(v, b)
    run_heal(v)
    check_whole(v, 2, "new")


@pytest.mark.parametrize("smaller", [0, 40])
def test_no_room_at_all_is_said_and_changes_nothing(place: Path, make_disk: Make, smaller: int) -> None:
    """The kernel would take the volume read-only within the removal of the missing member, and so at each
    boot."""
    v = full_and_stale(place, make_disk)
    if smaller:
        exchange(v, make_disk(MIB - smaller, b""))
    with pytest.raises(PersistError, match="too full"):
        healer.Healer(v.at, v.config, log.say, lambda step, text: None).heal()
    at = mountinfo.at(v.at)
    assert at is not None and not at.read_only
    assert [m.state for m in in_kernel.members(v.at)] == ["ok", "missing"]
    for n in range(150):
        os.unlink(f"{v.at}/{n}")
    tool("btrfs", "filesystem", "sync", v.at)
    run_heal(v)
    check_whole(v, 2)


def test_another_volumes_claim_is_left_alone(place: Path, make_disk: Make) -> None:
    v = single(place, make_disk)
    other = make_disk(MIB, HEADER)
    v.disks.append(other)
    before = other.read(0, 1 << 20)
    assert run_heal(v) == (0, []) and other.read(0, 1 << 20) == before


def test_an_untrusted_stale_member_is_left_alone(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    config = v.config
    config.device = [v.disks[0].node]
    assert healer.Healer(v.at, config, log.say, lambda step, text: None).heal() == 0


def test_split_member_with_a_claim_is_never_touched(place: Path, make_disk: Make) -> None:
    """A disk joined, and all was done but for the erasing of its claim. Then each was written alone: its
    claim does not make it fair game."""
    v = single(place, make_disk)
    joiner(v, make_disk(MIB, b""))
    assert run_heal(v, "balance")[0] == -signal.SIGKILL
    a, b = v.disks
    v.down()
    v.pull(a)
    v.up()  # b alone
    v.write("text", "written on b alone")
    v.down()
    v.pull(b)
    v.back(a)
    v.up()  # a alone, and for longer
    for n in range(8):
        v.write("text", f"new {n}")
        tool("btrfs", "filesystem", "sync", v.at)
    v.down()
    v.back(b)
    assert [m.node for m in v.up().split] == [v.data(b)]
    before = b.read(0, 8 << 20)
    assert run_heal(v) == (0, []) and b.read(0, 8 << 20) == before
    v.down()
    v.pull(a)
    v.up()
    assert v.read("text") == "written on b alone"


def test_member_in_use_is_never_wiped(place: Path, make_disk: Make) -> None:
    """Whatever its superblock says: the kernel has it open. Its writes may have failed for a while."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    v.write("text", "new")
    node = v.data(v.disks[1])
    older = superblock.read_at(node, superblock.OFFSET, superblock.SIZE)
    v.write("text", "newer")
    tool("btrfs", "filesystem", "sync", v.at)
    with open(node, "r+b") as f:
        os.pwrite(f.fileno(), older, superblock.OFFSET)
    before = superblock.read(node)
    assert [m.state for m in in_kernel.members(v.at)] == ["ok", "behind"]
    assert healer.Healer(v.at, v.config, log.say, lambda step, text: None).heal() == 0
    with pytest.raises(PersistError, match="in use"):
        wipe.erase(node, v.uuid, lambda member: False)
    assert superblock.read(node) == before and before is not None


@pytest.mark.parametrize("other", ["ext4", "btrfs"])
def test_disk_that_was_exchanged_is_not_wiped(place: Path, make_disk: Make, other: str) -> None:
    """Between the choice and the wiping another disk got the name."""
    v = stale(place, make_disk)
    node = v.data(v.disks[1])
    tool("wipefs", "-a", "-f", node)
    tool(f"mkfs.{other}", "-q", "-F" if other == "ext4" else "-f", node)
    before = v.disks[1].read(1 << 20, 1 << 20)
    with pytest.raises(PersistError, match="something else"):
        wipe.erase(node, v.uuid, lambda member: False)
    assert v.disks[1].read(1 << 20, 1 << 20) == before


def test_member_that_was_written_since_the_look_is_not_wiped(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    node = v.data(v.disks[1])
    with pytest.raises(PersistError, match="alone"):
        wipe.erase(node, v.uuid, lambda member: member.superblock.devid == 2)
    assert superblock.read(node) is not None
