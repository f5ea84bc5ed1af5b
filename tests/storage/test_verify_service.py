# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-verify.service: what it writes, what it says and where, and its exit status."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from persist.boot import paths
from persist.boot.ini import ERROR, NOTICE, Problem
from persist.boot.load import Loaded, load
from persist.errors import PersistError
from persist.note import Note
from persist.system.files import held
from persist.verdict import judge as v
from persist.verdict.announce import Announcer
from persist.volume import outcome
from persist.volume.outcome import Outcome

from .namespace import own_machine, sh

HOSTILE = "/srv/a\x1b[2J\\n\udcff\u202e"
SHOWN = "/srv/a\\x1b[2J\\n\\udcff\\u202e"
STATE, ONLINE, BOOTED, HEAL = (Path(p) for p in (paths.STATE, paths.ONLINE, paths.BOOTED, outcome.HEAL))
ISSUE, MOTD, CONSOLE = (
    Path(p) for p in ("/run/issue.d/persist.issue", "/run/motd.d/persist", "/run/console")
)


class Machine(Announcer):
    """The service on a machine of its own, with a verdict that the test makes."""

    def __init__(self) -> None:
        self.records: list[Note] = []
        # persist-online.target asserts the flag.
        super().__init__(
            self._current,
            self.records.append,
            str(CONSOLE),
            ("sh", "-c", f"test -e {ONLINE} && echo >> /run/started"),
        )
        os.makedirs("/run/image")
        self.loaded = load("/run/image", {"SYSTEMD_PROC_CMDLINE": ""})
        self.found: v.Verdict | Exception = v.Verdict(v.ONLINE, Outcome(kind="btrfs", device="/dev/vda2"))

    def _current(self) -> tuple[v.Verdict, Loaded]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found, self.loaded

    def started(self) -> int:
        """How often the target was started."""
        return len(Path("/run/started").read_text().splitlines()) if os.path.exists("/run/started") else 0

    def document(self) -> dict[str, Any]:
        found = json.loads(STATE.read_bytes())
        assert isinstance(found, dict)
        return found


def degraded(*messages: str) -> v.Verdict:
    return v.Verdict(
        v.DEGRADED,
        Outcome(kind="btrfs"),
        reasons=[v.Reason("entry-failed", m, "Do this.", HOSTILE) for m in messages],
    )


# -- the service


@own_machine
def test_online() -> None:
    machine = Machine()
    ISSUE.parent.mkdir()
    ISSUE.write_text("of an earlier run")
    assert machine.announce() == 0
    assert machine.document()["verdict"] == "online" and ONLINE.read_bytes() == b""
    assert machine.started() == 1
    assert not ISSUE.exists() and not MOTD.exists() and not CONSOLE.exists()
    assert [
        (
            r.message_id,
            r.priority,
            r.fields["PERSIST_VERDICT"],
            r.fields["PERSIST_DEVICE"],
            r.fields["PERSIST_REASON"],
        )
        for r in machine.records
    ] == [("VERDICT_ONLINE", 5, "online", "/dev/vda2", "")]


@own_machine
def test_degraded() -> None:
    machine = Machine()
    ONLINE.touch()
    machine.found = degraded(f"{HOSTILE} is not mounted.", "And this.")
    assert machine.announce() == 0
    assert (
        machine.document()["reasons"][0]["path"] == HOSTILE and not ONLINE.exists() and machine.started() == 0
    )
    line = f"Persistent state is DEGRADED: {SHOWN} is not mounted. (and 1 more) See 'persistctl status'.\n"
    assert MOTD.read_text() == line
    assert ISSUE.read_text() == line.replace("\\", "\\\\"), "agetty takes a backslash for an escape"
    assert CONSOLE.read_text() == "\n*** " + line
    for path in (MOTD, ISSUE, CONSOLE):
        assert all(c.isprintable() or c == "\n" for c in path.read_text())
    assert [(r.priority, r.message_id) for r in machine.records] == [
        (4, "VERDICT_DEGRADED"),
        (4, "ENTRY_FAILED"),
    ]
    assert (
        machine.records[1].message == "And this. Do this."
        and machine.records[1].fields["PERSIST_PATH"] == HOSTILE
    )


