# SPDX-License-Identifier: LGPL-2.1-or-later
"""Members at a mount, on real btrfs: none is mixed in that did not see the last writes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persist import log
from persist.errors import PersistError
from persist.system import btrfs, newmount
from persist.volume.find.decision import Found
from persist.volume.members import assemble, in_kernel
from persist.volume.mount import btrfs_mount, rescue
from persist.volume.ondisk import degraded_mark

from .conftest import Make
from .namespace import own_machine, sh
from .rig import tool
from .volumes import Volume, unmounted

MIB = 300


@pytest.fixture
def pair(make_disk: Make, tmp_path: Path) -> Iterator[Volume]:
    """A mirror of two."""
    with unmounted(str(tmp_path / "volume")):
        yield Volume(tmp_path, [make_disk(MIB, b""), make_disk(MIB, b"")])


def test_both(pair: Volume) -> None:
    assert not pair.up().degraded
    assert [(m.devid, m.state, m.node) for m in in_kernel.members(pair.at)] == [
        (1, "ok", pair.data(pair.disks[0])),
        (2, "ok", pair.data(pair.disks[1])),
    ]
    marks = [degraded_mark.read(pair.data(d), pair.uuid) for d in pair.disks]
    assert (
        marks[0] is not None
        and marks[0] == marks[1]
        and marks[0].counter == 0
        and degraded_mark.is_whole(marks[0].id)
    )


@pytest.mark.parametrize("gone", [0, 1])
def test_one_alone(pair: Volume, gone: int) -> None:
    left = pair.disks[1 - gone]
    pair.pull(pair.disks[gone])
    assert pair.up().degraded
    mark = degraded_mark.read(pair.data(left), pair.uuid)
    assert mark is not None and mark.counter == 1 and mark.earlier == ()
    assert [m.state for m in in_kernel.members(pair.at)] == (
        ["missing", "ok"] if gone == 0 else ["ok", "missing"]
    )
    pair.down()
    pair.up()
    again = degraded_mark.read(pair.data(left), pair.uuid)
    assert again is not None and again.counter == 2 and again.earlier == (mark.id,)


@pytest.mark.parametrize("gone", [0, 1])
def test_stale_one_back(pair: Volume, gone: int) -> None:
    """A plain mount would take both, and show the old text half of the time."""
    pair.up()
    Path(f"{pair.at}/nocow").touch()
    subprocess.run(["chattr", "+C", f"{pair.at}/nocow"], check=True)
    pair.write("nocow", "old" * 4000)
    pair.down()
    pair.pull(pair.disks[gone])
    pair.up()
    pair.write("nocow", "new" * 4000)
    pair.down()
    pair.back(pair.disks[gone])
    assembly = pair.up()
    assert assembly.degraded and [m.node for m in assembly.stale] == [pair.data(pair.disks[gone])]
    assert pair.read("nocow") == "new" * 4000
    assert [d.node for d in btrfs.devices(pair.at) if not d.missing] == [pair.data(pair.disks[1 - gone])]


def test_each_written_alone(pair: Volume) -> None:
    a, b = pair.disks
    pair.pull(b)
    pair.up()
    pair.write("text", "written on a")
    pair.down()
    pair.pull(a)
    pair.back(b)
    pair.up()
    pair.write("text", "written on b")
    pair.write("more", "and more")
    tool("btrfs", "filesystem", "sync", pair.at)
    pair.write("more", "and more again")
    pair.down()
    pair.back(a)
    assert pair.generation(b) > pair.generation(a)
    before = a.read((1 << 20) + (64 << 10), 4096)
    assembly = pair.up()
    assert assembly.degraded and [m.node for m in assembly.split] == [pair.data(a)] and assembly.stale == ()
    assert pair.read("text") == "written on b"
    assert a.read((1 << 20) + (64 << 10), 4096) == before
    pair.down()
    pair.pull(b)
    pair.up()
    assert pair.read("text") == "written on a"


def test_a_stale_member_alone_is_used_and_told_from_the_other_later(pair: Volume) -> None:
    a, b = pair.disks
    pair.pull(b)
    pair.up()
    pair.write("text", "on a")
    pair.down()
    pair.pull(a)
    pair.back(b)
    assert pair.up().degraded
    pair.write("text", "on b")
    pair.down()
    pair.back(a)
    assert len(pair.look().split) == 1


def test_mounted_without_each_other_and_nothing_written(pair: Volume) -> None:
    """Neither mark is a stretch of history: both hold the same, and nothing is copied."""
    for n in (0, 1):
        pair.pull(pair.disks[n])
        pair.up()
        pair.down()
        pair.back(pair.disks[n])
    assert not pair.up().degraded


def test_nothing_is_written_by_a_read_only_mount(pair: Volume) -> None:
    a, b = pair.disks
    pair.pull(b)
    before = a.file.read_bytes()
    found = pair.found()
    btrfs_mount.mount_assembly(
        found, assemble.look(found.members, found.uuid), log.say, read_only=True, at=pair.at
    )
    pair.down()
    assert a.file.read_bytes() == before


def test_a_volume_that_cannot_be_mounted_is_not_marked(pair: Volume, make_disk: Make, tmp_path: Path) -> None:
    a, b = pair.disks
    pair.pull(b)
    end_of_superblock, mirror = (1 << 20) + (68 << 10), (1 << 20) + (64 << 20)
    a.write(end_of_superblock, bytes(mirror - end_of_superblock))
    a.write(mirror + 4096, bytes(a.disk.size - (1 << 20) - mirror - 4096))
    with pytest.raises(PersistError) as caught:
        pair.up()
    assert caught.value.message_id == "VOLUME_BROKEN"
    assert degraded_mark.read(pair.data(a), pair.uuid) is None


def test_three_disks(make_disk: Make, tmp_path: Path) -> None:
    with unmounted(str(tmp_path / "volume")):
        v = Volume(tmp_path, [make_disk(MIB, b"") for _ in range(3)])
        a, b, c = v.disks
        v.pull(b)
        v.up()
        v.write("text", "without b")
        assert {degraded_mark.read(v.data(d), v.uuid) for d in (a, c)} == {
            in_kernel.head(in_kernel.members(v.at))
        }
        v.down()
        v.pull(c)
        before = degraded_mark.read(v.data(a), v.uuid)
        with pytest.raises(PersistError, match="more disks of it are missing"):
            v.up()  # raid1 stands the loss of one
        assert degraded_mark.read(v.data(a), v.uuid) == before, (
            "c would be stale although nobody wrote without it"
        )
        v.back(b)
        with pytest.raises(PersistError):
            v.up()  # b is no help
        v.back(c)
        v.up()
        assert v.read("text") == "without b"


def test_one_that_comes_between_the_look_and_the_mount(pair: Volume) -> None:
    a, b = pair.disks
    pair.pull(b)
    pair.up()
    pair.write("text", "on a")
    pair.down()
    pair.back(b)
    alone = Found(pair.data(a), pair.uuid, (pair.data(a),))
    assembly = assemble.look(alone.members, alone.uuid)
    tool("btrfs", "device", "scan", pair.data(b))
    btrfs_mount.mount_assembly(alone, assembly, log.say, at=pair.at)
    assert [m.state for m in in_kernel.members(pair.at)] == ["ok", "missing"]


def test_a_namespace_that_is_made_while_the_mount_is_tried(pair: Volume) -> None:
    """It gets a copy of each mount. One of the trial would keep the filesystem read-only and without its log,
    and the real mount would be refused."""
    pair.pull(pair.disks[1])
    own = os.readlink("/proc/self/ns/mnt")
    options = "rescue=nologreplay,degraded,subvol=@persist-state"
    with newmount.nowhere("btrfs", pair.data(pair.disks[0]), options, read_only=True):
        other = subprocess.Popen(["unshare", "--mount", "sleep", "60"])
        while os.readlink(f"/proc/{other.pid}/ns/mnt") == own:
            time.sleep(0.01)
    try:
        assert pair.up().degraded
        pair.write("text", "new")
    finally:
        other.kill()
        other.wait()


def instead_of_mount(script: str) -> None:
    """A program that is found before mount(8), in a mount namespace of our own."""
    program = Path("/usr/local/sbin/mount")
    sh("mount -t tmpfs none /usr/local/sbin")
    program.write_text(f"#!/bin/sh -e\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


@own_machine
def test_marks_stay_where_a_stale_member_was_mounted_for_a_moment(pair: Volume) -> None:
    """The kernel took it, wrote to it, and the second mount failed: from then on only the mark tells it from
    the one that is current."""
    a, b = pair.disks
    pair.pull(b)
    pair.up()
    pair.write("text", "on a")
    pair.down()
    pair.back(b)
    alone = Found(pair.data(a), pair.uuid, (pair.data(a),))
    assembly = assemble.look(alone.members, alone.uuid)
    instead_of_mount(
        "echo >>/run/mounts; [ $(wc -l </run/mounts) = 1 ] || { echo not again >&2; exit 32; }\n"
        f'btrfs device scan {pair.data(b)}; exec /usr/bin/mount "$@"'
    )
    with pytest.raises(PersistError, match="not again"):
        btrfs_mount.mount_assembly(alone, assembly, log.say, at=pair.at)
    assert Path("/run/mounts").read_text() == "\n\n"
    found = pair.look()
    assert [m.node for m in found.use] == [pair.data(a)] and [
        m.node for m in (*found.stale, *found.split)
    ] == [pair.data(b)]


@pytest.mark.parametrize("back", [False, True])
def test_power_cut_between_two_marks(make_disk: Make, tmp_path: Path, back: bool) -> None:
    """One of three is away, and the mark is on the first of the others alone: nothing was written under
    it."""
    with unmounted(str(tmp_path / "volume")):
        v = Volume(tmp_path, [make_disk(MIB, b"") for _ in range(3)])
        v.up()
        v.write("text", "mine")
        v.down()
        v.pull(v.disks[2])
        degraded_mark.write(
            [v.data(v.disks[0])], degraded_mark.following(v.uuid, v.look().head, v.generation(v.disks[0]))
        )
        if back:
            v.back(v.disks[2])
        assert len(v.look().use) == (3 if back else 2)
        v.up()
        assert v.read("text") == "mine"
        assert (
            sorted(m.state for m in in_kernel.members(v.at)) == ["missing", "ok", "ok"]
            if not back
            else ["ok"] * 3
        )


def test_marks_are_taken_back_where_one_cannot_be_written(make_disk: Make, tmp_path: Path) -> None:
    with unmounted(str(tmp_path / "volume")):
        v = Volume(tmp_path, [make_disk(MIB, b"") for _ in range(3)])
        v.pull(v.disks[2])
        tool("blockdev", "--setro", v.data(v.disks[1]))
        with pytest.raises(PersistError, match="not permitted"):
            v.up()
        assert [degraded_mark.read(v.data(d), v.uuid) for d in v.disks[:2]] == [None, None]


@own_machine
def test_udev_does_not_look_at_those_that_are_left_out_until_they_are(pair: Volume) -> None:
    """Its event between forgetting and mounting would have the kernel mount a member that was written alone,
    and write over what only it has."""
    for n in (0, 1):
        pair.pull(pair.disks[n])
        pair.up()
        pair.write("text", str(n))
        pair.down()
        pair.back(pair.disks[n])
    nodes = " ".join(d.node for d in pair.disks)
    instead_of_mount(
        f"for d in {nodes}; do flock --shared --nonblock $d true || echo $d >>/run/locked; done\n"
        'exec /usr/bin/mount "$@"'
    )
    split = pair.up().split[0].node
    locked = Path("/run/locked").read_text().split()
    assert locked == [d.node for d in pair.disks if pair.data(d) == split]
    assert subprocess.run(["flock", "--shared", "--nonblock", pair.disks[0].node, "true"]).returncode == 0


def test_one_that_comes_back_while_it_is_mounted(pair: Volume) -> None:
    a, b = pair.disks
    pair.pull(b)
    pair.up()
    pair.write("text", "without b")
    pair.back(b)  # the kernel takes the name now and calls nothing missing
    assert [m.state for m in in_kernel.members(pair.at)] == ["ok", "behind"]


def test_corrupted_superblock(pair: Volume) -> None:
    a, b = pair.disks
    b.write((1 << 20) + (64 << 10) + 0x48, b"\xff")
    assembly = pair.up()
    assert assembly.degraded and assembly.absent == 1
    with pytest.raises(PersistError) as caught:
        pair.down()
        a.write((1 << 20) + (64 << 10), bytes(4096))
        pair.up()
    assert caught.value.fields["PERSIST_REASON"] == "no-member"


def test_rescue(pair: Volume, tmp_path: Path) -> None:
    pair.up()
    pair.write("text", "save me")
    pair.down()
    a, b = pair.disks
    pair.pull(b)
    before = a.file.read_bytes()
    place = str(tmp_path / "rescue")
    with unmounted(place):
        assert rescue.try_rescue(pair.found(), pair.look(), at=place) is None
        assert Path(f"{place}/@persist-state/text").read_text() == "save me"
        assert subprocess.run(["touch", f"{place}/x"], check=False, capture_output=True).returncode != 0
        assert os.statvfs(place).f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
    assert a.file.read_bytes() == before
    a.write((1 << 20) + (66 << 10), bytes(100 << 20))
    why_not = rescue.try_rescue(pair.found(), pair.look(), at=place)
    assert why_not is not None and not os.path.exists(place)
    assert f"Failed to mount the state volume on {pair.data(a)} read-only" in why_not.message
