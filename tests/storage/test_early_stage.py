# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage before PID 1 on real disks: a root of its own, no udev, and no PID 1 yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from persist.volume.ondisk import header

from .conftest import Make
from .rig import LoopDisk
from .services import READ_ONLY, services

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

ENTRIES = """[Path]
Path=/etc
Method=overlay
[Path]
Path=/var
Method=overlay
[Path]
Path=/srv/bind
Method=bind
[Path]
Path=/srv/bind/below
Method=overlay
[Path]
Path=/srv/hole
Method=overlay
[Path]
Path=/srv/hole/image
Method=image
"""
DIRECTORIES = "mkdir -p /srv/bind/below /srv/hole/image /srv/scratch; echo image >/srv/bind/file"


def boots(do: str, *disks: LoopDisk, **wish: Any) -> Any:
    """As services(), on a machine with these disks and ENTRIES; ``do``: one thing a line."""
    nodes = [disk.node for disk in disks]
    more: dict[str, Any] = {"enabled": True, "registry": ENTRIES, "only": nodes, "before": DIRECTORIES}
    return services(*do.split("\n"), device=nodes or ["auto"], **(more | wish))


def stage(*disks: LoopDisk, **wish: Any) -> Any:
    """One boot of a machine with these disks up to the end of the stage; the report of it."""
    return boots("early", *disks, **wish).last


def _said(report: dict[str, Any], most: int = 4) -> list[str]:
    return [text for priority, _, text in report["said"] if priority <= most]


def test_first_and_second_boot(make_disk: Make, tmp_path: Path) -> None:
    """Formatted, seeded and mounted; then found. What copies is left to the real root."""
    disk = make_disk()
    seen = stage(disk, root=tmp_path)
    assert seen["status"] == 0 and seen["kind"] == "btrfs" and _said(seen) == [], seen["said"]
    assert {"staged", "mount-entries", "persistent", "formatted"} <= set(seen["flags"])
    assert [seen["at"][path][0] for path in ("/etc", "/var", "/srv/hole")] == ["overlay"] * 3
    assert "/srv/hole/image" in seen["at"]
    assert "/srv/bind" not in seen["at"] and "/srv/bind/below" not in seen["at"]
    assert seen["left"] == {}
    again = stage(disk, root=tmp_path)
    assert again["kind"] == "btrfs" and again["uuid"] == seen["uuid"] and len(_said(again, 5)) == 1
    assert again["at"]["/etc"][0] == "overlay"


def test_what_was_seeded_by_copy_is_mounted_with_all_below_it(make_disk: Make, tmp_path: Path) -> None:
    disk = make_disk()
    seed = "/usr/bin/env PERSIST_LIBRARY=$PYTHONPATH $PYTHONPATH/bin/persist-service seed srv-bind"
    first = boots(f"early\n{seed}", disk, root=tmp_path)
    assert "was seeded from /srv/bind" in first.log
    seen = stage(disk, root=tmp_path)
    assert seen["at"]["/srv/bind"][:2] == ["btrfs", "/@persist-state/srv/bind"]
    assert seen["at"]["/srv/bind/below"][0] == "overlay"


def test_an_overlay_below_an_overlay_takes_along_what_that_has(make_disk: Make, tmp_path: Path) -> None:
    """That copies, so it is left to the real root; where there is nothing to copy it is not."""
    disk = make_disk()
    var = "[Path]\nPath=/var\nMethod=overlay\n"
    boots("early\nmkdir -p /var/opt; echo mine >/var/opt/f", disk, registry=var, root=tmp_path)
    more = f"{var}[Path]\nPath=/var/opt\nMethod=overlay\n[Path]\nPath=/var/local\nMethod=overlay\n"
    seed = "/usr/bin/env PERSIST_LIBRARY=$PYTHONPATH $PYTHONPATH/bin/persist-service seed var-opt"
    found = boots(f"early\n{seed}", disk, registry=more, root=tmp_path)
    assert "'/var/opt' was seeded from /var/opt as a part of /var: 1 file, 5 bytes." in found.log
    at = found.report[0]["at"]
    assert "/var/opt" not in at and at["/var/local"][0] == "overlay" and "staged" in found.report[0]["flags"]
    again = boots("early\ncat /var/opt/f >&2", disk, registry=more, root=tmp_path)
    assert again.last["at"]["/var/opt"][0] == "overlay" and "mine" in again.log.split("\n")


