# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is not read where no udev says so: in a sysfs that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from persist.system import blockdev
from persist.system.blockdev import Disk
from persist.volume.find import probing

LVM = "LVM-" + "a" * 32 + "B" * 32


def _device(top: Path, name: str, **attributes: str) -> Path:
    """A disk; ``dm__uuid`` is the attribute dm/uuid."""
    place = top / name
    place.mkdir(parents=True)
    for key, value in ({"dev": "8:0", "size": "2048"} | attributes).items():
        file = place / key.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{value}\n")
    return place


@pytest.mark.parametrize(
    ("name", "attributes", "read"),
    [
        ("sda", {}, True),
        ("nvme0n1", {}, True),
        ("mmcblk0", {}, True),
        ("dm-0", {"dm__uuid": "CRYPT-LUKS2-ab-data", "dm__suspended": "0"}, True),
        ("dm-1", {"dm__uuid": LVM, "dm__suspended": "0"}, True),
        ("sdb", {"size": "0"}, False),
        ("fd0", {}, False),
        ("sr0", {}, False),
        ("mmcblk0boot1", {}, False),
        ("mmcblk0rpmb", {}, False),
        ("mtdblock0", {}, False),
        ("dm-2", {"dm__uuid": "mpath-36005", "dm__suspended": "1"}, False),
        ("dm-3", {"dm__uuid": f"{LVM}-tpool", "dm__suspended": "0"}, False),
    ],
)
def test_what_is_a_disk_to_be_read(tmp_path: Path, name: str, attributes: dict[str, str], read: bool) -> None:
    _device(tmp_path, name, **attributes)
    assert [d.name for d in blockdev.disks(str(tmp_path))] == [name] * read


def _disk(place: Path) -> Disk:
    return Disk(place.name, f"/dev/{place.name}", str(place), "8:0", 1 << 20, False, False)


def _holder(disk: Path, name: str, uuid: str) -> None:
    (disk / "holders").mkdir(exist_ok=True)
    (disk / "holders" / name).symlink_to(_device(disk.parent, name, dm__uuid=uuid))


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({}, False),
        ({"device__wwid": "naa.600508b400105e210000900000490000"}, True),
        ({"device__wwid": "naa.600508b400105e210000900000490001"}, False),
        ({"wwid": "eui.00a0980001"}, True),
        ({"wwid": "nvme.1af4-6162"}, True),
        ({"device__wwid": "600508b400105e210000900000490000"}, False),
    ],
)
def test_paths_of_multipath_by_their_ids(tmp_path: Path, attributes: dict[str, str], path: bool) -> None:
    wwids = tmp_path / "wwids"
    wwids.write_text(
        "# Multipath wwids, Version : 1.0\n#\n# Valid WWIDs:\n/3600508b400105e210000900000490000/\n"
        "/eui.00a0980001/\n/nvme.1af4-6162/\n"
    )
    known = probing.known_paths(str(wwids))
    assert probing.is_path(_disk(_device(tmp_path / "sys", "sda", **attributes)), known) == path


def test_a_machine_without_multipath_has_no_paths(tmp_path: Path) -> None:
    assert probing.known_paths(str(tmp_path / "nothing")) == frozenset()


@pytest.mark.parametrize(
    ("uuid", "path"), [("mpath-3600508b4", True), (LVM, False), ("CRYPT-LUKS2-ab-data", False)]
)
def test_paths_of_multipath_by_what_holds_them(tmp_path: Path, uuid: str, path: bool) -> None:
    disk = _device(tmp_path, "sda")
    _holder(disk, "dm-0", uuid)
    assert probing.is_path(_disk(disk), frozenset()) == path
