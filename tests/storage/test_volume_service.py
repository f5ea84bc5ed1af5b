# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-volume.service on real disks: what it mounts, what comes beside it, and what it does where
something is wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from persist.entries import set_up
from persist.note import Note
from persist.volume.ondisk import header
from persist.volume.outcome import Outcome

from .conftest import Make
from .rig import HEADER, LoopDisk, tool
from .services import READ_ONLY, services


def test_claim_to_mounted_volume(make_disk: Make) -> None:
    disk = make_disk(300)
    seen = services("format", "volume", "volume", disks=[disk.node], device=[disk.node])
    assert seen.report[0] == {"failed": 0}
    first, second = seen.report[1:]
    assert (first["status"], first["kind"], first["device"], first["reason"], first["read_only"]) == (
        0,
        "btrfs",
        f"{disk.node}p1",
        "",
        False,
    )
    assert first["version"] == 1 and first["time"].endswith("Z")
    assert first["uuid"] == tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{disk.node}p1").strip()
    assert first["flags"] == ["mount-entries", "persistent", "formatted"]
    assert first["at"]["/run/persist/volume"] == ["btrfs", "/@persist-state", False]
    assert first["at"]["/mnt/state"] == ["btrfs", "/@persist-state", False]
    assert first["at"]["/run/persist/private/image"][2] is False
    assert first["at"]["/run/persist/private/lower"][2] is True
    assert len([line for line in seen.log.splitlines() if "carries a claim and is formatted" in line]) == 1
    assert {k: v for k, v in second.items() if k != "time"} == {
        k: v for k, v in first.items() if k != "time"
    }, "a second run changes nothing"


def test_image_is_not_covered_by_later_mounts(volume: LoopDisk) -> None:
    seen = services(
        "volume",
        "mount -t tmpfs tmpfs /srv; touch /srv/later",
        "! test -e /run/persist/private/image/srv/later; ! test -e /run/persist/private/lower/srv/later",
        "! touch /run/persist/private/lower/tmp/x",
        device=[volume.node],
        before="mount --make-shared /",
    )
    assert seen.last["kind"] == "btrfs"


@pytest.mark.parametrize(
    ("before", "mounted", "said"),
    [
        ("rmdir /mnt/state", True, ""),
        ("mount -t tmpfs tmpfs /mnt/state", True, "Something else is mounted"),
        ("rmdir /mnt/state; mount -o remount,ro /mnt", False, "cannot be made"),
        ("rmdir /mnt/state; ln -s /run/persist/volume /mnt/state", False, ""),
        ("rmdir /mnt/state; mkdir /run/there; ln -s /run/there /mnt/state", False, ""),
    ],
)
def test_public_name(volume: LoopDisk, before: str, mounted: bool, said: str) -> None:
    seen = services("volume", "volume", device=[volume.node], before=before)
    assert seen.last["kind"] == "btrfs"
    assert ("/mnt/state" in seen.last["at"]) == mounted
    assert said in seen.log


def test_what_comes_beside_costs_nothing_else(volume: LoopDisk, tmp_path: Path) -> None:
    place = tmp_path / "volume"
    place.mkdir()
    tool("mount", "-o", "subvol=@persist-state", f"{volume.node}p1", place)
    shutil.rmtree(place / ".persist/tmp")
    tool("umount", place)
    seen = services("volume", device=[volume.node])
    assert (seen.last["status"], seen.last["kind"], seen.last["reason"]) == (0, "btrfs", "") and seen.last[
        "flags"
    ] == ["mount-entries", "persistent"]


def test_a_look_for_room_that_fails_costs_nothing() -> None:
    said: list[Note] = []
    set_up.make_room(Outcome(kind="btrfs"), said.append, "/nothing")
    assert said[0].message.startswith("Failed to see whether the state volume is full: ")


@pytest.mark.parametrize("word", ["volatile", "of"])
def test_volatile_for_one_boot(volume: LoopDisk, word: str) -> None:
    seen = services("volume", cmdline=f"quiet persist={word}", device=[volume.node])
    assert (seen.last["kind"], seen.last["reason"]) == ("tmpfs", "volatile")
    assert f"persist={word} is on the kernel command line" in seen.last["message"]
    assert ("treats as persist=volatile" in seen.last["message"]) == (word != "volatile")


def test_read_only_below(volume: LoopDisk) -> None:
    """persist=ro: the volume at its own place, memory above it, and not a byte written."""
    before = volume.file.read_bytes()
    last = services("volume", device=[volume.node], cmdline="quiet persist=ro").last
    assert (last["kind"], last["reason"], last["read_only_below"], last["status"]) == (
        "tmpfs",
        "read-only",
        True,
        0,
    )
    assert last["at"]["/run/persist/volume"][0] == "tmpfs" and last["at"][
        "/run/persist/private/readonly"
    ] == ["btrfs", "/@persist-state", True]
    assert last["device"] == f"{volume.node}p1" and last["flags"] == ["mount-entries"]
    assert volume.file.read_bytes() == before