@own_machine
def test_a_reason_has_the_message_id_of_its_kind() -> None:
    """Who filters on errors of disks sees them, also where they are the first reason and stand in the
    summary."""
    machine = Machine()
    machine.found = v.Verdict(
        v.DEGRADED,
        Outcome(kind="btrfs"),
        reasons=[
            v.Reason("device-errors", "Errors."),
            v.Reason("member-lost", "Gone."),
            v.Reason("metadata-low", "Full."),
            v.Reason("late", "Late."),
        ],
    )
    assert machine.announce() == 0
    assert [(r.message_id, r.fields["PERSIST_REASON"]) for r in machine.records] == [
        (name, code)
        for name, code in (
            ("VERDICT_DEGRADED", "device-errors"),
            ("DEVICE_ERRORS", "device-errors"),
            ("MEMBER_LOST", "member-lost"),
            ("SPACE_LOW", "metadata-low"),
            ("FAILED", "late"),
        )
    ]


@pytest.mark.parametrize(
    ("word", "name", "priority", "loud"),
    [
        (v.VOLATILE, "VERDICT_VOLATILE", 3, True),
        (v.DEGRADED, "VERDICT_DEGRADED", 4, True),
        (v.OFF, "VERDICT_OFF", 5, False),
    ],
)
@own_machine
def test_how_loud(word: str, name: str, priority: int, loud: bool) -> None:
    machine = Machine()
    machine.found = v.Verdict(word, Outcome(kind="none"), reasons=[v.Reason("missing", "No disk.")])
    assert machine.announce() == 0
    assert [(r.message_id, r.priority, r.fields["PERSIST_REASON"]) for r in machine.records] == [
        (name, priority, "missing")
    ]
    assert MOTD.exists() == ISSUE.exists() == CONSOLE.exists() == loud and machine.started() == 0


@own_machine
def test_problems_are_said_once() -> None:
    machine = Machine()
    machine.loaded.problems = [
        Problem(ERROR, "/etc/persist.d/a\udcff.conf:3", "Bad\x1b.", "/x"),
        Problem(NOTICE, "", "So so.", code="ENTRY_REFUSED"),
    ]
    machine.found = v.Verdict(
        v.DEGRADED,
        Outcome(),
        reasons=[
            v.Reason("volume-read-only", "First."),
            v.Reason("registry", "/etc/persist.d/a.conf:3: Bad."),
        ],
    )
    assert machine.announce() == 0
    assert [(r.message, r.priority, r.message_id) for r in machine.records] == [
        ("/etc/persist.d/a\udcff.conf:3: Bad\x1b.", 3, "REGISTRY_PROBLEM"),
        ("So so.", 5, "ENTRY_REFUSED"),
        ("Persistent state is DEGRADED: First. (and 1 more)", 4, "VERDICT_DEGRADED"),
    ]
    assert machine.records[0].fields["PERSIST_SOURCE"] == "/etc/persist.d/a\udcff.conf:3"


# -- the exit status


@pytest.mark.parametrize(
    "error", [PersistError("No /proc."), OSError(2, "No such file"), ValueError("nobody thought of it")]
)
@own_machine
def test_no_verdict(error: Exception) -> None:
    machine = Machine()
    ONLINE.touch()
    machine.found = error
    assert machine.announce() == 1
    assert (
        machine.document()["verdict"] == "degraded"
        and machine.document()["reasons"][0]["code"] == "verify-failed"
    )
    assert not ONLINE.exists() and machine.started() == 0
    assert (
        machine.records[0].priority == 4
        and "Failed to make the verdict" in machine.records[0].message
        and MOTD.exists()
    )


@own_machine
def test_verdict_cannot_be_written() -> None:
    machine = Machine()
    sh("mount -t tmpfs -o ro none /run/persist")
    assert machine.announce() == 1
    assert machine.started() == 0 and any("Failed to write the verdict" in r.message for r in machine.records)
    assert any(r.message_id == "VERDICT_ONLINE" for r in machine.records), "it is at least said"


