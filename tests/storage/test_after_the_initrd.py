# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was mounted before PID 1, by a stage that did not end, taken over by persist-volume.service; and
volumes that take no writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Make
from .rig import LoopDisk
from .services import READ_ONLY, services, uuid_of


def test_mounted_by_the_initrd(volume: LoopDisk) -> None:
    seen = services(
        "volume",
        "volume",
        device=[volume.node],
        before=f"mkdir -p /run/persist/volume; mount -o subvol=@persist-state {volume.node}p1 "
        "/run/persist/volume",
    )
    assert [(r["kind"], r["device"]) for r in seen.report] == [("btrfs", f"{volume.node}p1")] * 2


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


@pytest.mark.parametrize(
    "device", ["{node}", "UUID={uuid}", "LABEL=persist-data", "auto", "{other}", "/dev/nothing"]
)
def test_what_is_mounted_is_kept(volume: LoopDisk, make_disk: Make, device: str) -> None:
    """One program chooses, before PID 1 or after: there is no second opinion."""
    other = make_disk(300)
    assert other.format().returncode == 0
    names = {"node": volume.node, "other": other.node, "uuid": uuid_of(volume)}
    seen = services("volume", "volume", device=[device.format(**names)], before=initrd(volume, volume, other))
    for last in seen.report:
        assert (last["kind"], last["device"], last["reason"], last["status"]) == (
            "btrfs",
            f"{volume.node}p1",
            "",
            0,
        )
        assert last["flags"] == ["mount-entries", "persistent"]


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


@pytest.mark.parametrize("kind", ["bind", "overlay"])
def test_read_only_volume_with_entries_on_it_is_kept(volume: LoopDisk, kind: str) -> None:
    """It turned read-only while entries were mounted from it."""
    at = "/run/persist/volume/.persist/overlay/srv-x"
    entry = (
        "mkdir -p /run/persist/volume/srv/x; mount --bind /run/persist/volume/srv/x /srv/x"
        if kind == "bind"
        else f"mkdir -p {at}/upper {at}/work; mount -t overlay -o "
        f"lowerdir=/srv,upperdir={at}/upper,workdir={at}/work x /srv/x"
    )
    before = (
        f"{initrd(volume, volume)}; mkdir -p /srv/x; {entry}; mount -o remount,bind,ro /run/persist/volume; "
        f"{READ_ONLY}"
    )
    last = services("volume", device=[volume.node], before=before).last
    assert (last["kind"], last["read_only"], last["flags"], last["reason"]) == (
        "btrfs",
        True,
        [],
        "volume-read-only",
    )