def test_what_etc_says_counts_once_it_is_there(make_disk: Make, tmp_path: Path) -> None:
    """The registry, fstab and the master switch of the upper layer."""
    disk = make_disk()
    registry = "[Path]\nPath=/etc\nMethod=overlay\n"
    entry = r"[Path]\nPath=/srv/more\nMethod=overlay\n"
    more = f"mkdir -p /etc/persist.d; printf '{entry}' >/etc/persist.d/more.conf"
    boots(f"early\n{more}", disk, registry=registry, root=tmp_path, before="mkdir -p /srv/more")
    seen = stage(disk, root=tmp_path, registry=registry)
    assert seen["at"]["/srv/more"][0] == "overlay" and "staged" in seen["flags"]


@pytest.mark.parametrize("word", ["ro", "volatile", "nonsense"])
def test_a_boot_that_keeps_nothing(make_disk: Make, tmp_path: Path, word: str) -> None:
    disk = make_disk()
    stage(disk, root=tmp_path)
    before = disk.file.read_bytes()
    seen = stage(disk, root=tmp_path, cmdline=f"quiet persist={word}")
    assert (seen["kind"], seen["reason"]) == ("tmpfs", "read-only" if word == "ro" else "volatile")
    assert seen["at"]["/etc"][0] == seen["at"]["/var"][0] == "overlay"
    assert "staged" in seen["flags"] and "persistent" not in seen["flags"]
    assert len(_said(seen)) == 1 and "lost at power-off" in _said(seen)[0]
    assert disk.file.read_bytes() == before


@pytest.mark.parametrize("cmdline", ["persist=off", 'quiet "persist=off"'])
def test_off(make_disk: Make, cmdline: str) -> None:
    disk = make_disk()
    seen = stage(disk, cmdline=cmdline)
    assert seen["flags"] == [] and _said(seen, 6) == [] and "/run/persist/volume" not in seen["at"]
    assert disk.read(0, 24) == b"persist-please-format-me"


def test_a_machine_that_did_not_ask_for_it(make_disk: Make) -> None:
    disk = make_disk()
    seen = stage(disk, enabled=False)
    assert seen["flags"] == [] and disk.read(0, 24) == b"persist-please-format-me"


def test_no_volume_on_a_root_that_keeps_nothing(make_disk: Make, tmp_path: Path) -> None:
    """/etc and /var take writes, in memory, before PID 1 looks."""
    seen = stage(make_disk(header=b""), before=f"{DIRECTORIES}\n{READ_ONLY}", config={"member_timeout": 1})
    assert (seen["kind"], seen["reason"]) == ("tmpfs", "not-a-volume") and "staged" in seen["flags"]
    assert seen["at"]["/etc"][0] == seen["at"]["/var"][0] == "overlay"
    assert any("lost at power-off" in text for text in _said(seen))


def test_no_volume_on_a_root_that_keeps(make_disk: Make, tmp_path: Path) -> None:
    """persist-volume.service decides, and a warning now might be wrong then."""
    seen = stage(make_disk(header=b""), config={"member_timeout": 1})
    assert seen["flags"] == [] and "/etc" not in seen["at"] and _said(seen) == []
    assert any(
        text.startswith("Left to the real root: There is no state volume yet") for text in _said(seen, 6)
    )
    assert list(seen["left"]) == ["/etc"] and "There is no state volume yet" in seen["left"]["/etc"]


