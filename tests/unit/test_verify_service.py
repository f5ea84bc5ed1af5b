# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist-verify.service: what it writes, what it says and where, and its exit status; the records that
log.py makes."""

from __future__ import annotations

import json
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from persist import log
from persist.boot.ini import ERROR, NOTICE, Problem
from persist.boot.load import Loaded, load
from persist.errors import CommandError, PersistError
from persist.messages import MESSAGE_IDS
from persist.system import files
from persist.system.lock import held
from persist.verdict import announce as service
from persist.verdict import current, say, written
from persist.verdict import judge as v
from persist.volume import outcome

HOSTILE = "/srv/a\x1b[2J\\n\udcff\u202e"
SHOWN = "/srv/a\\x1b[2J\\n\\udcff\\u202e"
Records = list[dict[str, Any]]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    """What would be sent to the journal."""
    found: Records = []

    def sendv(*fields: str) -> None:
        for field in fields:
            field.encode("utf-8")  # as python-systemd does
        found.append(dict(field.split("=", 1) for field in fields))

    fake = types.ModuleType("systemd._journal")
    fake.sendv = sendv  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd._journal", fake)
    monkeypatch.setattr(log, "to_journal", lambda: True)
    return found


class Machine:
    """A run of the service with all its edges in a scratch directory."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = base / "run/state.json"
        self.online = base / "run/online"
        self.issue = base / "issue.d/persist.issue"
        self.motd = base / "motd.d/persist"
        self.console = base / "console"
        self.started: list[tuple[str, ...]] = []
        self.loaded = load(str(base), {"SYSTEMD_PROC_CMDLINE": ""})
        self.found: v.Verdict | Exception = v.Verdict(v.ONLINE, {"kind": "btrfs", "device": "/dev/vda2"})
        self.systemctl: Exception | None = None
        monkeypatch.setattr(service, "STATE", str(self.state))
        monkeypatch.setattr(service, "LOCK", f"{self.state}.lock")
        monkeypatch.setattr(service, "ONLINE_FLAG", str(self.online))
        self.heal = base / "run/heal"
        monkeypatch.setattr(outcome, "HEAL", str(self.heal))
        monkeypatch.setattr(service, "BOOTED_FLAG", str(self.online) + ".booted")
        monkeypatch.setattr(say, "NOTICES", (str(self.issue), str(self.motd)))
        monkeypatch.setattr(say, "CONSOLE", str(self.console))
        monkeypatch.setattr(service, "current", self._current)
        monkeypatch.setattr(service, "run", self._run)

    def _current(self) -> tuple[v.Verdict, Loaded]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found, self.loaded

    def _run(self, *argv: str) -> str:
        if self.systemctl is not None:
            raise self.systemctl
        assert self.online.exists() or "persist-online.target" not in argv, (
            "persist-online.target asserts the flag"
        )
        self.started.append(argv)
        return ""

    def document(self) -> dict[str, Any]:
        found = json.loads(self.state.read_bytes())
        assert isinstance(found, dict)
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def degraded(*messages: str) -> v.Verdict:
    return v.Verdict(
        v.DEGRADED,
        {"kind": "btrfs"},
        reasons=[v.Reason("entry-failed", m, "Do this.", HOSTILE) for m in messages],
    )


# -- its parts


def test_write_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a/b/state.json"
    files.write_atomically(str(path), "one\n")
    with open(path, encoding="utf-8") as reader:
        files.write_atomically(str(path), "two\n")
        assert reader.read() == "one\n", "a reader keeps what it has opened"
    assert path.read_text() == "two\n" and os.listdir(path.parent) == ["state.json"]


def test_write_atomically_does_not_follow(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to("target")
    files.write_atomically(str(tmp_path / "link"), "ours")
    assert (tmp_path / "target").read_text() == "theirs" and (tmp_path / "link").read_text() == "ours"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            v.Verdict(v.ONLINE, {"kind": "btrfs", "device": "/dev/vda2"}),
            "Persistent state is online (/dev/vda2).",
        ),
        (v.Verdict(v.ONLINE, {"kind": "root", "device": ""}), "Persistent state is online (root)."),
        (
            v.Verdict(v.VOLATILE, {"kind": "tmpfs"}, reasons=[v.Reason("missing", "No disk.")]),
            "Persistent state is VOLATILE, what is written now is lost at power-off: No disk.",
        ),
        (
            v.Verdict(
                v.VOLATILE,
                {"kind": "none", "expected": True},
                reasons=[v.Reason("known-volume-missing", "No disk.")],
            ),
            "Persistent state is VOLATILE, what is written now will be out of sight: No disk.",
        ),
        (
            v.Verdict(
                v.VOLATILE,
                {"kind": "none", "root_memory": "a tmpfs"},
                reasons=[v.Reason("missing", "No disk.")],
            ),
            "Persistent state is VOLATILE, what is written now is lost at power-off: No disk.",
        ),
        (degraded("One."), "Persistent state is DEGRADED: One."),
        (degraded("One.", "Two.", "Three."), "Persistent state is DEGRADED: One. (and 2 more)"),
        (
            v.Verdict(v.OFF, {}, reasons=[v.Reason("off", "persist=off.")]),
            "Persistent state is off: persist=off.",
        ),
    ],
)
def test_summary(found: v.Verdict, expected: str) -> None:
    assert say.summary(found) == expected


