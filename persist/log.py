# SPDX-License-Identifier: LGPL-2.1-or-later
"""Structured records for the journal, plain lines for people.

A process started by systemd (``$JOURNAL_STREAM`` names our standard error) sends records with MESSAGE_ID and
``PERSIST_*`` fields; anyone else reads the same sentence on standard error. Names of files and lines of
configuration are part of those sentences: they need not be UTF-8, and may hold what a terminal obeys.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from persist.errors import PersistError
from persist.messages import MESSAGE_IDS
from persist.note import DEBUG, ERR, INFO, NOTICE, WARNING, Note, of, safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "DEBUG",
    "ERR",
    "INFO",
    "NOTICE",
    "WARNING",
    "log",
    "log_error",
    "notify_status",
    "safe",
    "say",
    "to_journal",
]

IDENTIFIER = "persist"


def to_journal() -> bool:
    """Whether standard error is connected to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        st = os.fstat(2)
    except OSError:
        return False
    return stream == f"{st.st_dev}:{st.st_ino}"


def _of_systemd(name: str) -> Any:
    """A module of python-systemd, by its inner part in C where that has not been renamed: the outer ones load
    logging, datetime, uuid and socket, which takes as long as all else that a service loads."""
    try:
        return import_module(f"systemd._{name}")
    except ImportError:
        return import_module(f"systemd.{name}")


def log(priority: int, message: str, message_id: str, **fields: str) -> None:
    """Write one record. ``message_id`` is a name in persist.messages; fields are PERSIST_PATH and the like.
    Any text will do."""
    if to_journal():
        sendv = _of_systemd("journal").sendv
        # Without SYSLOG_IDENTIFIER= the journal shows the name of the program, which is python3.
        record = {
            "MESSAGE": message,
            "MESSAGE_ID": MESSAGE_IDS[message_id],
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
        } | fields
        sendv(*(f"{name}={safe(value)}" for name, value in record.items()))
    elif priority <= INFO:
        print(safe(message), file=sys.stderr)


def say(note: Note) -> None:
    """Write the record of a note (a ``Say``)."""
    log(note.priority, note.message, note.message_id, **note.fields)


def log_error(error: PersistError, *, priority: int = ERR) -> None:
    """Write the record of an exception that was caught where it is to be logged."""
    say(of(error, priority))


_REST = 300  # seconds for what a service has to do after a wait


def notify_status(text: str, wait: float = 0) -> None:
    """Tell the service manager what a long step is doing (sd_notify(3), ``STATUS=``).

    ``wait``: for so many seconds somebody asked us to wait; the time-out of the unit is for the rest of its
    work.
    """
    if os.environ.get("NOTIFY_SOCKET"):
        more = f"\nEXTEND_TIMEOUT_USEC={int((wait + _REST) * 1e6)}" if wait else ""
        _of_systemd("daemon").notify("STATUS=" + safe(text) + more)
