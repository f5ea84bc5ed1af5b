# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a boot's mounts is for root alone: a second way to a file outlives the mode, the parent and the
removal that closed the first one."""

from __future__ import annotations

import errno
import os
import stat

from persist.boot.paths import PRIVATE, READONLY, VOLUME
from persist.system import mountinfo, newmount


def private() -> None:
    """Make /run/persist/private, which only root enters; the initrd may have made it with another mode.
    Raises OSError."""
    os.makedirs(PRIVATE, 0o700, exist_ok=True)
    os.chmod(PRIVATE, 0o700)  # not a volume's: a directory of /run


def _restrict(path: str) -> None:
    """Have what is mounted at a path nosuid and nodev, whoever mounted it. Raises OSError."""
    at = mountinfo.at(path)
    if at is None or {"nosuid", "nodev"} <= set(at.options.split(",")):
        return
    top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        newmount.change(top, newmount.DATA)
    finally:
        os.close(top)


def _close_top(path: str, *, links: bool) -> bool:
    """Let users in at the top of a volume only as far as ``links`` need it, which lead through it to what is
    known by name, and have it root's.

    False where they come further because the volume takes no writes. Raises OSError.
    """
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found, mode = os.fstat(top), 0o711 if links else 0o700
        if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, mode):
            return True
        try:
            os.fchown(top, 0, 0)
            os.fchmod(top, mode)
        except OSError as e:
            if e.errno != errno.EROFS:
                raise
            return found.st_uid == 0 and not found.st_mode & 0o077 & ~mode
        return True
    finally:
        os.close(top)


def keep_users_out(*, links: bool) -> str:
    """Whoever mounted it: nothing at the volume's place is setuid or a device, and users come no further than
    symlink entries need it.

    ``links``: the registry has such entries. Returns why they do come further, or ''.
    """
    try:
        _restrict(VOLUME)
        if os.path.isdir(READONLY):
            private()
            _restrict(READONLY)
        if _close_top(VOLUME, links=links):
            return ""
        return "Its top directory is open to them, and it takes no writes that would close it."
    except OSError as e:
        return f"They cannot be kept out: {e}."