def test_document(machine: Machine) -> None:
    found = written.document(degraded("/x \udcff is not mounted."))
    assert found["verdict"] == "degraded" and found["version"] == 1 and found["device"] == ""
    assert found["uptime"] > 0 and found["time"].endswith("+00:00")
    assert len(found["boot_id"]) == 32 and "machine_id" in found
    json.dumps(found).encode("ascii")


def test_ids_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "id").write_bytes(b"\xff\n")
    assert (
        written._text(str(tmp_path / "id"))
        == written._text(str(tmp_path / "none"))
        == written._text(str(tmp_path))
        == ""
    )


# -- the service


def test_online(machine: Machine, records: Records) -> None:
    machine.issue.parent.mkdir()
    machine.issue.write_text("of an earlier run")
    assert service.announce() == 0
    assert machine.document()["verdict"] == "online" and machine.online.read_bytes() == b""
    assert machine.started == [("systemctl", "--no-block", "start", "persist-online.target")]
    assert not machine.issue.exists() and not machine.motd.exists() and not machine.console.exists()
    assert [
        (r["MESSAGE_ID"], r["PRIORITY"], r["PERSIST_VERDICT"], r["PERSIST_DEVICE"], r["PERSIST_REASON"])
        for r in records
    ] == [(MESSAGE_IDS["VERDICT_ONLINE"], "5", "online", "/dev/vda2", "")]
    assert records[0]["SYSLOG_IDENTIFIER"] == "persist"


def test_degraded(machine: Machine, records: Records) -> None:
    machine.online.parent.mkdir()
    machine.online.touch()
    machine.found = degraded(f"{HOSTILE} is not mounted.", "And this.")
    assert service.announce() == 0
    assert (
        machine.document()["reasons"][0]["path"] == HOSTILE
        and not machine.online.exists()
        and machine.started == []
    )
    line = f"Persistent state is DEGRADED: {SHOWN} is not mounted. (and 1 more) See 'persistctl status'.\n"
    assert machine.motd.read_text() == line
    assert machine.issue.read_text() == line.replace("\\", "\\\\"), "agetty takes a backslash for an escape"
    assert machine.console.read_text() == "\n*** " + line
    for path in (machine.motd, machine.issue, machine.console):
        assert all(c.isprintable() or c == "\n" for c in path.read_text())
    assert [(r["PRIORITY"], r["MESSAGE_ID"]) for r in records] == [
        ("4", MESSAGE_IDS["VERDICT_DEGRADED"]),
        ("4", MESSAGE_IDS["ENTRY_FAILED"]),
    ]
    assert records[1]["MESSAGE"] == "And this. Do this." and records[1]["PERSIST_PATH"] == SHOWN


def test_a_reason_has_the_message_id_of_its_kind(machine: Machine, records: Records) -> None:
    """Who filters on errors of disks sees them, also where they are the first reason and stand in the
    summary."""
    machine.found = v.Verdict(
        v.DEGRADED,
        {"kind": "btrfs"},
        reasons=[
            v.Reason("device-errors", "Errors."),
            v.Reason("member-lost", "Gone."),
            v.Reason("metadata-low", "Full."),
            v.Reason("late", "Late."),
        ],
    )
    assert service.announce() == 0
    assert [(r["MESSAGE_ID"], r["PERSIST_REASON"]) for r in records] == [
        (MESSAGE_IDS[name], code)
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
        (v.VOLATILE, "VERDICT_VOLATILE", "3", True),
        (v.DEGRADED, "VERDICT_DEGRADED", "4", True),
        (v.OFF, "VERDICT_OFF", "5", False),
    ],
)
def test_how_loud(
    machine: Machine, records: Records, word: str, name: str, priority: str, loud: bool
) -> None:
    machine.found = v.Verdict(word, {"kind": "none"}, reasons=[v.Reason("missing", "No disk.")])
    assert service.announce() == 0
    assert [(r["MESSAGE_ID"], r["PRIORITY"], r["PERSIST_REASON"]) for r in records] == [
        (MESSAGE_IDS[name], priority, "missing")
    ]
    assert (
        machine.motd.exists() == machine.issue.exists() == machine.console.exists() == loud
        and machine.started == []
    )


