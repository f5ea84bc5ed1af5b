# SPDX-License-Identifier: LGPL-2.1-or-later
"""Healing on real btrfs: whatever is done to the members, and wherever healing is killed, the same whole volume comes out of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist import record
from persist.errors import PersistError
from persist.volume import btrfs, claim, header, heal, ids, layout, live, mountinfo, store, superblock, wipe
from persist.volume.header import Mark, Options

from .conftest import Make
from .rig import HEADER, PYTHON, TOP, LoopDisk, tool
from .volumes import Volume, unmounted

MIB = 320
_HEAL = """
import sys
from persist.boot.config import Config
from persist.volume import heal
config = Config()
config.device = sys.argv[2:]
heal.Healer(sys.argv[1], config, lambda step, text: print(step, text, flush=True)).heal()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a volume is mounted; not any more when the test ends."""
    with unmounted(str(tmp_path / "volume")):
        yield tmp_path


def run_heal(v: Volume, kill_after: str = "", seconds: float | None = None) -> tuple[int, list[str]]:
    """Heal in a process of its own; its status and the names of its steps."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"}
    if kill_after:
        env["PERSIST_TEST_KILL_AFTER"] = kill_after
    with subprocess.Popen([PYTHON, "-c", _HEAL, v.at, *v.config.device], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
                          start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        assert kill_after or seconds or process.returncode == 0, err
    names = [line.split(" ")[0] for line in out.splitlines()]
    return process.returncode, [n for n in names if n]


def check_whole(v: Volume, count: int, text: str = "") -> None:
    """The end state: all there, mirrored, marked as healed alike, recorded, and what was written is there."""
    devices = live.members(v.at)
    assert [m.state for m in devices] == ["ok"] * count
    assert v.profiles() == {"data raid1", f"metadata {'raid1' if count == 2 else 'raid1c3'}", f"system {'raid1' if count == 2 else 'raid1c3'}"}
    marks = {m.mark for m in devices}
    assert len(marks) == 1 and all(m is None or m.counter == 0 for m in marks)
    ids = sorted(tool("blkid", "-p", "-o", "value", "-s", "PART_ENTRY_UUID", m.node).strip() for m in devices)
    assert sorted(store.read_record(v.at)["members"]) == ids
    for m in devices:
        size = int(tool("blockdev", "--getsize64", m.node))
        assert m.size == layout.filesystem_bytes(size)
        assert not superblock.read_at(m.node.removesuffix("p1"), 0, header.MARK_OFFSET).strip(b"\0"), "the claim is gone"
    if text:
        assert v.read("text") == text
    assert "no errors found" in v.scrub()
    v.down()
    assembly = v.look()
    assert not assembly.degraded and not assembly.heal and len(assembly.use) == count
    v.up()


def stale(place: Path, make: Make) -> Volume:
    """A mirror, mounted from its first disk; the second is there and stale. Degraded writing has left chunks without a mirror."""
    v = Volume(place, [make(MIB, b""), make(MIB, b"")])
    v.up()
    v.write("text", "old")
    v.down()
    v.pull(v.disks[1])
    v.up()
    v.write("text", "new")
    Path(f"{v.at}/big").write_bytes(os.urandom(70 << 20))
    tool("btrfs", "filesystem", "sync", v.at)
    v.down()
    v.back(v.disks[1])
    v.up()
    return v


def joiner(v: Volume, disk: LoopDisk) -> None:
    """As persist-format.service leaves a disk that is to join."""
    mark = v.marks[str(disk.file)] = Mark(ids.new(), 0, v.uuid, 0, 1, True, "auto")
    if disk not in v.disks:
        v.disks.append(disk)
    v.divide(disk)
    disk.write(0, header.encode("persist-please-format-me", Options(join=v.uuid)))
    disk.write(header.MARK_OFFSET, mark.encode())


def test_nothing_to_do(place: Path, make_disk: Make) -> None:
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    assert run_heal(v) == (0, [])
    check_whole(v, 2)


def test_stale_member(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    assert [s for s in run_heal(v)[1] if s != "wait"] == ["replace", "balance", "clear"]
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


def test_unmounted_within_a_replace(place: Path, make_disk: Make) -> None:
    """The kernel suspends it and goes on at the next mount; the target counts as a current member."""
    v = stale(place, make_disk)
    Path(f"{v.at}/bigger").write_bytes(os.urandom(100 << 20))
    tool("btrfs", "filesystem", "sync", v.at)
    tool("wipefs", "-a", "-f", v.data(v.disks[1]))
    tool("btrfs", "replace", "start", "-f", "2", v.data(v.disks[1]), v.at)
    v.down()
    assembly = v.look()
    assert v.data(v.disks[1]) in assembly.nodes or assembly.stale
    v.up()
    run_heal(v)
    check_whole(v, 2, "new")


def test_split_member_is_never_touched(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    a, b = v.disks
    v.down()
    v.pull(a)
    v.up()  # b alone
    v.write("text", "written on b alone")
    v.down()
    v.back(a)
    v.up()
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
    assert v.read("text") == "new" and [m.state for m in live.members(v.at)] == ["ok", "ok"]


def test_split_member_is_given_back(place: Path, make_disk: Make) -> None:
    """By 'persistctl claim --force --join', although udev has told the kernel about it since the mount."""
    v = stale(place, make_disk)
    a, b = v.disks
    v.down()
    v.pull(a)
    v.up()
    v.write("text", "written on b alone")
    v.down()
    v.back(a)
    v.up()
    btrfs.scan(v.data(b))
    assert {m.node for m in live.members(v.at) if not m.ok} == {v.data(b)}
    claim.write_claim(b.node, v.config, force=True, options=Options(join=v.uuid))
    joiner(v, b)
    run_heal(v)
    check_whole(v, 2, "new")



def test_replaced_by_a_fresh_disk(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    v.down()
    gone = v.disks.pop()
    v.pull(gone)
    v.up()
    joiner(v, make_disk(MIB + 64, b""))
    assert [s for s in run_heal(v)[1] if s != "wait"] == ["replace", "record", "balance", "clear", "finish"]
    check_whole(v, 2, "new")
    # The old one comes back: it is nobody now.
    v.down()
    v.disks.append(gone)
    v.back(gone)
    v.up()
    assert run_heal(v) == (0, []) and v.read("text") == "new"


def test_replaced_by_a_smaller_disk(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    v.down()
    v.pull(v.disks.pop())
    v.up()
    joiner(v, make_disk(MIB - 40, b""))
    assert [s for s in run_heal(v)[1] if s != "wait"] == ["add", "remove", "balance", "clear", "finish"]
    check_whole(v, 2, "new")


@pytest.mark.parametrize("step", ["wipe", "device", "add", "remove", "balance", "clear", "finish"])
def test_killed_while_a_smaller_disk_takes_the_place(place: Path, make_disk: Make, step: str) -> None:
    v = stale(place, make_disk)
    v.down()
    v.pull(v.disks.pop())
    v.up()
    joiner(v, make_disk(MIB - 40, b""))
    assert run_heal(v, step)[0] == -signal.SIGKILL
    v.down()
    v.up()
    run_heal(v)
    check_whole(v, 2, "new")


def full_and_stale(place: Path, make: Make) -> Volume:
    """As stale(), with all space of the volume in chunks, and most of that full."""
    v = Volume(place, [make(MIB, b""), make(MIB, b"")])
    v.up()
    for n in range(MIB):
        try:
            Path(f"{v.at}/{n}").write_bytes(os.urandom(1 << 20))
            tool("btrfs", "filesystem", "sync", v.at)
        except (OSError, subprocess.CalledProcessError):
            break
    v.down()
    v.pull(v.disks[1])
    v.up()
    v.down()
    v.back(v.disks[1])
    v.up()
    return v


@pytest.mark.parametrize("smaller", [0, 40])
def test_no_room_at_all_is_said_and_changes_nothing(place: Path, make_disk: Make, smaller: int) -> None:
    """The kernel would take the volume read-only within the removal of the missing member, and so at each boot."""
    v = full_and_stale(place, make_disk)
    if smaller:
        v.down()
        v.pull(v.disks.pop())
        v.up()
        joiner(v, make_disk(MIB - smaller, b""))
    with pytest.raises(PersistError, match="too full"):
        heal.Healer(v.at, v.config, lambda step, text: None).heal()
    at = mountinfo.at(v.at)
    assert at is not None and not at.read_only
    assert [m.state for m in live.members(v.at)] == ["ok", "missing"]
    for n in range(150):
        os.unlink(f"{v.at}/{n}")
    tool("btrfs", "filesystem", "sync", v.at)
    run_heal(v)
    check_whole(v, 2)


def single(place: Path, make: Make) -> Volume:
    """A volume on one disk."""
    v = Volume(place, [make(MIB, b"")])
    v.up()
    v.write("text", "mine")
    return v


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


def test_another_volumes_claim_is_left_alone(place: Path, make_disk: Make) -> None:
    v = single(place, make_disk)
    other = make_disk(MIB, HEADER)
    v.disks.append(other)
    before = other.read(0, 1 << 20)
    assert run_heal(v) == (0, []) and other.read(0, 1 << 20) == before


def test_comes_back_while_it_is_mounted(place: Path, make_disk: Make) -> None:
    """The kernel has taken its name by then, and calls it there."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.pull(v.disks[1])
    v.up()
    v.write("text", "new")
    v.back(v.disks[1])
    run_heal(v)
    check_whole(v, 2, "new")


def test_an_untrusted_stale_member_is_left_alone(place: Path, make_disk: Make) -> None:
    v = stale(place, make_disk)
    config = v.config
    config.device = [v.disks[0].node]
    assert heal.Healer(v.at, config, lambda step, text: None).heal() == 0


def test_split_member_with_a_claim_is_never_touched(place: Path, make_disk: Make) -> None:
    """A disk joined, and all was done but for the erasing of its claim. Then each was written alone: its claim does not make it fair game."""
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


def test_superblock_that_is_read_while_it_is_written(place: Path, make_disk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the old one and half of the new one is no reason to call a member lost, to say nothing of wiping it."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    read = superblock.read
    seen: list[str] = []

    def torn(node: str) -> superblock.Superblock | None:
        seen.append(node)
        return read(node) if len(seen) % 2 else None

    monkeypatch.setattr(superblock, "read", torn)
    assert [m.state for m in live.members(v.at)] == ["ok", "ok"] and len(seen) > 2


def test_member_in_use_is_never_wiped(place: Path, make_disk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its superblock says: the kernel has it open. Its writes may have failed for a while."""
    v = Volume(place, [make_disk(MIB, b""), make_disk(MIB, b"")])
    v.up()
    v.write("text", "new")
    node = v.data(v.disks[1])
    before = superblock.read(node)
    read = live.glance
    monkeypatch.setattr(live, "glance", lambda path: [record.replace(m, state="behind") if m.node == node else m for m in read(path)])
    assert heal.Healer(v.at, v.config, lambda step, text: None).heal() == 0
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
