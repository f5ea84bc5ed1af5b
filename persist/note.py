# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the journal should have: found below the services, logged by them.

A function that is quick returns its notes; one that takes long, or may never return, is handed a ``Say`` and
calls it as it goes.
"""

from __future__ import annotations

from collections.abc import Callable

from persist.errors import PersistError
from persist.record import Record, made

Say = Callable[["Note"], None]
# What a long step is doing, and for how many seconds somebody asked us to wait: log.notify_status().
Status = Callable[[str, float], None]

ERR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7  # syslog(3)


class Note(Record):
    """One record for the journal: a priority of syslog(3), a sentence, a name in persist.messages, and fields
    (``PERSIST_PATH`` and the like)."""

    priority: int
    message: str
    message_id: str
    fields: dict[str, str] = made(dict)


def of(error: PersistError, priority: int = ERR) -> Note:
    """The note of an exception that was caught where it is to be said."""
    return Note(priority, str(error), error.message_id, error.fields)


def safe(text: str) -> str:
    r"""Text that cannot move the cursor of a terminal, and that the journal shows as text: control
    characters, other line ends than ours and bytes that are not UTF-8 as escapes (``\x1b``, ``\u2028``,
    ``\udcff``). journalctl(1) has but "[blob data]" for a field with one of them."""
    return "".join(
        [c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text]
    )
