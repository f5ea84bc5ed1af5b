# SPDX-License-Identifier: LGPL-2.1-or-later
"""The note of its volume on a writable root, and what a boot does without a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Make
from .own_root import upper_of
from .rig import LoopDisk
from .services import KNOWN, READ_ONLY, note_of, services, uuid_of, write_note

LINK = "[Path]\nPath=/opt/link\nMethod=symlink\n"
# The service manager is told of the wait, and of the time that the rest takes.
WAIT = "STATUS=Waiting up to 1 s for the state volume\nEXTEND_TIMEOUT_USEC=301000000"


def test_volume_is_noted_on_a_writable_root(volume: LoopDisk, tmp_path: Path) -> None:
    assert services("volume", device=[volume.node], before=READ_ONLY, root=tmp_path).last["kind"] == "btrfs"
    assert not note_of(tmp_path).exists()
    # Not what is mounted over it, but what is below.
    seen = services(
        "volume",
        device=[volume.node],
        root=tmp_path,
        before="mount -t tmpfs tmpfs /var",
    )
    assert (seen.last["kind"], seen.last["expected"]) == ("btrfs", False)
    assert note_of(tmp_path).read_text() == f"{uuid_of(volume)}\n"
    assert (
        services(
            "volume",
            device=["/dev/nothing"],
            config={"member_timeout": 0},
            root=tmp_path,
            before="mount -t tmpfs tmpfs /var",
        ).last["reason"]
        == "known-volume-missing"
    )


@pytest.mark.parametrize(
    ("before", "config", "symlinks", "kind", "hidden"),
    [
        ("", {}, False, "none", True),
        ("", {}, True, "root", True),
        (READ_ONLY, {}, False, "tmpfs", False),
        ("", {"fallback": "tmpfs"}, False, "tmpfs", False),
    ],
)
def test_known_volume_is_missing(
    make_disk: Make,
    tmp_path: Path,
    before: str,
    config: dict[str, Any],
    symlinks: bool,
    kind: str,
    hidden: bool,
) -> None:
    write_note(tmp_path, KNOWN)
    again = ["volume"] if kind != "none" else []
    seen = services(
        "volume",
        *again,
        config=config | {"member_timeout": 0},
        before=before,
        registry=LINK if symlinks else "",
        root=tmp_path,
        only=[],
    )
    for last in seen.report:
        assert (last["kind"], last["reason"], last["expected"], last["status"]) == (
            kind,
            "known-volume-missing",
            True,
            0,
        )
        assert KNOWN in last["message"] and "/var/lib/persist/known-volume" in last["hint"]
        assert ("is hidden when the volume is back" in last["message"]) == hidden
    assert note_of(tmp_path).read_text() == f"{KNOWN}\n"


def test_known_volume_is_waited_for(make_disk: Make, tmp_path: Path) -> None:
    write_note(tmp_path, KNOWN)
    config = {"member_timeout": 1}
    assert WAIT in services("volume", config=config, root=tmp_path, only=[]).statuses
    note_of(tmp_path).unlink()
    assert WAIT not in services("volume", config=config, root=tmp_path, only=[]).statuses


def test_another_reason_stands_beside_a_known_volume(volume: LoopDisk, tmp_path: Path) -> None:
    write_note(tmp_path, KNOWN)
    last = services("volume", config={"member_timeout": 0}, root=tmp_path).last
    assert (last["kind"], last["reason"], last["expected"]) == ("none", "known-volume-missing", True), (
        "another one on a stick is not the state volume"
    )
    assert "could be a state volume" in last["message"] and KNOWN in last["message"]
    last = services(
        "volume",
        config={"member_timeout": 0},
        root=tmp_path,
        cmdline=f"persist.volume={KNOWN.replace('5', '6')}",
    ).last
    assert (last["kind"], last["reason"], last["expected"]) == ("none", "missing", True)
    last = services("volume", device=[volume.node], config={"member_timeout": 0}, root=tmp_path).last
    assert (last["kind"], last["reason"], last["expected"]) == ("none", "known-volume-missing", True), (
        "no other one in its place"
    )
    assert f"Device=UUID={uuid_of(volume)}" in last["hint"]
    last = services("volume", device=[f"UUID={uuid_of(volume)}"], root=tmp_path).last
    assert (last["kind"], last["reason"], last["expected"]) == ("btrfs", "", False)
    assert note_of(tmp_path).read_text() == f"{uuid_of(volume)}\n", (
        "the volume of this machine is the one that it has now"
    )


@pytest.mark.parametrize(
    ("config", "before", "symlinks", "kind", "status"),
    [
        ({}, "", False, "none", 0),
        ({}, "", True, "root", 0),
        ({}, READ_ONLY, True, "tmpfs", 0),
        ({"fallback": "tmpfs"}, "", False, "tmpfs", 0),
        ({"fallback": "none"}, READ_ONLY, False, "none", 0),
        ({"fallback": "root"}, "", False, "root", 0),
        ({"fallback": "root"}, READ_ONLY, False, "tmpfs", 0),
        ({"fallback": "fail"}, "", False, "none", 1),
    ],
)
def test_fallback(
    make_disk: Make,
    tmp_path: Path,
    config: dict[str, Any],
    before: str,
    symlinks: bool,
    kind: str,
    status: int,
) -> None:
    store = upper_of(tmp_path) / "var/lib/persist/root"
    seen = services(
        "volume",
        "volume",
        config=config | {"device": ["/dev/nothing"], "member_timeout": 0},
        before=before,
        registry=LINK if symlinks else "",
        root=tmp_path,
    )
    for last in seen.report:
        assert (last["kind"], last["status"], last["reason"]) == (kind, status, "missing")
        assert last["root_read_only"] == bool(before)
        assert ("mount-entries" in last["flags"]) == (kind == "tmpfs")
        assert ("persistent" in last["flags"]) == (kind == "root")
        assert ("/run/persist/volume" in last["at"]) == (kind != "none")
        assert last["message"] and last["hint"]
    if kind == "root":
        assert {p.name for p in (store / ".persist").iterdir()} == {"overlay", "seed", "tmp", "migrations"}
