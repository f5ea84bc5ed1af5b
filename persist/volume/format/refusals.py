# SPDX-License-Identifier: LGPL-2.1-or-later
"""Refusals of this boot, by diskseq: udev reports a disk again and again, and each time the answer would be
the same.

A note counts as long as the disk's first MiB is what it was; a disk that was erased and claimed again is
looked at again.
"""

from __future__ import annotations

import json
import os

from persist.boot import paths
from persist.errors import Refusal
from persist.system.blockdev import Disk

DIRECTORY = paths.REFUSED
_LOOK = 1 << 20


def _fingerprint(disk: Disk) -> str:
    import hashlib  # only where something was refused

    try:
        fd = os.open(disk.node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return hashlib.sha256(os.pread(fd, _LOOK, 0)).hexdigest()
        finally:
            os.close(fd)
    except OSError:
        return "unreadable"  # that is what it was refused for, and it still is


def _path(disk: Disk) -> str:
    return f"{DIRECTORY}/{disk.diskseq.replace('/', '!')}"


def known(disk: Disk) -> bool:
    """Whether this disk, with this content, was refused before. Raises OSError when the note cannot be
    read."""
    try:
        with open(_path(disk), encoding="utf-8") as f:
            note = json.load(f)
    except FileNotFoundError:
        return False
    except ValueError:
        return False  # cut while it was written; it is written again
    return isinstance(note, dict) and note.get("fingerprint") == _fingerprint(disk)


def remember(disk: Disk, refusal: Refusal) -> None:
    """Note a refusal. Raises OSError."""
    os.makedirs(DIRECTORY, 0o755, exist_ok=True)
    with open(_path(disk), "w", encoding="utf-8") as f:
        json.dump(
            {
                "device": disk.node,
                "code": refusal.code,
                "message": refusal.message,
                "hint": refusal.hint,
                "fingerprint": _fingerprint(disk),
            },
            f,
        )


def forget(disk: Disk) -> None:
    """Take the note of a disk away. Raises OSError."""
    if os.path.lexists(_path(disk)):
        os.unlink(_path(disk))


def another(refusal: Refusal) -> Refusal:
    """The same, for another disk."""
    fields = {k: v for k, v in refusal.fields.items() if k not in ("PERSIST_REASON", "PERSIST_DEVICE")}
    return Refusal(refusal.code, refusal.message, hint=refusal.hint, **fields)
