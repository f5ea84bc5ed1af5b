# SPDX-License-Identifier: LGPL-2.1-or-later
"""SOURCE: opened read-only, never written, and held so that nobody starts a machine on it meanwhile."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
from pathlib import Path

from persist.errors import PersistError
from persist.system import run

# Where QEMU locks a file that it has open, for its own kind to see (tried, 7.2): a byte from 100 for what it
# does, one from 200 for what others may not do. 0 is to read what is consistent, 1 to write, 3 to resize.
_DOES, _FORBIDS = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_FLOCK = "hhqqi4x"  # struct flock on 64 bits


class Source:
    """An open SOURCE. Raises PersistError where it cannot be read or a machine runs on it."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as e:
            raise PersistError(f"'{path}' cannot be read: {e.strerror}.") from e
        try:
            mode = os.fstat(self._fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise PersistError(f"'{path}' is neither a file nor a disk.")
            self._hold()
        except BaseException:
            os.close(self._fd)
            raise
        self._before = self._now()

    def _lock(self, command: int, kind: int, byte: int) -> int:
        """An open file description's lock on one byte; the kind that the kernel answers."""
        done = fcntl.fcntl(self._fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
        return int(struct.unpack(_FLOCK, done)[0])

    def _hold(self) -> None:
        """As a QEMU that reads it."""
        try:
            for byte in (_DOES + _READ, _FORBIDS + _WRITE, _FORBIDS + _RESIZE):
                self._lock(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte)
            taken = [
                self._lock(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK
                for byte in (_DOES + _WRITE, _DOES + _RESIZE, _FORBIDS + _READ)
            ]
        except OSError as e:
            if e.errno in (errno.EACCES, errno.EAGAIN):
                taken = [True]
            elif e.errno in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
                taken = []  # a filesystem without locks, where QEMU has none either
            else:
                raise
        if any(taken):
            raise PersistError(
                f"'{self.path}' is in use: a virtual machine runs on it.",
                hint="Shut that machine down first; the image is made of the disk as it is then.",
            )

    def _now(self) -> tuple[int, int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns, status.st_ino

    def check_unchanged(self) -> None:
        """Raises PersistError where somebody has written to it since it was opened."""
        if self._now() != self._before:
            raise PersistError(f"'{self.path}' was changed by somebody else while the image was made.")

    def close(self) -> None:
        """Let it go."""
        os.close(self._fd)


def check_chain(path: str, form: str) -> None:
    """Each file that a disk image is based on has to say of which format that is: QEMU would ask its bytes.
    Raises PersistError where one does not, CommandError where one cannot be read."""
    seen = set()
    while path and path not in seen:
        seen.add(path)
        # A machine may read what others are based on, so no lock is asked for; of SOURCE we have it.
        said = json.loads(run.run("qemu-img", "info", "-U", "--output=json", "-f", form, path))
        based_on, form = said.get("full-backing-filename", ""), said.get("backing-filename-format", "")
        if based_on and not form:
            raise PersistError(
                f"'{path}' is based on '{based_on}' and does not say in which format that is.",
                hint="Write it down: qemu-img rebase -u -F FORMAT -b FILE IMAGE.",
            )
        path = str(Path(based_on)) if based_on else ""