def test_problems_are_said_once(machine: Machine, records: Records) -> None:
    machine.loaded.problems = [
        Problem(ERROR, "/etc/persist.d/a\udcff.conf:3", "Bad\x1b.", "/x"),
        Problem(NOTICE, "", "So so.", code="ENTRY_REFUSED"),
    ]
    machine.found = v.Verdict(
        v.DEGRADED,
        {},
        reasons=[
            v.Reason("volume-read-only", "First."),
            v.Reason("registry", "/etc/persist.d/a.conf:3: Bad."),
        ],
    )
    assert service.announce() == 0
    assert [(r["MESSAGE"], r["PRIORITY"], r["MESSAGE_ID"]) for r in records] == [
        ("/etc/persist.d/a\\udcff.conf:3: Bad\\x1b.", "3", MESSAGE_IDS["REGISTRY_PROBLEM"]),
        ("So so.", "5", MESSAGE_IDS["ENTRY_REFUSED"]),
        ("Persistent state is DEGRADED: First. (and 1 more)", "4", MESSAGE_IDS["VERDICT_DEGRADED"]),
    ]
    assert records[0]["PERSIST_SOURCE"] == "/etc/persist.d/a\\udcff.conf:3"


def test_stale_early_entries(machine: Machine, records: Records) -> None:
    machine.loaded.facts.early = {"etc", "srv-my\\x2ddata", "bad\\escape"}
    assert service.announce() == 0
    assert [r["PERSIST_PATH"] for r in records[1:]] == ["bad\\escape", "/etc", "/srv/my-data"]
    assert "update-initramfs" in records[1]["MESSAGE"]


# -- the exit status


@pytest.mark.parametrize(
    "error", [PersistError("No /proc."), OSError(2, "No such file"), ValueError("nobody thought of it")]
)
def test_no_verdict(machine: Machine, records: Records, error: Exception) -> None:
    machine.online.parent.mkdir()
    machine.online.touch()
    machine.found = error
    assert service.announce() == 1
    assert (
        machine.document()["verdict"] == "degraded"
        and machine.document()["reasons"][0]["code"] == "verify-failed"
    )
    assert not machine.online.exists() and machine.started == []
    assert (
        records[0]["PRIORITY"] == "4"
        and "could not be made" in records[0]["MESSAGE"]
        and machine.motd.exists()
    )


def test_verdict_cannot_be_written(machine: Machine, records: Records) -> None:
    machine.state.parent.write_text("a file where the directory should be")
    assert service.announce() == 1
    assert machine.started == [] and any("cannot be written" in r["MESSAGE"] for r in records)
    assert records[-1]["MESSAGE_ID"] == MESSAGE_IDS["VERDICT_ONLINE"], "it is at least said"