@own_machine
def test_a_verdict_that_finds_no_room_leaves_none() -> None:
    """And not the one of a better moment; the boot is over all the same."""
    machine = Machine()
    sh("mount -t tmpfs -o size=64k none /run/persist")
    assert machine.announce() == 0 and ONLINE.exists()
    BOOTED.unlink()
    sh("cat /dev/zero > /run/persist/full || :")
    machine.found = degraded("One.")
    assert machine.announce() == 1
    assert not STATE.exists() and not ONLINE.exists() and BOOTED.exists()
    assert machine.started() == 1


@own_machine
def test_an_online_flag_that_finds_no_room_leaves_none() -> None:
    """An inode is left for the verdict, and none for its flag."""
    machine = Machine()
    sh("mount -t tmpfs -o nr_inodes=16 none /run/persist")
    assert machine.announce() == 0 and ONLINE.exists()
    BOOTED.unlink()
    STATE.unlink()
    left = os.statvfs("/run/persist").f_ffree
    for number in range(left - 1):
        Path(f"/run/persist/{number}").touch()
    assert machine.announce() == 1
    assert not STATE.exists() and not ONLINE.exists() and BOOTED.exists()
    assert machine.started() == 1


@own_machine
def test_notices_cannot_be_written() -> None:
    machine = Machine()
    ISSUE.parent.write_text("a file where the directory should be")
    CONSOLE.mkdir()
    machine.found = degraded("One.")
    assert machine.announce() == 0
    assert MOTD.exists() and machine.document()["verdict"] == "degraded"
    assert [r.priority for r in machine.records] == [4, 7, 4]


@own_machine
def test_target_cannot_be_started() -> None:
    machine = Machine()
    machine.start = ("sh", "-c", "echo no bus >&2; exit 1")
    assert machine.announce() == 1
    assert machine.document()["verdict"] == "online" and "no bus" in machine.records[-1].message


# -- after the boot


@own_machine
def test_word_is_left_for_the_healer() -> None:
    """At the end of the boot, and not by the verdicts that the healer makes itself: it would never end."""
    machine = Machine()
    machine.found = degraded("Nothing that a disk has to do with.")
    assert machine.announce() == 0 and not HEAL.exists()
    machine.found = v.Verdict(
        v.DEGRADED,
        Outcome(kind="btrfs"),
        reasons=[v.Reason("member-lost", "It went away while the machine booted.", "")],
    )
    assert machine.again() == 0 and not HEAL.exists()
    assert machine.announce() == 0 and HEAL.exists()
    assert machine.started() == 0


@own_machine
def test_word_is_left_where_the_volume_is_new() -> None:
    """So that the serial numbers of its disks are noted while they are there."""
    machine = Machine()
    assert machine.announce() == 0 and not HEAL.exists()
    Path(outcome.FORMATTED).write_text("11111111-1111-4111-8111-111111111111\n")
    assert machine.announce() == 0 and HEAL.exists()


@own_machine
def test_again_is_quiet_until_something_changes() -> None:
    machine = Machine()
    machine.found = degraded("One disk is missing.")
    assert machine.announce() == 0
    said, shown = len(machine.records), CONSOLE.read_text()
    assert machine.again() == 0
    assert (len(machine.records), CONSOLE.read_text()) == (said, shown), "the same verdict again is no news"
    machine.found = degraded("One disk is missing.", "Another one is missing.")
    assert machine.again() == 0
    assert len(machine.records) > said and CONSOLE.read_text() != shown
    assert ISSUE.exists()
    machine.found = v.Verdict(v.ONLINE, Outcome(kind="btrfs", device="/dev/vda2"))
    assert machine.again() == 0
    assert not ISSUE.exists() and ONLINE.exists()
    assert machine.document()["verdict"] == "online"
    assert machine.started() == 1


@own_machine
def test_one_verdict_at_a_time() -> None:
    """Who looked first and wrote last would leave what was true before."""
    machine = Machine()
    with held(paths.STATE_LOCK):
        other = threading.Thread(target=machine.again)
        other.start()
        other.join(0.3)
        assert other.is_alive() and not STATE.exists()
    other.join(10)
    assert machine.document()["verdict"] == "online"


@own_machine
def test_verdict_without_its_lock() -> None:
    """It is made all the same, and said."""
    machine = Machine()
    os.mkdir(paths.STATE_LOCK)
    assert machine.announce() == 0
    assert machine.document()["verdict"] == "online"
    assert any("Failed to lock" in r.message for r in machine.records)
