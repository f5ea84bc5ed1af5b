# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where there is no udev to ask: in the stage before PID 1, a chroot into which /run of the initrd is bound.

The same is found, formatted and waited for, by probing and by the kernel's own events.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from persist import log
from persist.boot.config import Config
from persist.system import blockdev, uevents
from persist.volume.find import candidates, probing, search
from persist.volume.find.decision import Candidate, Found, Known, Missing
from persist.volume.ondisk import header
from persist.volume.ondisk.header import Options

from .conftest import Make
from .rig import HEADER, LoopDisk, tool
from .services import services, uuid_of

# As it is when a stage begins: udev's socket and its database are there, and are the initrd's.
STAGE = "mkdir -p /run/udev/data /run/udev/tags; : >/run/udev/control"
ODD = "a b\\c\"é$`'<"  # 12 bytes in UTF-8


def _of(disks: list[LoopDisk], every: list[Candidate]) -> list[Candidate]:
    ours = {d.node for d in disks}
    return sorted((c for c in every if c.disk_node in ours), key=lambda c: c.node)


def _by_udev(disks: list[LoopDisk]) -> list[Candidate]:
    """What udev's own blkid says of all their devices."""
    found = []
    for disk in (d.disk for d in disks):
        for device in (disk, *blockdev.partitions(disk)):
            said = subprocess.run(
                ["udevadm", "test-builtin", "blkid", device.sys_path], capture_output=True, text=True
            ).stdout
            p = dict(line.split("=", 1) for line in said.splitlines() if line.startswith("ID_"))
            found.append(candidates.of(p, device.node, device.device, disk.node, disk.device, disk.sys_path))
    return sorted(found, key=lambda c: c.node)


def test_probing_comes_to_what_udev_would_say(make_disk: Make, volume: LoopDisk) -> None:
    ext4, swap, blank, both, names = (make_disk(64, b"") for _ in range(5))
    tool("mkfs.ext4", "-q", "-L", ODD, ext4.node)
    tool("mkswap", "-L", "x y", swap.node)
    # A filesystem that nobody wiped away when the next one was made.
    tool("mkfs.ext4", "-q", both.node)
    tool("mkswap", "--lock=no", both.node)
    both.write(0x438, b"\x53\xef")
    tool("sfdisk", "-q", names.node, stdin="label: gpt\nsize=8MiB\nname=persist-data\n")
    tool("sfdisk", "-q", "--part-label", names.node, "1", ODD)
    names.replug()
    tool("mkfs.ext4", "-q", "-L", "inside", f"{names.node}p2")
    disks = [volume, ext4, swap, blank, both, names]
    found = _of(disks, probing.everything())
    assert found == _by_udev(disks)
    # So that nothing is compared with nothing.
    assert {c.label for c in found} >= {ODD, "persist-data", "x y", "inside"}
    assert [c.part_label for c in found if c.disk_node == names.node] == ["", ODD, "persist-data"]
    assert {c.untrusted for c in found} == {"a loop device"}
    assert [(c.fstype, c.usage) for c in found if c.disk_node == blank.node] == [("", "")]


def test_a_disk_that_does_not_answer_costs_no_other(make_disk: Make, volume: LoopDisk) -> None:
    broken = make_disk(64, b"")
    tool("mkfs.ext4", "-q", broken.node)
    os.truncate(broken.file, 0)
    tool("blockdev", "--flushbufs", broken.node)
    with pytest.raises(OSError, match="Input/output"):
        broken.read(0, 4096)
    found = probing.everything()
    assert [c.usage for c in _of([broken], found)] == [""]
    assert "persist-data" in {c.label for c in _of([volume], found)}


def test_what_is_formatted_in_the_stage_is_found_there(make_disk: Make, tmp_path: Path) -> None:
    """udev never told of the new partitions, and the search waited for its word."""
    disk = make_disk(300)
    wish: dict[str, Any] = {"device": [disk.node], "only": [disk.node], "enabled": True, "before": STAGE}
    seen = services("format_main", "volume", first="/mnt", root=tmp_path, **wish)
    assert [r["status"] for r in seen.report] == [0, 0], seen.log
    assert (seen.last["kind"], seen.last["uuid"], seen.last["reason"]) == ("btrfs", uuid_of(disk), "")
    assert not [s for s in seen.statuses if "Waiting" in s]
    # The next boot has it in the stage, too; asked in its stead, the initrd's database has nothing.
    config = {"member_timeout": 0}
    again = services("volume", first="/mnt", root=tmp_path, config=config, **wish).last
    assert (again["kind"], again["reason"]) == ("btrfs", "")
    asked = services("volume", root=tmp_path, config=config, **wish).last
    assert (asked["kind"], asked["reason"]) == ("none", "known-volume-missing")


def test_a_claim_that_comes_a_moment_later_is_waited_for(make_disk: Make) -> None:
    """Without an event: a look now and then finds it as well."""
    head = header.encode(HEADER.decode(), Options(members=2))
    one, two = make_disk(300, head), make_disk(300, b"")
    comes = threading.Timer(0.7, lambda: two.write(0, head))
    comes.start()
    nodes = [one.node, two.node]
    seen = services(
        "format_main",
        first="/mnt",
        device=nodes,
        only=nodes,
        enabled=True,
        before=STAGE,
        config={"member_timeout": 60},
    )
    comes.join()
    assert seen.last["status"] == 0 and seen.refused == []
    assert any("Waiting up to 60 s for 1 more claimed disk" in s for s in seen.statuses)
    assert uuid_of(one) == uuid_of(two)


def _search(uuid: str, timeout: float) -> object:
    config = Config()
    config.device = [f"UUID={uuid}"]
    return search.search(config, Known(), timeout, log.say, log.notify_status)[0]


def test_a_volume_that_comes_a_moment_later_is_waited_for(volume: LoopDisk) -> None:
    uuid = uuid_of(volume)
    volume.unplug()
    assert isinstance(_search(uuid, 0.5), Missing)
    comes = threading.Timer(0.7, volume.replug)
    comes.start()
    began = time.monotonic()
    found = _search(uuid, 60)
    comes.join()
    assert isinstance(found, Found) and found.uuid == uuid
    assert 0.7 <= time.monotonic() - began < 30


def _change(disk: LoopDisk) -> None:
    Path(f"{disk.disk.sys_path}/uevent").write_text("change")


def test_the_kernel_is_heard(make_disk: Make) -> None:
    disk = make_disk(1, b"")
    with uevents.kernel_events() as wait:
        while wait(0.2):  # what it says of the new disk
            pass
        began = time.monotonic()
        comes = threading.Timer(0.5, _change, [disk])
        comes.start()
        assert wait(60) is True
        assert 0.4 < time.monotonic() - began < 30
        comes.join()
        while wait(0.2):
            pass
        for _ in range(5000):  # more than there is room for
            _change(disk)
        assert wait(0) is False, "no time is no wait"
        assert wait(60) is True
        while wait(0.2):
            pass
        _change(disk)
        assert wait(60) is True, "it is heard after the overflow"
