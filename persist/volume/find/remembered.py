# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume that this machine had, noted on its root filesystem where that can be written.

On a writable root the absence of a volume would otherwise look like a machine that never had one: work would
go to the root, out of sight as soon as the volume is back, and another disk could become the volume. The note
is read and written on the root filesystem itself, through a copy of its mount that nobody else sees: /var may
be mounted over it, or kept on the volume.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from persist.system import newmount, uuids

DIRECTORY = "/var/lib/persist"
NAME = "known-volume"
PATH = f"{DIRECTORY}/{NAME}"


def _directory(root: str, *, make: bool) -> int:
    """A descriptor of DIRECTORY on the root filesystem itself. No link is followed. Raises OSError."""
    at = newmount.clone(root)
    for part in DIRECTORY.strip("/").split("/"):
        try:
            if make:
                with contextlib.suppress(FileExistsError):  # what it is, the next line says
                    os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def read(root: str = "/") -> str:
    """The UUID of the volume that this machine had, '' where none is noted. Raises OSError."""
    try:
        directory = _directory(root, make=False)
        try:
            fd = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""  # nothing there, or a link, which is nothing of ours
        raise
    with open(fd, "rb") as f:
        data = f.read(100) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    text = data.decode("ascii", "replace").strip().lower()
    return text if uuids.valid(text) else ""


def note(uuid: str, root: str = "/") -> None:
    """Note the volume of this machine, whole or not at all; nothing is written where it is noted already.
    Raises OSError."""
    if read(root) == uuid.lower():
        return
    directory = _directory(root, make=True)
    try:
        temporary = f"{NAME}.tmp"
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o644,
            dir_fd=directory,
        )
        with open(fd, "w", encoding="ascii") as f:
            f.write(f"{uuid.lower()}\n")
            f.flush()
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        os.rename(temporary, NAME, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)
