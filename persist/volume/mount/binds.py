# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is bound beside the volume: the image for the entries, and the volume's public name.

Both may be there already (an earlier run of persist-volume.service): what is mounted is kept.
"""

from __future__ import annotations

import os

from persist.boot.paths import IMAGE, LOWER, VOLUME
from persist.errors import PersistError
from persist.system import mountinfo, newmount
from persist.volume.mount.private import private


def bind_image() -> None:
    """Show the image without what is mounted on it: IMAGE as the root's filesystem is, LOWER read-only,
    nosuid and nodev.

    Private at once, or every mount that the boot makes on the root would appear there too. IMAGE has the
    root's own flags but for ro, and only root comes to it: holes are binds of it, in which the image's
    programs work as ever, and mount(8) before 2.39 cannot take nosuid away from a bind. What makes a
    read-only root writable ('mount -o remount,rw /', which is how people upgrade one) changes the root's own
    mount and its filesystem, not a bind: with a flag of its own it would stay read-only. Raises OSError.
    """
    private()
    for source, path, read_only, options in (("/", IMAGE, False, ""), (IMAGE, LOWER, True, newmount.DATA)):
        os.makedirs(path, 0o755, exist_ok=True)
        if mountinfo.at(path) is None:
            newmount.bind(source, path, read_only=read_only, options=options)


def bind_public(path: str) -> str:
    """Show the volume under its public name. Returns why that cannot be, or ''. Raises PersistError."""
    if os.path.realpath(path) == VOLUME:
        return ""
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as e:
        return (
            f"The directory {path} does not exist and cannot be made ({e.strerror}): the volume is only "
            f"at {VOLUME}."
        )
    real = os.path.realpath(path)
    at = mountinfo.at(real)
    if at is None:
        try:
            newmount.bind(VOLUME, real)  # with the flags of what it is bound from
        except OSError as e:
            raise PersistError(f"Failed to bind {VOLUME}: {e.strerror}.") from e
        return ""
    volume = mountinfo.at(VOLUME)
    if volume is not None and (at.device, at.root) == (volume.device, volume.root):
        return ""
    return f"Something else is mounted at {path} ({at.source}): the volume is only at {VOLUME}."
