# SPDX-License-Identifier: LGPL-2.1-or-later
"""What journald gets from us, on its own socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from persist import log
from persist.errors import PersistError
from persist.messages import MESSAGE_IDS

from .namespace import own_machine


def received(write: Callable[[], None]) -> dict[str, str]:
    """The fields of the record that comes of it, where standard error is said to lead to the journal."""
    os.makedirs("/run/systemd/journal")
    at = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{at.st_dev}:{at.st_ino}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind("/run/systemd/journal/socket")
        journald.settimeout(5)
        write()
        text = journald.recv(1 << 16).decode("utf-8")
    return dict(line.split("=", 1) for line in text.splitlines())


@own_machine
def test_any_text_can_be_logged() -> None:
    found = received(lambda: log.log(log.ERR, "a\udcff\ud800\n\x1b", "FAILED", PERSIST_PATH="b\udcff"))
    assert found == {
        "MESSAGE": "a\\udcff\\ud800\\n\\x1b",
        "MESSAGE_ID": MESSAGE_IDS["FAILED"],
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "persist",
        "PERSIST_PATH": "b\\udcff",
    }


@own_machine
def test_error_with_its_fields() -> None:
    error = PersistError("What.", hint="Do.", message_id="SEED_FAILED", PERSIST_PATH="/a\udcff")
    found = received(lambda: log.log_error(error, priority=log.WARNING))
    assert (found["MESSAGE"], found["PRIORITY"], found["MESSAGE_ID"]) == (
        "What. Do.",
        "4",
        MESSAGE_IDS["SEED_FAILED"],
    )
    assert found["PERSIST_PATH"] == "/a\\udcff"
