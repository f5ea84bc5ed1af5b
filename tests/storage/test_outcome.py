# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist-volume.service leaves below /run: its record, and the flags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from persist.volume import outcome
from persist.volume.outcome import Outcome

from .namespace import own_machine, sh

RUN = Path("/run/persist")
UNITS_FLAGS = {"mount-entries", "persistent"}


def there() -> set[str]:
    """The files of ours below /run."""
    return {p.name for p in RUN.iterdir() if p.is_file()}


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("btrfs", UNITS_FLAGS),
        ("native", UNITS_FLAGS),
        ("tmpfs", {"mount-entries"}),
        ("root", {"persistent"}),
        ("none", set()),
    ],
)
@own_machine
def test_outcome(kind: outcome.Kind, flags: set[str]) -> None:
    for flag in UNITS_FLAGS:
        (RUN / flag).touch()
    written = Outcome(kind=kind, device="/dev/x", reason="r", message="m")
    outcome.write(written)
    assert there() == flags | {"volume.json"}
    found = json.loads((RUN / "volume.json").read_text())
    assert found["version"] == 1
    assert list(found)[1:] == [
        "kind",
        "device",
        "uuid",
        "reason",
        "message",
        "hint",
        "read_only",
        "root",
        "root_read_only",
        "root_memory",
        "memory",
        "expected",
        "degraded",
        "read_only_below",
        "rescue",
        "others",
        "time",
    ]
    assert outcome.read() == written


@pytest.mark.parametrize(
    "kept",
    [
        {"kind": "root", "root_memory": "a tmpfs"},
        {"kind": "root", "root_read_only": True},
        {"kind": "btrfs", "memory": "on zram0"},
    ],
)
@own_machine
def test_memory_is_not_called_persistent(kept: dict[str, Any]) -> None:
    """Entries with Required= assert that what they write stays."""
    outcome.write(Outcome(**kept))
    assert "persistent" not in there()


@own_machine
def test_nothing_is_mounted_over_a_volume_that_takes_no_writes() -> None:
    kinds: tuple[outcome.Kind, ...] = ("btrfs", "root")
    for kind in kinds:
        outcome.write(Outcome(kind="btrfs"))
        outcome.write(Outcome(kind=kind, read_only=True))
        assert there() == {"volume.json"}


@pytest.mark.parametrize("room", [0, 1, 2], ids=["persistent", "mount-entries", "volume.json"])
@pytest.mark.parametrize("earlier", [False, True])
@own_machine
def test_no_record_of_success_before_it_is_one(room: int, earlier: bool) -> None:
    """Whichever of the writes fails on a full /run, nothing says that the volume is there with all that comes
    with it; also where an earlier run had said so."""
    sh(f"mount -t tmpfs none {RUN}")
    if earlier:
        outcome.write(Outcome(kind="btrfs", device="/dev/x"))
        for flag in UNITS_FLAGS:
            (RUN / flag).unlink()
    outcome.begin()
    now = os.statvfs(RUN)
    sh(f"mount -o remount,nr_inodes={now.f_files - now.f_ffree + room} {RUN}")
    with pytest.raises(OSError, match="No space left"):
        outcome.write(Outcome(kind="btrfs", device="/dev/x"))
    assert "volume.json" not in there()
    assert (outcome.read() is not None) == earlier, "what an earlier run saw is still there for the next one"


@pytest.mark.parametrize("text", ["", "null", "{}", '{"version": 1, "strange": 2}'])
@own_machine
def test_outcome_that_is_not_ours(text: str) -> None:
    assert outcome.read() is None
    (RUN / "volume.json").write_text(text)
    assert outcome.read() is None


@own_machine
def test_formatted() -> None:
    assert not outcome.formatted()
    outcome.note_formatted("u")
    assert outcome.formatted()
