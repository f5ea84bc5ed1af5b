# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claims as persist-format.service meets them at a boot, on real disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.volume.ondisk import header
from persist.volume.ondisk.partition_table import MIB

from .conftest import Make
from .rig import HEADER, LoopDisk
from .services import KNOWN, note_of, services, uuid_of, write_note


def test_two_claims_are_one_volume_and_a_third_comes_too_late(make_disk: Make) -> None:
    one, two, three = make_disk(300), make_disk(300), make_disk(300)
    nodes = [one.node, two.node]
    seen = services(
        "format",
        "more",
        "format",
        "format",
        "volume",
        disks=nodes,
        device=[*nodes, three.node],
        config={"member_timeout": 0},
        more=three.node,
    )
    assert [r.get("failed") for r in seen.report[:3]] == [0, 0, 0]
    assert [(r["device"], r["code"]) for r in seen.refused] == [(three.node, "volume-exists")]
    assert seen.log.count("is left alone") == 1, "said once"
    assert three.read(0, MIB) == HEADER.ljust(MIB, b"\0")
    assert (seen.last["kind"], seen.last["device"], seen.last["degraded"]) == (
        "btrfs",
        f"{one.node}p1",
        False,
    )


def test_disk_that_was_begun_comes_first(make_disk: Make) -> None:
    one, two = make_disk(300), make_disk(300)
    assert two.format(kill_after="mkfs").returncode == -9
    nodes = [one.node, two.node]
    seen = services("format", "volume", disks=nodes, device=nodes)
    assert [(r["device"], r["code"]) for r in seen.refused] == [(one.node, "volume-exists")]
    assert seen.last["device"] == f"{two.node}p1"


def test_claim_beside_a_volume(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300)
    nodes = [volume.node, other.node]
    seen = services("format", "volume", disks=nodes, device=nodes)
    assert [r["code"] for r in seen.refused] == ["volume-exists"]
    assert seen.last["device"] == f"{volume.node}p1"
    assert other.read(0, MIB) == HEADER.ljust(MIB, b"\0")


def test_claim_where_another_volume_is_named(make_disk: Make) -> None:
    disk = make_disk(300)
    seen = services(
        "format", disks=[disk.node], device=[disk.node], wanted="11111111-2222-3333-4444-555555555555"
    )
    assert [r["code"] for r in seen.refused] == ["volume-expected"]


