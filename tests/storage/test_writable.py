# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that is mounted for writing and takes no writes: found out, said with what helps, and not relied
on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .rig import LoopDisk, tool
from .services import READ_ONLY, Result, services


@contextmanager
def _mounted(volume: LoopDisk, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    tool("mount", "-o", "subvol=@persist-state", f"{volume.node}p1", place)
    try:
        yield place
    finally:
        tool("umount", place)


def _run(volume: LoopDisk, *more: str, **wish: Any) -> Result:
    return services("volume", *more, device=[volume.node], **wish)


def _received(place: Path) -> None:
    """What a send and a receive leave: read-only, and with the mark of where it came from."""
    tool("btrfs", "property", "set", "-ts", place, "ro", "true")


def test_read_only_subvolume_on_a_writable_root(volume: LoopDisk, tmp_path: Path) -> None:
    with _mounted(volume, tmp_path / "place") as place:
        _received(place)
    seen = _run(volume)
    last = seen.last
    assert (last["kind"], last["reason"], last["read_only"], last["flags"]) == (
        "btrfs",
        "subvolume-read-only",
        True,
        ["stale"],
    )
    assert (
        "'btrfs property set -f -ts /run/persist/volume ro false'" in last["hint"]
        and "btrfs receive" in last["message"]
    )
    assert "full" not in seen.log and "reserve" not in seen.log
    # The hint helps.
    _run(volume, last["hint"].split("'")[1])
    assert (lambda found: (found["reason"], found["flags"]))(_run(volume).last) == (
        "",
        ["mount-entries", "persistent"],
    )


def test_read_only_subvolume_on_a_read_only_root(volume: LoopDisk, tmp_path: Path) -> None:
    """It is put down, memory takes its place, and what helps works without it being mounted."""
    with _mounted(volume, tmp_path / "place") as place:
        _received(place)
    last = _run(volume, before=READ_ONLY).last
    assert (last["kind"], last["reason"], last["flags"]) == (
        "tmpfs",
        "subvolume-read-only",
        ["mount-entries"],
    )
    command = last["hint"].split("'")[1]
    assert f"{volume.node}p1" in command
    _run(volume, command, before=READ_ONLY)
    assert (lambda found: (found["kind"], found["reason"]))(_run(volume, before=READ_ONLY).last) == (
        "btrfs",
        "",
    )


def test_immutable_store(volume: LoopDisk, tmp_path: Path) -> None:
    with _mounted(volume, tmp_path / "place") as place:
        tool("chattr", "+i", place / ".persist/tmp")
    seen = _run(volume)
    assert (seen.last["kind"], seen.last["reason"], seen.last["flags"]) == (
        "btrfs",
        "immutable",
        ["mount-entries", "persistent"],
    )
    assert (
        "'chattr -ia /run/persist/volume/.persist/tmp'" in seen.last["hint"] and seen.last["hint"] in seen.log
    )
    _run(volume, seen.last["hint"].split("'")[1])
    assert _run(volume).last["reason"] == ""


def test_quota(volume: LoopDisk, tmp_path: Path) -> None:
    """No reserve helps against a quota, and none is spent on it."""
    with _mounted(volume, tmp_path / "place") as place:
        tool("btrfs", "quota", "enable", place)
        tool("btrfs", "qgroup", "limit", "16K", place)
    seen = _run(volume)
    assert (seen.last["kind"], seen.last["reason"], seen.last["flags"]) == (
        "btrfs",
        "quota",
        ["mount-entries", "persistent"],
    )
    assert "qgroup" in seen.last["hint"] and "reserve" not in seen.log and "grown" not in seen.log


@pytest.mark.parametrize("before", ["", READ_ONLY])
def test_a_volume_that_takes_writes(volume: LoopDisk, before: str) -> None:
    assert (lambda found: (found["kind"], found["reason"], found["read_only"]))(
        _run(volume, before=before).last
    ) == ("btrfs", "", False)
