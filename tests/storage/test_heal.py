# SPDX-License-Identifier: LGPL-2.1-or-later
"""Healing on real btrfs: whatever is done to the members, and wherever healing is killed, the same whole
volume comes out of it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from persist.system import btrfs, superblock
from persist.volume.members import in_kernel
from persist.volume.ondisk import degraded_mark

from .conftest import Make
from .healing import MIB, check_whole, exchange, healing, joiner, replaced, run_heal, single, stale
from .rig import tool
from .volumes import Volume


def test_nothing_to_do(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    assert run_heal(v) == (0, [])
    check_whole(v, 2)


def test_stale_member(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    assert [s for s in run_heal(v)[1] if s != "wait"] == ["replace", "balance", "clear"]
    check_whole(v, 2, "new")


def test_all_that_are_there_again_begin_a_new_mark(place: Path, make_disk: Make) -> None:
    """One that began without a member does not tell who of them misses what was synced last."""
    v = stale(place, make_disk)
    before = degraded_mark.read(v.data(v.disks[0]), v.uuid)
    run_heal(v, "replace")
    first, second = (degraded_mark.read(v.data(d), v.uuid) for d in v.disks)
    assert before is not None and first is not None and first == second
    assert not degraded_mark.is_whole(before.id) and degraded_mark.is_whole(first.id)
    assert first.earlier[0] == before.id and first.counter == before.counter > 0, "it is healed further"
    run_heal(v)
    check_whole(v, 2, "new")


def test_udev_is_kept_off_while_a_member_is_wiped(place: Path, make_disk: Make) -> None:
    """Healing waits for its lock before the wipe, and gives it back: udev has to see the new member."""
    v = stale(place, make_disk)
    node = v.data(v.disks[1])
    with open(v.disks[1].node, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_SH)  # as udev does
        with healing(v) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("replace "):
                assert process.poll() is None
            time.sleep(1)
            assert superblock.read(node) is not None and process.poll() is None
            fcntl.flock(f, fcntl.LOCK_UN)
            assert process.wait() == 0
        fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    check_whole(v, 2, "new")


@pytest.mark.parametrize("step", ["wipe", "copy", "replace", "balance", "clear"])
@pytest.mark.parametrize("reboot", [False, True])
def test_killed_while_a_stale_member_is_healed(place: Path, make_disk: Make, step: str, reboot: bool) -> None:
    v = stale(place, make_disk)
    assert run_heal(v, step)[0] == -signal.SIGKILL
    if reboot:
        v.down()
        v.up()
    run_heal(v)
    check_whole(v, 2, "new")


def test_killed_at_random(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    Path(f"{v.at}/bigger").write_bytes(os.urandom(60 << 20))
    for n in range(12):
        if run_heal(v, seconds=0.2 + n * 0.07)[0] == 0:
            break
        v.down()
        v.up()
        assert v.read("text") == "new"
    run_heal(v)
    check_whole(v, 2, "new")


def test_killed_as_a_replace_begins(place: Path, make_disk: Make) -> None:
    """The kernel goes on without us. The new member has its mark from the first moment, or it would pass for
    one that was written elsewhere."""
    v = stale(place, make_disk)
    with healing(v) as process:
        while btrfs.attribute(v.uuid, "exclusive_operation") != "device replace":
            assert process.poll() is None, "it ended without a replace"
        os.killpg(process.pid, signal.SIGKILL)
    v.down()
    v.up()
    run_heal(v)
    check_whole(v, 2, "new")


def test_unmounted_within_a_replace(place: Path, make_disk: Make) -> None:
    """The kernel suspends it and goes on at the next mount; the target counts as a current member."""
    v = stale(place, make_disk)
    Path(f"{v.at}/bigger").write_bytes(os.urandom(100 << 20))
    tool("btrfs", "filesystem", "sync", v.at)
    tool("wipefs", "-a", "-f", v.data(v.disks[1]))
    # A replace heeds it, of the device that it reads or of the one that it replaces, as the kernel has it:
    # some seconds instead of an instant.
    for devid in (1, 2):
        Path(f"{btrfs.SYSFS}/{v.uuid}/devinfo/{devid}/scrub_speed_max").write_text("20m", encoding="ascii")
    tool("btrfs", "replace", "start", "-f", "2", v.data(v.disks[1]), v.at)
    # A child of the tool begins it, and the kernel copies some time after that; what is suspended before that
    # goes on all the same.
    deadline = time.monotonic() + 30
    while (said := tool("btrfs", "replace", "status", "-1", v.at)).startswith(("Never", "0.0%")):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    assert "% done" in said, said
    in_kernel.level(in_kernel.glance(v.at))
    # As a shutdown does: the tool that waits for the replace keeps it from being unmounted.
    tool("mount", "-o", "remount,ro", v.at)
    v.down()
    target = superblock.read(v.data(v.disks[1]))
    assert target is not None and target.devid == 0, "it was not finished"
    assembly = v.look()
    assert v.data(v.disks[1]) in assembly.nodes or assembly.stale
    v.up()
    run_heal(v)
    check_whole(v, 2, "new")


def test_replaced_by_a_fresh_disk(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    gone = v.disks[1]
    exchange(v, make_disk(MIB + 64, b""))
    assert [s for s in run_heal(v)[1] if s != "wait"] == ["replace", "record", "balance", "clear", "finish"]
    check_whole(v, 2, "new")
    # The old one comes back: it is nobody now.
    v.down()
    v.disks.append(gone)
    v.back(gone)
    v.up()
    assert run_heal(v) == (0, []) and v.read("text") == "new"


def test_replaced_by_a_smaller_disk(place: Path, make_disk: Make) -> None:
    v = replaced(place, make_disk, MIB - 40)
    assert [s for s in run_heal(v)[1] if s != "wait"] == ["add", "remove", "balance", "clear", "finish"]
    check_whole(v, 2, "new")


@pytest.mark.parametrize("step", ["wipe", "device", "add", "remove", "balance", "clear", "finish"])
def test_killed_while_a_smaller_disk_takes_the_place(place: Path, make_disk: Make, step: str) -> None:
    v = replaced(place, make_disk, MIB - 40)
    assert run_heal(v, step)[0] == -signal.SIGKILL
    v.down()
    v.up()
    run_heal(v)
    check_whole(v, 2, "new")


@pytest.mark.parametrize("step", ["", "wipe", "device", "add", "record", "balance", "finish"])
def test_joins_a_single_disk(place: Path, make_disk: Make, step: str) -> None:
    v = single(place, make_disk)
    assert v.profiles() == {"data single", "metadata dup", "system dup"}
    joiner(v, make_disk(MIB, b""))
    if step:
        assert run_heal(v, step)[0] == -signal.SIGKILL
        v.down()
        v.up()
        run_heal(v)
    else:
        assert run_heal(v)[1] == ["add", "record", "balance", "finish"]
    check_whole(v, 2, "mine")


def test_third_disk(place: Path, make_disk: Make) -> None:
    v = single(place, make_disk)
    joiner(v, make_disk(MIB, b""))
    joiner(v, make_disk(MIB, b""))
    run_heal(v)
    check_whole(v, 3, "mine")


def test_layout_single_is_kept(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b"")], "single")
    v.up()
    joiner(v, make_disk(MIB, b""))
    run_heal(v)
    assert v.profiles() == {"data single", "metadata raid1", "system raid1"}


def test_comes_back_while_it_is_mounted(place: Path, make_disk: Make) -> None:
    """The kernel has taken its name by then, and calls it there."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.pull(v.disks[1])
    v.up()
    v.write("text", "new")
    v.back(v.disks[1])
    run_heal(v)
    check_whole(v, 2, "new")


def test_superblock_that_is_read_while_it_is_written(place: Path, make_disk: Make) -> None:
    """Half of the old one and half of the new one is no reason to call a member lost, to say nothing of
    wiping it."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    node = v.data(v.disks[1])
    whole = superblock.read_at(node, superblock.OFFSET, superblock.SIZE)
    pauses: list[float] = []

    def written(half: bytes) -> None:
        with open(node, "r+b") as f:
            os.pwrite(f.fileno(), half, superblock.OFFSET)

    def goes_on(seconds: float) -> None:
        pauses.append(seconds)
        written(whole)

    written(bytes(512))
    assert superblock.read(node) is None
    found = superblock.read_in_use(node, goes_on)
    assert found == superblock.parse(whole) and found is not None and len(pauses) == 1
    written(bytes(512))
    assert superblock.read_in_use(node, pauses.append) is None, "it is none"
    written(whole)
    v.up()
    assert [m.state for m in in_kernel.members(v.at)] == ["ok", "ok"]
