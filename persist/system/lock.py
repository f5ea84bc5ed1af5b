# SPDX-License-Identifier: LGPL-2.1-or-later
"""One at a time: a lock on a file below /run, held as long as a context lasts, or the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held(path: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock; yields whether it is ours. Waits for others, or yields False without ``wait``. Raises
    OSError."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            ours = True
        except BlockingIOError:
            ours = False
        yield ours
    finally:
        os.close(fd)
