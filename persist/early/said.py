# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the stage has to say, before there is a journal.

Each note is a line in the kernel's log at once, and a line of JSON under /run/persist; the first service of
ours gives it to the journal, with MESSAGE_ID and fields.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from persist.note import DEBUG, ERR, WARNING, Note, safe

IDENTIFIER = "persist-early"
_WORDS = {ERR: "error: ", WARNING: "warning: "}  # a console shows no priorities
_LONGEST = 900  # bytes: records of /dev/kmsg end at a thousand or so


def kernel_line(note: Note) -> bytes:
    """A note as one record for /dev/kmsg (kernel: ABI/testing/dev-kmsg), cut where it is too long."""
    text = (_WORDS.get(note.priority, "") + safe(note.message)).encode("utf-8", "backslashreplace")[:_LONGEST]
    return b"<%d>%s: %s" % (note.priority, IDENTIFIER.encode(), text)


class Said:
    """A ``Say`` that writes to both; ``kept`` is the file, to which an earlier run of this boot may
    have written. Never raises: a note that cannot be kept is in the kernel's log all the same, and the other
    way round."""

    def __init__(
        self, kept: str, kernel: str = "/dev/kmsg", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._kernel = _opened(kernel, os.O_WRONLY | os.O_NOCTTY)
        self._kept = _opened(kept, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)

    def __call__(self, note: Note) -> None:
        if note.priority < DEBUG:
            _write(self._kernel, kernel_line(note))
        import json  # not while the filesystems' modules are not even asked for

        at = {"at": round(self._clock(), 3)}
        _write(self._kept, json.dumps(at | _as_json(note)).encode("ascii") + b"\n")


def _opened(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1  # no kernel log in a sandbox, no /run before there is one: the other of the two has it


def _write(fd: int, record: bytes) -> None:
    try:
        if fd >= 0:
            os.write(fd, record)
    except OSError:
        pass  # as in _opened()


def _as_json(note: Note) -> dict[str, object]:
    return {
        "priority": note.priority,
        "message": note.message,
        "message_id": note.message_id,
        "fields": note.fields,
    }


def taken(kept: str) -> Iterator[Note]:
    """The notes of a stage, each once, with the seconds since the kernel started as PERSIST_EARLY_AT=; the
    file goes first, so that a service that is killed does not say all of it again.

    A line that is not whole (the stage was killed) ends it with a note of its own. Raises OSError where the
    file cannot be removed.
    """
    import json

    try:
        with open(kept, encoding="ascii", errors="replace") as f:
            text = f.read(1 << 20)
        os.unlink(kept)
    except FileNotFoundError:
        return
    for line in text.split("\n")[:-1]:
        try:
            found = json.loads(line)
            fields = {str(name): str(value) for name, value in found["fields"].items()}
            fields["PERSIST_EARLY_AT"] = str(found["at"])
            note = Note(int(found["priority"]), str(found["message"]), str(found["message_id"]), fields)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield Note(WARNING, f"What the stage before PID 1 has said ends in {line[:80]!r}.", "FAILED")
            return
        yield note
