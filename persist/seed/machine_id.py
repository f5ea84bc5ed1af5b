# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine-id when /etc comes late: the id of the first boot becomes the id of all boots.

On a read-only image PID 1 makes up a transient id, keeps it in /run/machine-id and binds that over
/etc/machine-id. The overlay of /etc would hide the bind, show an empty file, and leave a mount at shutdown
that nobody can reach.
"""

from __future__ import annotations

import os
import stat

from persist.errors import CommandError
from persist.note import INFO, NOTICE, WARNING, Note
from persist.system import mountinfo
from persist.system.run import run
from persist.system.safepath import Dir

NAME = "machine-id"


def valid(text: str) -> bool:
    """Whether this is a machine-id (machine-id(5)): 32 lower-case hexadecimal digits that are not all
    zero."""
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text) and text.strip("0") != ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            text = f.read(64)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    # PID 1 writes a newline; anything else around the id makes it none.
    return text.removesuffix("\n")


def running_id(root: str, image: str | None = None) -> str:
    """The id that PID 1 runs under, or an empty string. ``root`` is "" or "/" on the live system; ``image``
    is where the image's /etc is, should it be covered by now."""
    for top, name in ((root, "run/machine-id"), (root if image is None else image, "etc/machine-id")):
        text = _read(os.path.join(top or "/", name))
        if valid(text):
            return text
    return ""


def kept_id(root: str) -> str:
    """The id that /etc has now, or an empty string."""
    text = _read(os.path.join(root or "/", "etc", NAME))
    return text if valid(text) else ""


def keep(store: Dir, scratch: Dir, root: str) -> Note:
    """Write the running id into a directory that will be shown as /etc, unless it has one.

    ``scratch`` is a directory of the same filesystem for the temporary file, which must never be seen in
    /etc. Returns what was done.
    """
    running = running_id(root)
    there = store.lstat(NAME)
    if there is not None and (stat.S_ISLNK(there.st_mode) or stat.S_ISDIR(there.st_mode)):
        return _note(
            WARNING,
            f"'{store.path(NAME)}' is not a file and was left alone; this boot's machine-id is not kept.",
        )
    if there is not None and stat.S_ISREG(there.st_mode):
        kept = (store.read(NAME) or b"").decode("ascii", "replace").strip()
        if kept == running and running:
            return _note(INFO, f"The machine-id {running} is already kept.")
        if valid(kept):
            return _note(
                NOTICE,
                f"The volume already has the machine-id {kept}; it was left alone, although this boot "
                f"runs under {running or 'none'}. The next boot uses it.",
            )
        if kept not in ("", "uninitialized"):
            return _note(WARNING, f"'{store.path(NAME)}' contains no valid machine-id and was left alone.")
    if not running:
        return _note(WARNING, "This boot has no valid machine-id to keep.")
    scratch.write(NAME, running.encode("ascii") + b"\n", 0o444)
    os.rename(NAME, NAME, src_dir_fd=scratch.fd, dst_dir_fd=store.fd)
    store.sync()
    return _note(NOTICE, f"The machine-id {running} of this boot is kept from now on.")


def _note(priority: int, message: str) -> Note:
    return Note(priority, message, "MACHINE_ID_KEPT", {"PERSIST_PATH": "/etc"})


def _binds(path: str) -> int:
    # PID 1's file is the machine-id of the tmpfs on /run.
    return sum(
        m.mount_point == path and m.root.endswith("/machine-id") and m.fstype == "tmpfs"
        for m in mountinfo.mounts()
    )


def is_bound(root: str) -> bool:
    """Whether PID 1 has bound a transient id over /etc/machine-id."""
    return _binds(os.path.join(root or "/", "etc", NAME)) > 0


def take_bind_away(root: str) -> Note | None:
    """Unmount PID 1's transient bind on /etc/machine-id. Returns what was done where there was one."""
    path = os.path.join(root or "/", "etc", NAME)
    count = _binds(path)
    try:
        for _ in range(count):
            run("umount", "--", path)
    except CommandError as e:
        # The machine works nevertheless; only its shutdown will complain about a mount below /etc.
        return _note(WARNING, f"Failed to unmount the transient machine-id below /etc: {e}")
    return _note(INFO, "Unmounted the transient /etc/machine-id.") if count else None