def test_claim_where_a_volume_is_known(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(300)
    write_note(tmp_path, KNOWN)
    seen = services("format", disks=[disk.node], device=[disk.node], root=tmp_path)
    assert [r["code"] for r in seen.refused] == ["volume-expected"]
    assert "/var/lib/persist/known-volume" in seen.refused[0]["hint"] and KNOWN in seen.refused[0]["message"]
    assert disk.read(0, MIB) == HEADER.ljust(MIB, b"\0")
    note_of(tmp_path).unlink()
    assert (
        services("format", "volume", disks=[disk.node], device=[disk.node], root=tmp_path).last["kind"]
        == "btrfs"
    )


def test_known_volume_whose_claim_was_not_erased(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk(300)
    assert disk.format(kill_after="label").returncode == -9
    write_note(tmp_path, uuid_of(disk))
    seen = services("format", "volume", disks=[disk.node], device=[disk.node], root=tmp_path)
    assert seen.refused == [] and seen.last["kind"] == "btrfs"
    assert disk.read(0, header.MARK_OFFSET) == bytes(header.MARK_OFFSET)
    assert disk.read(header.MARK_OFFSET, 15) == b"persist-bound 1"


def test_refusal_is_not_a_failure(make_disk: Make) -> None:
    disk = make_disk(200)
    seen = services("format", disks=[disk.node], device=[disk.node])
    assert seen.report == [{"failed": 0}]
    assert [r["code"] for r in seen.refused] == ["too-small"]
    assert "at least 256 MiB" in seen.log


def test_nothing_is_formatted_where_persist_is_not_enabled(make_disk: Make) -> None:
    disk = make_disk(300)
    seen = services("format_main", device=[disk.node], only=[disk.node])
    assert seen.report == [{"status": 0}]
    assert "persist-setup.target is not enabled" in seen.log
    assert disk.read(0, MIB) == HEADER.ljust(MIB, b"\0")


def test_nothing_is_formatted_for_an_unknown_word(make_disk: Make) -> None:
    disk = make_disk(300)
    nodes = [disk.node]
    seen = services("format_main", cmdline="persist=of", device=nodes, only=nodes, enabled=True)
    assert (
        seen.report == [{"status": 0}]
        and "nothing is formatted: persist=of is on the kernel command line" in seen.log
    )
    assert disk.read(0, MIB) == HEADER.ljust(MIB, b"\0")
    seen = services("format_main", cmdline="persist=on", device=nodes, only=nodes, enabled=True)
    assert seen.report == [{"status": 0}]
    assert disk.read(0, MIB) != HEADER.ljust(MIB, b"\0")


@pytest.mark.parametrize(("what", "reason"), [("blank", ""), ("data", "not-a-volume")])
def test_blank_disk_that_is_named(make_disk: Make, what: str, reason: str) -> None:
    """Format=blank: the ephemeral disk of a cloud needs no header; whatever is on it is not blank."""
    disk = make_disk(300, b"" if what == "blank" else b"somebody's")
    config = {"format_blank": True, "member_timeout": 0}
    last = services("volume", device=[disk.node], config=config, enabled=True).last
    assert (last["kind"], last["reason"]) == ("none" if reason else "btrfs", reason)
    assert (disk.read(0, 10) == b"somebody's") == bool(reason)
    if not reason:
        again = services("volume", device=[disk.node], config=config, enabled=True).last
        assert (again["kind"], again["uuid"]) == ("btrfs", last["uuid"])


@pytest.mark.parametrize("ephemeral", [True, False])
def test_disk_that_is_lost_by_contract(make_disk: Make, tmp_path: Path, ephemeral: bool) -> None:
    """A cloud's disk by Device= and Format=blank: after a stop it is blank again, and with Ephemeral=yes it
    is taken anew, without a wait."""
    first = make_disk(300, b"")
    config = {"format_blank": True, "ephemeral": ephemeral, "member_timeout": 0}
    before = services("volume", device=[first.node], config=config, enabled=True, root=tmp_path).last
    assert before["kind"] == "btrfs" and note_of(tmp_path).read_text() == f"{before['uuid']}\n"
    first.unplug()
    again = make_disk(300, b"")
    seen = services(
        "volume",
        "volume",
        device=[again.node],
        config=config | {"member_timeout": 1},
        enabled=True,
        root=tmp_path,
    )
    if ephemeral:
        assert (
            [r["kind"] for r in seen.report] == ["btrfs"] * 2
            and seen.last["uuid"] != before["uuid"]
            and not seen.last["expected"]
        )
        assert before["uuid"] in seen.log and "as Ephemeral=yes allows" in seen.log
        assert not [s for s in seen.statuses if "Waiting" in s]
        assert note_of(tmp_path).read_text() == f"{seen.last['uuid']}\n"
        assert (
            services("volume", device=[again.node], config=config, enabled=True, root=tmp_path).last["uuid"]
            == seen.last["uuid"]
        )
    else:
        assert (seen.last["kind"], seen.last["expected"]) == ("none", True) and again.read(0, MIB) == bytes(
            MIB
        )
        assert "Ephemeral=yes" in seen.log


def test_claim_on_a_disk_that_is_lost_by_contract(make_disk: Make, tmp_path: Path) -> None:
    """Where the provider writes the claim at each start; only a disk that Device= names, and never beside a
    volume that is there."""
    write_note(tmp_path, KNOWN)
    disk = make_disk(300)
    config = {"ephemeral": True, "allow_removable": True, "member_timeout": 0}
    seen = services(
        "format", disks=[disk.node], device=["auto"], config=config, root=tmp_path, only=[disk.node]
    )
    assert [r["code"] for r in seen.refused] == ["volume-expected"]
    seen = services("format", "volume", disks=[disk.node], device=[disk.node], config=config, root=tmp_path)
    assert seen.last["kind"] == "btrfs" and "as Ephemeral=yes allows" in seen.log
    other = make_disk(300)
    seen = services(
        "format", disks=[other.node], device=[other.node, disk.node], config=config, root=tmp_path
    )
    assert [r["code"] for r in seen.refused] == ["volume-exists"]


def test_another_volume_is_attached(make_disk: Make, volume: LoopDisk) -> None:
    """The one that is bound to this machine, or named, is used; the other one is said, and is in
    volume.json."""
    other = make_disk(300)
    assert other.format().returncode == 0
    seen = services("volume", "volume", device=[f"UUID={uuid_of(volume)}"], only=[volume.node, other.node])
    assert [r["others"] for r in seen.report] == [[{"device": f"{other.node}p1", "uuid": uuid_of(other)}]] * 2
    assert seen.log.count("could be a state volume, too") == 1 and (
        seen.last["kind"],
        seen.last["reason"],
    ) == ("btrfs", "")
    other.unplug()
    assert services("volume", device=[f"UUID={uuid_of(volume)}"], only=[volume.node]).last["others"] == []


# A machine that has the disk {0}; {1} comes once that one has a partition.
_PLUGGED = """
wants=/run/systemd/system/local-fs.target.wants
mkdir -p $wants
ln -s /usr/lib/systemd/system/persist-setup.target $wants/
mount -t tmpfs tmpfs /sys/class/block
ln -s /sys/devices/virtual/block/{0} /sys/class/block/
for n in $(seq 3000); do
    if [ -e /sys/devices/virtual/block/{0}/{0}p1 ]; then
        ln -s /sys/devices/virtual/block/{1} /sys/class/block/
        break
    fi
    sleep 0.01
done &
"""


def test_disk_that_is_plugged_in_while_another_is_formatted(make_disk: Make) -> None:
    """udev's start of the service is none while it runs: what was tagged meanwhile is looked at before it
    ends."""
    first, late = make_disk(300), make_disk(300)
    name = late.node.removeprefix("/dev/")
    plugged = (
        "mount -t tmpfs none /usr/local/sbin; cat >/usr/local/sbin/mkfs.btrfs <<'END'\n#!/bin/sh\n"
        f"ln -sf /sys/devices/virtual/block/{name} /sys/class/block/{name}\n"
        'exec /usr/sbin/mkfs.btrfs "$@"\nEND\nchmod 755 /usr/local/sbin/mkfs.btrfs'
    )
    nodes = [first.node, late.node]
    seen = services("format_main", device=nodes, only=nodes[:1], enabled=True, before=plugged)
    assert seen.report == [{"status": 0}] and [(r["device"], r["code"]) for r in seen.refused] == [
        (late.node, "volume-exists")
    ]
