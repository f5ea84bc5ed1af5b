# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal gate of the VM tests: which lines are ours, and when they fail a test."""

from __future__ import annotations

import json

import pytest

from persist.messages import MESSAGE_IDS
from tests.vm.journal import Gate, Line, UnexpectedLines, lines, on_console

LOST = {"MESSAGE_ID": MESSAGE_IDS["MEMBER_LOST"], "PERSIST_REASON": "member-lost"}


def journal(*records: dict[str, str]) -> list[Line]:
    """The lines of a boot with one entry's mount, whose journal has these records."""
    fields = {"_BOOT_ID": "b", "__MONOTONIC_TIMESTAMP": "1", "PRIORITY": "4", "MESSAGE": "text"}
    return lines(lambda command: "srv.mount\n--\n" + "".join(json.dumps(fields | r) + "\n" for r in records))


@pytest.mark.parametrize(
    ("record", "ours"),
    [
        ({"SYSLOG_IDENTIFIER": "persist", "_SYSTEMD_UNIT": "persist-heal.service"}, True),
        ({"SYSLOG_IDENTIFIER": "python3", "_SYSTEMD_UNIT": "persist-heal.service"}, True),
        ({"SYSLOG_IDENTIFIER": "persist-early"}, True),
        ({"SYSLOG_IDENTIFIER": "systemd", "UNIT": "persist-seed@srv.service"}, True),
        ({"SYSLOG_IDENTIFIER": "systemd", "UNIT": "srv.mount"}, True),
        ({"SYSLOG_IDENTIFIER": "systemd", "MESSAGE": "persist-verify.service: Failed to start"}, True),
        ({"SYSLOG_IDENTIFIER": "(udev-worker)", "MESSAGE": "vdb: 65-persist.rules:9 Failed"}, True),
        ({"SYSLOG_IDENTIFIER": "systemd", "UNIT": "srv-other.mount"}, False),
        (
            {"SYSLOG_IDENTIFIER": "kernel", "MESSAGE": "BTRFS warning (device vdb2): devid 2 is missing"},
            False,
        ),
        ({"SYSLOG_IDENTIFIER": "python3", "_SYSTEMD_UNIT": "persist-test-agent.service"}, False),
        ({"SYSLOG_IDENTIFIER": "systemd", "MESSAGE": "Failed to start persist-test-agent.service"}, False),
    ],
)
def test_whose_line_it_is(record: dict[str, str], ours: bool) -> None:
    assert bool(journal(record)) == ours


def test_what_a_console_has() -> None:
    """There are no priorities on it; what the initrd says of every boot is none of it."""
    quiet = (
        "[   19.1] persist-early: The state volume is mounted from /dev/vdb2.\n"
        "[   19.3] persist-early: Waiting up to 5 s for 1 member(s) of the state volume\n"
        "[  OK  ] Finished persist-verify.service\n[FAILED] Failed to start cron.service\n"
    )
    loud = (
        "persist-early: warning: The state volume is mounted degraded from /dev/vdb2",
        "persist-generator[99]: /etc/persist.d/x.conf:1: No such key",
        "[FAILED] Failed to start persist-heal.service - Heal the state volume.",
    )
    assert [line.text for line in on_console(quiet + "\n".join(loud))] == list(loud)


def test_the_gate() -> None:
    """By id, reason or text; what was never said fails as well; each test begins anew."""
    gate = Gate()
    lost = journal({"SYSLOG_IDENTIFIER": "persist", **LOST})
    for what in ("MEMBER_LOST", "member-lost"):
        gate = Gate()
        gate.take(lost)
        gate.expect(what)
        gate.judge()
    gate.take(lost)  # the same record, read again
    gate.judge()
    early = [
        {"SYSLOG_IDENTIFIER": "persist-early", "MESSAGE": "warning: it is gone"},
        {"SYSLOG_IDENTIFIER": "persist", "MESSAGE": "it is gone", **LOST},
    ]
    gate.take(journal(*early))  # said before the journal was there, and again with its names
    gate.expect("MEMBER_LOST")
    gate.judge()
    gate.take(journal({**early[0], "MESSAGE": "warning: it is hidden"}))
    with pytest.raises(UnexpectedLines, match="not expected: <4> persist-early .*: warning: it is hidden$"):
        gate.judge()
    gate.take(journal({"SYSLOG_IDENTIFIER": "persist", "MESSAGE": "some other text"}))
    gate.expect("other text", "MEMBER_STALE")
    with pytest.raises(UnexpectedLines, match="above:\nexpected, and never said: MEMBER_STALE$"):
        gate.judge()
    gate.take(journal({"SYSLOG_IDENTIFIER": "persist", "MESSAGE": "a third"}))
    with pytest.raises(UnexpectedLines, match="above:\nnot expected: <4> persist .*: a third$"):
        gate.judge()
    gate.judge()
