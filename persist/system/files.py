# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small files, written so that no reader sees half of one, or locked; and what a file is."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(directory: int, a: str, b: str) -> None:
    """Have two names in an open directory change places, in one step. Raises OSError."""
    first, second = os.fsencode(a), os.fsencode(b)
    if _libc.renameat2(directory, first, directory, second, ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), b)


def kind(mode: int) -> str:
    """What a mode of stat(2) says a file is, as messages and Type= have it."""
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISREG(mode):
        return "file"
    return "symbolic link" if stat.S_ISLNK(mode) else "device or pipe"


def write_atomically(path: str, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one. Raises OSError."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(temporary, path)


@contextmanager
def held(path: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file below /run as long as the context lasts, or the process; yields whether it is
    ours. Waits for others, or yields False without ``wait``. Raises OSError."""
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