def test_a_set_that_is_not_whole_is_left(make_disk: Make) -> None:
    disk = make_disk(header=header.encode("persist-please-format-me", header.Options(members=2)))
    before = f"{DIRECTORIES}\n{READ_ONLY}"
    seen = stage(disk, before=before, config={"member_timeout": 1})
    assert seen["flags"] == [] and "/run/persist/volume" not in seen["at"]
    assert disk.read(0, 24) == b"persist-please-format-me"


def test_a_root_that_pid1_makes_writable(make_disk: Make, tmp_path: Path) -> None:
    """Mounted ro by the boot loader: what the root does not take yet is left to persist-volume.service."""
    disk = make_disk()
    fstab = "echo '/dev/vda / ext4 defaults 0 1' >/run/fstab"
    seen = stage(disk, before=f"{DIRECTORIES}\n{fstab}\n{READ_ONLY}", root=tmp_path, fstab="/run/fstab")
    assert seen["kind"] == "btrfs" and not seen["root_read_only"]
    assert "staged" not in seen["flags"] and "volume.json" in seen["flags"] and _said(seen) == []
    assert seen["at"]["/etc"][0] == "overlay"
    note = "mkdir -p /var/lib/persist; echo"
    again = stage(
        disk,
        before=f"{DIRECTORIES}\n{note} {seen['uuid']} >/var/lib/persist/known-volume\n{fstab}\n{READ_ONLY}",
        fstab="/run/fstab",
    )
    assert "staged" in again["flags"]


def test_the_service_goes_on_after_it(make_disk: Make, tmp_path: Path) -> None:
    """Where it runs all the same, it takes over what is there."""
    disk = make_disk()
    seen = boots("early\nrm /run/persist/staged\nvolume", disk, root=tmp_path)
    first, second = seen.report
    assert (second["kind"], second["uuid"], second["reason"], second["status"]) == (
        "btrfs",
        first["uuid"],
        "",
        0,
    )
    assert "is the state volume now" in seen.log  # what the stage has said


def test_it_runs_once(make_disk: Make) -> None:
    disk = make_disk()
    for flag in ("staged", "booted"):
        seen = stage(disk, before=f"{DIRECTORIES}\ntouch /run/persist/{flag}")
        assert "/run/persist/volume" not in seen["at"]
    assert disk.read(0, 24) == b"persist-please-format-me"


UNITS = "/usr/local/lib/systemd/system"
READ_BY_PID1 = f"""[Path]
Path=/etc
Method=overlay
[Path]
Path=/etc/below
Method=bind
[Path]
Path={UNITS}
Method=bind
[Path]
Path=/srv/other
Method=overlay
"""
SHIPPED = f"mkdir -p /etc/below {UNITS} /srv/other; touch {UNITS}/a.service"


@pytest.mark.parametrize("cmdline", ["", "persist=ro", "persist=volatile"])
def test_the_generator_sees_what_is_mounted(make_disk: Make, tmp_path: Path, cmdline: str) -> None:
    """By mountinfo, on the boot that seeds and on the next one."""
    disk = make_disk()
    wish = {"root": tmp_path, "registry": READ_BY_PID1, "before": SHIPPED}
    first = boots("plan\nearly\nplan", disk, **wish)
    second = boots(f"early\nplan\ntest -e {UNITS}/a.service", disk, cmdline=cmdline, **wish)
    for seen in (first, second):
        assert seen.last["before"] == ["/etc", UNITS] and seen.last["outside"] == {}
        assert seen.last["after"] == ["/etc/below", "/srv/other"]
        assert not [name for name in seen.last["files"] if name.startswith(("etc.mount", "persist-bind@usr"))]
        assert seen.report[-2]["left"] == {}
    late = first.report[0]
    assert (late["before"], late["after"]) == ([], ["/srv/other"])
    assert late["outside"] == dict.fromkeys(("/etc", "/etc/below", UNITS), "not-before-pid1")


