# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory beside OUTPUT in which the work is done: under a lock while we live, swept by the next run
when we were killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from persist.errors import PersistError
from persist.system import uuids

PREFIX = ".persist-image."
_LOCK = "lock"


def _lock(directory: Path) -> int | None:
    """The lock of a work directory as an open file, None where somebody has it or the directory is gone."""
    try:
        fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been swept between the two.
        mine, there = os.fstat(fd), os.stat(directory / _LOCK, follow_symlinks=False)
        if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody else's, who works or sweeps
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def sweep(parent: Path) -> list[str]:
    """Remove what runs that were killed have left here; the names."""
    swept = []
    for directory in sorted(parent.glob(f"{PREFIX}*")):
        with suppress(FileNotFoundError):  # another run sweeps, too
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            lock = _lock(directory)
            if lock is None:
                continue
            try:
                shutil.rmtree(directory)
            finally:
                os.close(lock)
            swept.append(directory.name)
    return swept


class Work:
    """A new work directory; remove() takes it away. Raises PersistError where none can be made."""

    def __init__(self, parent: Path) -> None:
        for _ in range(100):
            self.path = parent / f"{PREFIX}{uuids.new()[:13]}"
            try:
                self.path.mkdir(mode=0o700)
            except OSError as e:
                raise PersistError(f"Nothing can be written to '{parent}': {e.strerror}.") from e
            lock = _lock(self.path)
            if lock is not None:
                self._fd = lock
                return
        raise PersistError(f"'{parent}' is swept by somebody else, again and again.")

    def file(self, name: str, content: bytes) -> Path:
        """A file of this name, for this user alone. Raises OSError."""
        path = self.path / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
            out.write(content)
        return path

    def remove(self) -> None:
        """Take it away, with all that is in it."""
        try:
            shutil.rmtree(self.path)
        finally:
            os.close(self._fd)
