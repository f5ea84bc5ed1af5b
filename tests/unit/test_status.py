# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl status and volume show: what the first lines tell of disks, space and other volumes, and what is
not kept."""

from __future__ import annotations

from typing import Any

import pytest

from persist.cli import status
from persist.cli import volume as volume_verb
from persist.verdict import judge as v
from persist.verdict.entry_state import EntryState
from persist.volume.outcome import Outcome

OTHER = {"device": "/dev/vdz1", "uuid": "22222222-2222-4222-8222-222222222222"}


def member(devid: int, node: str, state: str = "ok") -> dict[str, Any]:
    return {
        "devid": devid,
        "node": node,
        "serial": "",
        "state": state,
        "size": 1 << 30,
        "allocated": 1 << 28,
        "generation": 7,
        "mark": None,
        "errors": {},
    }


def described(profile: str, *members: dict[str, Any]) -> dict[str, Any]:
    return {
        "uuid": "u",
        "path": "/run/persist/volume",
        "layout": "auto",
        "profiles": {"data": [profile], "metadata": [profile]},
        "size": 1000 << 20,
        "used": 100 << 20,
        "free": 900 << 20,
        "reserve_used": 0,
        "operation": "none",
        "progress": "",
        "scrub": "never, as far as it is noted",
        "members": list(members),
        "reasons": [],
        "others": [OTHER],
    }


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def shown(
    capsys: pytest.CaptureFixture[str], found: v.Verdict, described: dict[str, Any] | None = None
) -> list[str]:
    status.print_verdict(found, status.disks(described) if described else [], [], full=False)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("profile", "members", "said"),
    [
        ("raid1", (member(1, "/dev/vda2"), member(2, "/dev/vdb2")), "/dev/vda2, /dev/vdb2; mirror"),
        ("raid1", (member(1, "/dev/vda2"), member(2, "", "missing")), "/dev/vda2, devid 2 (missing); mirror"),
        ("single", (member(1, "/dev/vda2"),), "/dev/vda2; one disk"),
        ("single", (member(1, "/dev/vda2"), member(2, "/dev/vdb2")), "/dev/vda2, /dev/vdb2; no mirror"),
    ],
)
def test_disks_space_and_scrub_come_first(
    capsys: pytest.CaptureFixture[str],
    profile: str,
    members: tuple[dict[str, Any], ...],
    said: str,
) -> None:
    """A mirror looked like one disk."""
    volume = Outcome(kind="btrfs", device="/dev/vda2", uuid="u")
    entries = [EntryState("/srv", "bind", "mounted", "/usr/lib/persist.d/a.conf:2")]
    lines = shown(capsys, v.Verdict(v.ONLINE, volume, entries), described(profile, *members))
    assert lines[:5] == [
        "Verdict: online",
        " Volume: btrfs /dev/vda2 u, writable",
        f"  Disks: {said}",
        "  Space: 900 MiB of 1000 MiB free",
        "  Scrub: never, as far as it is noted",
    ]
    assert any(line.split()[:3] == ["/srv", "bind", "mounted"] for line in lines)


def test_what_is_mounted_from_memory_is_not_called_mounted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = [
        EntryState("/srv/a", "overlay", "mounted", "a.conf:2"),
        EntryState("/srv/b", "bind", "failed", "a.conf:4"),
        EntryState("/etc", "overlay", "early", "a.conf:6"),
        EntryState("/srv/c", "symlink", "linked", "a.conf:8"),
    ]
    lines = shown(capsys, v.Verdict(v.VOLATILE, Outcome(kind="tmpfs"), entries))
    assert lines[1] == " Volume: tmpfs, writable (in memory, lost at power-off)"
    assert [line[len("/srv/a  overlay  ") :].rsplit("  ", 1)[0].strip() for line in lines[-4:]] == [
        "in memory",
        "failed",
        "in memory",
        "in memory",
    ]


def test_another_volume_is_in_status_and_in_volume_show(
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = described("single", member(1, "/dev/vda2"))
    volume = Outcome(kind="btrfs", device="/dev/vda2", uuid="u", others=[OTHER])
    assert (
        f" Beside: {OTHER['device']} (UUID={OTHER['uuid']}) could be a state volume, too, and is left alone"
        in shown(capsys, v.Verdict(v.ONLINE, volume), disk)
    )
    volume_verb.print_members(disk, full=False)
    assert (
        f"- {OTHER['device']} (UUID={OTHER['uuid']}) could be a state volume, too, and is left alone."
        in capsys.readouterr().out.splitlines()
    )
