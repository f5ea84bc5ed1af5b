# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the stage before PID 1 must not do, as it was found by attack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import Make
from .services import READ_ONLY
from .test_early_stage import DIRECTORIES, READ_BY_PID1, SHIPPED, boots, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

UUID = "UUID=11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize(
    "config", [{"device": ["auto"], "allow_removable": True}, {"device": [UUID], "allow_removable": True}]
)
def test_a_stick_is_the_services(make_disk: Make, config: dict[str, Any]) -> None:
    """No driver of a USB host is loaded by the stage, so its search has not seen what may come."""
    before = f"{DIRECTORIES}\n{READ_ONLY}"
    seen = stage(make_disk(header=b""), before=before, config=config | {"member_timeout": 1})
    assert "staged" not in seen["flags"] and "/run/persist/volume" not in seen["at"]


def test_a_mount_of_the_initrd_stays_in_sight(make_disk: Make) -> None:
    """x-initrd.mount (fstab) below an overlay entry."""
    line = "echo '/dev/sdb1 /var/lib/data ext4 defaults,x-initrd.mount 0 2' >/run/fstab"
    mounted = "mkdir -p /var/lib/data; mount -t tmpfs data /var/lib/data; echo real >/var/lib/data/file"
    before = f"{DIRECTORIES}\n{line}\n{mounted}"
    seen = boots("early\ncat /var/lib/data/file >&2 || true", make_disk(), before=before, fstab="/run/fstab")
    assert "real" in seen.log


def test_a_claim_that_only_a_link_of_udev_names(make_disk: Make) -> None:
    """Refused before udev runs, it is refused for the whole boot, and on each one (init=, coldplug)."""
    disk, link = make_disk(), "/run/by-id"
    config = {"device": [link], "member_timeout": 1}
    seen = boots(f"early\nln -s {disk.node} {link}\nformat_main", disk, config=config)
    assert seen.refused == [] and disk.read(0, 24) != b"persist-please-format-me"


def test_notes_of_an_earlier_run_are_kept(make_disk: Make) -> None:
    """An initrd and init=."""
    seen = boots("early\nearly", make_disk()).last["said"]
    assert any("is the state volume now" in text for _, _, text in seen)


@pytest.mark.parametrize("cmdline", ["persist=volatile", "persist=ro"])
def test_memory_that_a_killed_stage_left_has_a_reason(make_disk: Make, tmp_path: Path, cmdline: str) -> None:
    disk = make_disk()
    stage(disk, root=tmp_path)
    do = "early\nrm /run/persist/staged /run/persist/volume.json\nvolume"
    seen = boots(do, disk, root=tmp_path, cmdline=cmdline).last
    assert seen["reason"] == {"persist=volatile": "volatile", "persist=ro": "read-only"}[cmdline]


def test_nothing_is_said_twice(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk()
    wish = {"root": tmp_path, "registry": READ_BY_PID1, "before": SHIPPED}
    broken = "cd /run/persist/volume/.persist/overlay/etc; mv upper elsewhere; ln -s elsewhere upper"
    boots(f"early\n{broken}", disk, **wish)
    loud = [text for priority, _, text in stage(disk, **wish)["said"] if priority <= 4]
    assert len(loud) == len(set(loud))
