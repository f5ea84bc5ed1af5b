# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist keeps for itself on a volume: the directories of ``.persist`` and ``volume.json``."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from ..boot.paths import VOLUME

NAME = ".persist"
DIRECTORIES = ("overlay", "seed", "tmp", "migrations")
LAYOUT = 1  # of the volume; a change that an older persist must not touch gets a new number
_MAX = 1 << 16


def make(path: str) -> None:
    """Make ``.persist`` in a directory that is ours alone (a fresh filesystem, or root's below /var/lib). Raises OSError."""
    top = f"{path}/{NAME}"
    os.makedirs(top, exist_ok=True)
    os.chmod(top, 0o700)  # the umask had its say
    for name in DIRECTORIES:
        os.makedirs(f"{top}/{name}", exist_ok=True)
        os.chmod(f"{top}/{name}", 0o700)


def write_record(path: str, record: dict[str, Any]) -> None:
    """Write volume.json into the ``.persist`` of ``path``, whole or not at all, and on the disk. Raises OSError."""
    final = f"{path}/{NAME}/volume.json"
    temporary = f"{final}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as f:
        f.write(json.dumps(record, indent=2, sort_keys=True) + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.rename(temporary, final)


def record(uuid: str, members: list[str], swap: list[str]) -> dict[str, Any]:
    """The content of volume.json: filesystem UUID, PARTUUIDs of its members and of its swap partitions."""
    return {"version": 1, "layout": LAYOUT, "uuid": uuid, "members": members, "swap": swap}


def read_record(path: str = VOLUME) -> dict[str, Any]:
    """volume.json of a mounted volume, {} where there is none that can be understood. Raises OSError.

    A volume is data and not a friend: no link is followed, nothing but a small regular file is read.
    """
    try:
        top = os.open(f"{path}/{NAME}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    try:
        fd = os.open("volume.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
    except FileNotFoundError:
        return {}
    finally:
        os.close(top)
    with open(fd, "rb") as f:
        data = f.read(_MAX) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def swap_ids(found: dict[str, Any]) -> list[str]:
    """The PARTUUIDs of the volume's swap partitions as a record has them; what is not text is left out."""
    ids = found.get("swap")
    return [i.lower() for i in ids if isinstance(i, str)] if isinstance(ids, list) else []


def serials(found: dict[str, Any]) -> dict[int, str]:
    """The serial numbers of the disks by devid, as they were noted while the disks were there: a record's ``serials``; what makes no sense is left out."""
    noted = found.get("serials")
    if not isinstance(noted, dict):
        return {}
    return {int(k): v for k, v in noted.items() if isinstance(k, str) and k.isascii() and k.isdigit() and len(k) < 10 and isinstance(v, str)}