@pytest.mark.parametrize("fails", ["state.json", "online"])
def test_what_was_said_before_does_not_stay(
    machine: Machine, records: Records, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A verdict that cannot be written leaves none, and not the one of a better moment; and the boot is over
    all the same."""
    assert service.announce() == 0 and machine.online.exists()
    booted = Path(service.BOOTED_FLAG)
    booted.unlink()
    whole = files.write_atomically

    def write(path: str, text: str) -> None:
        if path.endswith(fails):
            raise OSError(28, "No space left on device", path)
        whole(path, text)

    monkeypatch.setattr(service, "write_atomically", write)
    if fails == "state.json":
        machine.found = degraded("One.")
    assert service.announce() == 1
    assert not machine.state.exists() and not machine.online.exists() and booted.exists()
    assert [a for a in machine.started if "persist-online.target" in a] == [
        ("systemctl", "--no-block", "start", "persist-online.target")
    ]


def test_notices_cannot_be_written(machine: Machine, records: Records) -> None:
    machine.issue.parent.write_text("a file where the directory should be")
    machine.console.mkdir()
    machine.found = degraded("One.")
    assert service.announce() == 0
    assert machine.motd.exists() and machine.document()["verdict"] == "degraded"
    assert [r["PRIORITY"] for r in records] == ["4", "7", "4"]


def test_target_cannot_be_started(machine: Machine, records: Records) -> None:
    machine.systemctl = CommandError(["systemctl"], 1, "no bus")
    assert service.announce() == 1
    assert machine.document()["verdict"] == "online" and "no bus" in records[-1]["MESSAGE"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("none\n", {}),
        ("", {}),
        ("docker\n", {"SYSTEMD_VIRTUALIZATION": "container:docker"}),
        (CommandError(["x"], 127, ""), {}),
    ],
)
def test_environment(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, expected: dict[str, str]
) -> None:
    def run(*argv: str, ok: tuple[int, ...]) -> str:
        assert argv == ("systemd-detect-virt", "--container") and 1 in ok
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(current, "run", run)
    assert current._environment() == expected


# -- log.py


def test_any_text_can_be_logged(records: Records) -> None:
    log.log(log.ERR, "a\udcff\ud800\n\x1b", "FAILED", PERSIST_PATH="b\udcff")
    assert records == [
        {
            "MESSAGE": "a\\udcff\\ud800\\n\\x1b",
            "MESSAGE_ID": MESSAGE_IDS["FAILED"],
            "PRIORITY": "3",
            "SYSLOG_IDENTIFIER": "persist",
            "PERSIST_PATH": "b\\udcff",
        }
    ]


def test_text_without_the_journal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.log(log.INFO, "a\udcff\x1b[2J\n", "FAILED")
    log.log(log.DEBUG, "not this", "FAILED")
    assert capsys.readouterr().err == "a\\udcff\\x1b[2J\\n\n"


def test_error_with_its_fields(records: Records) -> None:
    log.log_error(
        PersistError("What.", hint="Do.", message_id="SEED_FAILED", PERSIST_PATH="/a\udcff"),
        priority=log.WARNING,
    )
    assert (records[0]["MESSAGE"], records[0]["PRIORITY"], records[0]["MESSAGE_ID"]) == (
        "What. Do.",
        "4",
        MESSAGE_IDS["SEED_FAILED"],
    )
    assert records[0]["PERSIST_PATH"] == "/a\\udcff"


# -- after the boot


def test_word_is_left_for_the_healer(machine: Machine, records: Records) -> None:
    """At the end of the boot, and not by the verdicts that the healer makes itself: it would never end."""
    machine.found = degraded("Nothing that a disk has to do with.")
    assert service.announce() == 0 and not machine.heal.exists()
    machine.found = v.Verdict(
        v.DEGRADED,
        {"kind": "btrfs"},
        reasons=[v.Reason("member-lost", "It went away while the machine booted.", "")],
    )
    assert service.again() == 0 and not machine.heal.exists()
    assert service.announce() == 0 and machine.heal.exists()
    assert machine.started == []


def test_word_is_left_where_the_volume_is_new(
    machine: Machine, records: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the serial numbers of its disks are noted while they are there."""
    monkeypatch.setattr(outcome, "FORMATTED", str(tmp_path / "formatted"))
    assert service.announce() == 0 and not machine.heal.exists()
    (tmp_path / "formatted").write_text("11111111-1111-4111-8111-111111111111\n")
    assert service.announce() == 0 and machine.heal.exists()


def test_again_is_quiet_until_something_changes(machine: Machine, records: Records) -> None:
    machine.found = degraded("One disk is missing.")
    assert service.announce() == 0
    said, shown = len(records), machine.console.read_text()
    assert service.again() == 0
    assert (len(records), machine.console.read_text()) == (said, shown), "the same verdict again is no news"
    machine.found = degraded("One disk is missing.", "Another one is missing.")
    assert service.again() == 0
    assert len(records) > said and machine.console.read_text() != shown
    assert machine.issue.exists()
    machine.found = v.Verdict(v.ONLINE, {"kind": "btrfs", "device": "/dev/vda2"})
    assert service.again() == 0
    assert not machine.issue.exists() and machine.online.exists()
    assert machine.document()["verdict"] == "online"
    assert machine.started == [("systemctl", "--no-block", "start", "persist-online.target")]


def test_one_verdict_at_a_time(machine: Machine, records: Records) -> None:
    """Who looked first and wrote last would leave what was true before."""
    with held(f"{machine.state}.lock"):
        other = threading.Thread(target=service.again)
        other.start()
        other.join(0.3)
        assert other.is_alive() and not machine.state.exists()
    other.join(10)
    assert machine.document()["verdict"] == "online"


def test_verdict_without_its_lock(machine: Machine, records: Records) -> None:
    """It is made all the same, and said."""
    (machine.state.parent / "state.json.lock").mkdir(parents=True)
    assert service.announce() == 0
    assert machine.document()["verdict"] == "online"
    assert any("without its lock" in r["MESSAGE"] for r in records)