def test_without_the_stage_nothing_below_is_seeded(make_disk: Make, tmp_path: Path) -> None:
    """persist-volume.service comes too late for it: what the volume has stays as it is."""
    disk = make_disk()
    wish = {"root": tmp_path, "registry": READ_BY_PID1, "before": SHIPPED}
    boots("early", disk, **wish)
    seed = "! /usr/bin/env PERSIST_LIBRARY=$PYTHONPATH $PYTHONPATH/bin/persist-service seed etc-below"
    seen = boots(f"volume\nplan\n{seed}\n! findmnt /etc\n! findmnt {UNITS}", disk, **wish)
    assert "No entry of the registry has the name 'etc-below'" in seen.log
    assert seen.last["outside"]["/etc/below"] == "not-before-pid1"


def test_what_failed_is_left_with_its_reason(make_disk: Make, tmp_path: Path) -> None:
    """A link where the upper should be; the entry is looked at before PID 1 only, and what lies below it is
    not touched."""
    disk = make_disk()
    wish = {"root": tmp_path, "registry": READ_BY_PID1, "before": SHIPPED}
    broken = "cd /run/persist/volume/.persist/overlay/etc; mv upper elsewhere; ln -s elsewhere upper"
    boots(f"early\n{broken}", disk, **wish)
    seen = boots("early\nplan", disk, **wish)
    stage, plan = seen.report
    assert list(stage["left"]) == ["/etc"] and "'/etc'" in stage["left"]["/etc"], stage["left"]
    assert "/etc" not in stage["at"] and "/etc/below" not in stage["at"]
    assert plan["before"] == [UNITS] and plan["after"] == ["/srv/other"]


@pytest.mark.parametrize("milliseconds", [150, 350, 550, 750, 1000, 1400])
def test_a_stage_that_is_killed(make_disk: Make, tmp_path: Path, milliseconds: int) -> None:
    """What it has begun is completed by the services of the real root; the next boot is like all others."""
    disk = make_disk()
    seen = boots(f"killed {milliseconds}\nformat_main\nvolume", disk, root=tmp_path)
    _, formatted, volume = seen.report
    assert formatted["status"] == 0
    assert (volume["status"], volume["kind"], volume["reason"]) == (0, "btrfs", ""), seen.log
    assert {"mount-entries", "persistent"} <= set(volume["flags"])
    again = stage(disk, root=tmp_path)
    assert "staged" in again["flags"] and again["uuid"] == volume["uuid"] and _said(again) == []
    assert [again["at"][path][0] for path in ("/etc", "/var", "/srv/hole")] == ["overlay"] * 3


# What a soft reboot does, as far as the stage sees it: /etc alone stays mounted, and of the flags stores/.
SOFT_REBOOT = (
    "awk '$2 ~ \"^/(var|srv/hole|mnt/state|run/persist/)\" { print $2 }' /proc/mounts"
    " | tac | xargs -n1 umount -l && rm /run/persist/staged"
)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_still_mounted_at_a_soft_reboot(make_disk: Make, tmp_path: Path, elsewhere: bool) -> None:
    """/etc stays where its upper is on the volume that is found; with an upper elsewhere it is mounted anew,
    once."""
    another = "echo 1:1 >/run/persist/stores/etc" if elsewhere else "true"
    seen = boots(f"early\n{SOFT_REBOOT}\n{another}\nearly", make_disk(), root=tmp_path).last
    assert seen["status"] == 0 and seen["kind"] == "btrfs" and "staged" in seen["flags"], seen["said"]
    assert [seen["at"][path][0] for path in ("/etc", "/var", "/srv/hole")] == ["overlay"] * 3
    renewed = [text for _, _, text in seen["said"] if "of the boot before" in text]
    why = "'/etc' showed the state of the boot before, which is not on this volume."
    assert renewed == ([why] if elsewhere else [])