@pytest.mark.parametrize(("before", "kind"), [("", "none"), (READ_ONLY, "tmpfs")])
def test_broken_volume_is_left_as_it_is(volume: LoopDisk, tmp_path: Path, before: str, kind: str) -> None:
    place = tmp_path / "top"
    place.mkdir()
    tool("mount", "-o", "subvolid=5", f"{volume.node}p1", place)
    tool("btrfs", "subvolume", "delete", "--commit-after", place / "@persist-state")
    tool("umount", place)
    image = volume.file.read_bytes()
    seen = services("volume", device=[volume.node], before=before)
    assert (seen.last["kind"], seen.last["reason"], seen.last["status"]) == (kind, "broken", 0)
    assert seen.last["device"] == (f"{volume.node}p1")
    assert "does not mount" in seen.log
    assert header.parse(image[:512], [HEADER.decode()]) is None
    assert tool("blkid", "-p", "-o", "value", "-s", "LABEL", f"{volume.node}p1").strip() == "persist-data"


def test_corrupted_superblock(volume: LoopDisk) -> None:
    """Not even its label is known any more: the disk is named (see test_unreadable.py), and nothing is
    written to it."""
    start = int(Path(f"/sys/class/block/{volume.node.removeprefix('/dev/')}p1/start").read_text()) * 512
    volume.write(start + (64 << 10), b"\xa5" * 4096)
    before = volume.file.read_bytes()
    last = services("volume", device=[volume.node], config={"member_timeout": 0}).last
    assert (last["kind"], last["reason"], last["status"]) == ("none", "unreadable", 0)
    assert volume.file.read_bytes() == before


def test_member_is_away(make_disk: Make) -> None:
    """Mounted degraded after a mark on the one that is left, and the healer is asked for; a read-only mount
    leaves no mark."""
    one, two = make_disk(300), make_disk(300)
    nodes = [one.node, two.node]
    assert services("format", disks=nodes, device=nodes, config={"member_timeout": 0}).report == [
        {"failed": 0}
    ]
    two.unplug()
    config = {"member_timeout": 0}
    start = int(Path(f"/sys/class/block/{one.node.removeprefix('/dev/')}p1/start").read_text()) * 512
    look = (
        f"test -e /run/persist/heal; dd if={one.node}p1 bs=512 skip=96 count=1 2>/dev/null | grep -a "
        "persist-degraded"
    )
    readonly = services("volume", device=[one.node], config=config, cmdline="persist=ro").last
    assert (readonly["kind"], readonly["reason"], readonly["read_only_below"], readonly["degraded"]) == (
        "tmpfs",
        "read-only",
        True,
        True,
    )
    assert not one.read(start + 49152, 512).strip(b"\0")
    seen = services("volume", look, device=[one.node], config=config)
    assert (seen.last["kind"], seen.last["degraded"], seen.last["reason"], seen.last["status"]) == (
        "btrfs",
        True,
        "",
        0,
    )
    assert one.read(start + 49152, 20) == b"persist-degraded 1 " + seen.last["uuid"][:1].encode()
    assert "missing" in seen.log


@pytest.mark.parametrize(("before", "kind"), [("", "none"), (READ_ONLY, "tmpfs")])
def test_the_unexpected(make_disk: Make, before: str, kind: str) -> None:
    """Such as a file where a directory was to be made."""
    seen = services("volume", before=f"touch /run/persist/stores; {before}", only=[])
    assert (seen.last["status"], seen.last["kind"], seen.last["reason"]) == (1, kind, "failed")
    assert "Failed to set up the state volume: " in seen.log


def test_named_on_the_command_line(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300)
    assert other.format().returncode == 0
    nodes = [volume.node, other.node]
    both = "PARTLABEL=persist-data"
    assert services("volume", device=[both]).last["reason"] == "duplicate-label"
    uuid = tool("blkid", "-p", "-o", "value", "-s", "UUID", f"{other.node}p1").strip()
    assert (
        services("volume", device=[both], cmdline=f"persist.volume={uuid}").last["device"] == f"{nodes[1]}p1"
    )


def test_cloned_disk(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300, b"")
    name = volume.node
    volume.unplug()
    shutil.copyfile(volume.file, other.file)
    volume.plug()
    for disk in (volume, other):
        subprocess.run(["partx", "--update", disk.node], check=True)
    seen = services("volume", device=["LABEL=persist-data"])
    assert (seen.last["kind"], seen.last["reason"]) == ("none", "cloned-disk"), name
    assert "are copies of one filesystem" in seen.log


def test_untrusted(volume: LoopDisk) -> None:
    seen = services("volume")
    assert (seen.last["kind"], seen.last["reason"]) == ("none", "untrusted")
    assert "a loop device, which is not trusted unasked" in seen.log
