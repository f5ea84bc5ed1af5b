# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the initrd has mounted, taken over by persist-volume.service; and volumes that take no writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Make
from .rig import LoopDisk
from .services import KNOWN, READ_ONLY, note_of, services, uuid_of


def test_mounted_by_the_initrd(volume: LoopDisk) -> None:
    seen = services(
        "volume",
        "volume",
        device=[volume.node],
        before=f"mkdir -p /run/persist/volume; mount -o subvol=@persist-state {volume.node}p1 "
        "/run/persist/volume",
    )
    assert [(r["kind"], r["from_initrd"], r["device"]) for r in seen.report] == [
        ("btrfs", True, f"{volume.node}p1")
    ] * 2


def initrd(disk: LoopDisk, *databases: LoopDisk, options: str = "subvol=@persist-state") -> str:
    """What an initrd left behind: the volume mounted, and udev's database of some disks."""
    lines = [
        f"mkdir -p /run/udev/data /run/persist/volume; mount -o {options} {disk.node}p1 /run/persist/volume"
    ]
    for known in databases:
        uuid = uuid_of(known)
        number = Path(f"/sys/class/block/{known.node.removeprefix('/dev/')}p1/dev").read_text().strip()
        words = (
            "S:disk/by-label/persist-data",
            "I:1",
            "E:ID_FS_TYPE=btrfs",
            "E:ID_FS_USAGE=filesystem",
            f"E:ID_FS_UUID={uuid}",
            f"E:ID_FS_UUID_SUB={uuid}",
            "E:ID_FS_LABEL_ENC=persist-data",
            "G:systemd",
        )
        lines.append(f"printf '%s\\n' {' '.join(words)} >/run/udev/data/b{number}")
    return "; ".join(lines)


def test_another_volume_beside_the_one_that_the_initrd_mounted(volume: LoopDisk, make_disk: Make) -> None:
    """Said once, by the run that looks; kept by a second one."""
    other = make_disk(300)
    assert other.format().returncode == 0
    uuid, before = uuid_of(volume), initrd(volume, volume, other)
    seen = services("volume", "volume", device=[f"UUID={uuid}"], before=before)
    others = [{"device": f"{other.node}p1", "uuid": uuid_of(other)}]
    assert [(r["others"], r["reason"]) for r in seen.report] == [(others, "")] * 2
    assert seen.log.count("could be a state volume, too") == 1


@pytest.mark.parametrize("spec", ["{node}", "{node}p1", "UUID={uuid}", "LABEL=persist-data"])
def test_the_initrd_was_right(volume: LoopDisk, spec: str) -> None:
    seen = services(
        "volume",
        device=[spec.format(node=volume.node, uuid=uuid_of(volume).upper())],
        before=initrd(volume, volume),
    )
    assert (seen.last["kind"], seen.last["from_initrd"], seen.last["reason"]) == ("btrfs", True, "")


def test_no_second_opinion_before_udev_has_seen_the_disk(volume: LoopDisk, make_disk: Make) -> None:
    other = make_disk(300)
    assert other.format().returncode == 0
    for before in (initrd(volume), initrd(volume, other), initrd(volume) + "; rm -r /run/udev"):
        seen = services("volume", device=[f"UUID={KNOWN}"], before=before)
        assert (seen.last["kind"], seen.last["reason"]) == ("btrfs", "")


@pytest.mark.parametrize(
    ("device", "cmdline", "said"),
    [
        ("LABEL=persist-data", "", "More than one filesystem could be the state volume"),
        ("auto", "", "a loop device, which is not trusted unasked"),
        ("{other}", "", "but by persist.conf it is {other}p1"),
        ("/dev/nothing", "", "No state volume (/dev/nothing) was found"),
        ("LABEL=persist-data", "persist.volume={uuid}", "but by persist.conf it is {other}p1"),
        ("{node}", "persist=ro", "although persist=ro is on the kernel command line"),
    ],
)
def test_the_initrd_disagrees(
    volume: LoopDisk, make_disk: Make, tmp_path: Path, device: str, cmdline: str, said: str
) -> None:
    """What it mounted is kept, for entries may lie on it, and said."""
    other = make_disk(300)
    assert other.format().returncode == 0
    names = {"node": volume.node, "other": other.node, "uuid": uuid_of(other)}
    seen = services(
        "volume",
        "volume",
        device=[device.format(**names)],
        cmdline=cmdline.format(**names),
        before=initrd(volume, volume, other),
        root=tmp_path,
    )
    for last in seen.report:
        assert (last["kind"], last["device"], last["reason"], last["status"]) == (
            "btrfs",
            f"{volume.node}p1",
            "initrd-disagrees",
            0,
        )
        assert said.format(**names) in last["message"] and "update-initramfs -u" in last["hint"]
        assert last["flags"] == ["mount-entries", "persistent"]
    assert seen.log.count(said.format(**names)) == 1, "said once"
    assert not note_of(tmp_path).exists(), "it is not noted as the volume of this machine"


@pytest.mark.parametrize("early", [False, True])
def test_read_only_volume(volume: LoopDisk, early: bool) -> None:
    """On a writable root the entries stay there: an overlay with such an upper would not be mounted."""
    volume.replug("--read-only")
    before = initrd(volume, volume) if early else ""
    seen = services("volume", "volume", device=[volume.node], before=before)
    for last in seen.report:
        assert (last["kind"], last["read_only"], last["status"], last["reason"]) == (
            "btrfs",
            True,
            0,
            "volume-read-only",
        )
        assert last["flags"] == ["stale"], "what services write on the root now would be a fork"
        assert last["at"]["/mnt/state"][2] is True
    assert (
        "can only be mounted read-only" in seen.log and "Entries are left to the root filesystem" in seen.log
    )


@pytest.mark.parametrize(
    ("before", "config", "kind", "status"),
    [
        ("", {}, "tmpfs", 0),
        ("initrd", {}, "tmpfs", 0),
        ("", {"fallback": "root"}, "tmpfs", 0),
        ("", {"fallback": "none"}, "none", 0),
        ("", {"fallback": "fail"}, "none", 1),
    ],
)
def test_read_only_volume_and_root(
    volume: LoopDisk, before: str, config: dict[str, Any], kind: str, status: int
) -> None:
    volume.replug("--read-only")
    script = f"{initrd(volume, volume)}; {READ_ONLY}" if before else READ_ONLY
    seen = services(
        "volume", *(["volume"] if kind == "tmpfs" else []), device=[volume.node], before=script, config=config
    )
    for last in seen.report:
        assert (last["kind"], last["read_only"], last["status"], last["reason"]) == (
            kind,
            False,
            status,
            "volume-read-only",
        )
        assert last["device"] == f"{volume.node}p1" or last is not seen.report[0]
        assert last["flags"] == (["mount-entries"] if kind == "tmpfs" else [])
        assert last["at"].get("/run/persist/volume", ["none"])[0] == kind
    assert "can only be mounted read-only. It is not used." in seen.log


def test_read_only_volume_with_early_entries_is_kept(volume: LoopDisk) -> None:
    """It turned read-only while the initrd's mounts lay on it."""
    before = (
        f"{initrd(volume, volume)}; mkdir -p /run/persist/early; touch /run/persist/early/etc; mount -o "
        f"remount,ro /run/persist/volume; {READ_ONLY}"
    )
    last = services("volume", device=[volume.node], before=before).last
    assert (last["kind"], last["read_only"], last["flags"], last["reason"]) == (
        "btrfs",
        True,
        [],
        "volume-read-only",
    )
