# SPDX-License-Identifier: LGPL-2.1-or-later
"""What persist keeps for itself on a volume: the directories of ``.persist`` and ``volume.json``. A volume is
data and not a friend: all of it by descriptors, and no link is followed."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress

from persist.boot.paths import VOLUME
from persist.errors import PersistError
from persist.system.safepath import Dir

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without loading typing
if TYPE_CHECKING:
    from typing import Any

NAME = ".persist"
DIRECTORIES = ("overlay", "seed", "tmp", "migrations")
RECORD = "volume.json"
LAYOUT = 1  # of the volume; a change that an older persist must not touch gets a new number
_MAX = 1 << 16


def _close(directory: Dir) -> None:
    """Make it 0700: the umask had its say. An immutable one that is takes no change."""
    if stat.S_IMODE(os.fstat(directory.fd).st_mode) != 0o700:
        os.fchmod(directory.fd, 0o700)


def _begin(where: Dir, name: str) -> int:
    """Make a directory; it is looked at, and synced with the others, afterwards. Returns 1 where it was
    missing. Raises OSError."""
    if where.lstat(name) is not None:
        return 0
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=where.fd)
    return 1


def make(path: str) -> None:
    """Make ``.persist`` and its directories below a directory, 0700 and root's, where they are missing.

    Raises PersistError where something else has one of the names, OSError.
    """
    with Dir.at(path) as volume:
        made = _begin(volume, NAME)
        with volume.own(NAME) as top:
            _close(top)
            made += sum(_begin(top, name) for name in DIRECTORIES)
            for name in DIRECTORIES:
                with top.own(name) as directory:
                    _close(directory)
            if made:
                top.sync()
                volume.sync()


def check(path: str) -> str:
    """Look at the store of a mounted volume, which may have none yet. Writes nothing.

    Raises PersistError where it is not made of root's own directories, for then anybody may have written what
    is in it; OSError. Returns a sentence about a record that cannot be understood, '' where it is as it
    should be.
    """
    try:
        with Dir.at(path) as volume:
            volume.must_be_ours()  # who may write there can put anything at the place of an entry
            with volume.inner(NAME) as top:
                top.must_be_ours()
                for name in DIRECTORIES:
                    if top.lstat(name) is not None:
                        with top.inner(name) as directory:
                            directory.must_be_ours()
                data = top.read(RECORD, _MAX)
    except FileNotFoundError:
        return ""
    return (
        ""
        if data is None or _parse(data)
        else f"{path}/{NAME}/{RECORD} cannot be understood: swap space and reserve of the state volume are "
        "not used."
    )


def write_record(path: str, record: dict[str, Any]) -> None:
    """Write volume.json into the ``.persist`` of ``path``, whole or not at all, and on the disk. Raises
    PersistError and OSError."""
    with Dir.at(path) as volume, volume.own(NAME) as top:
        temporary = f"{RECORD}.tmp"
        top.write(temporary, json.dumps(record, indent=2, sort_keys=True).encode("ascii") + b"\n")
        os.rename(temporary, RECORD, src_dir_fd=top.fd, dst_dir_fd=top.fd)
        top.sync()


def record(uuid: str, members: list[str], swap: list[str]) -> dict[str, Any]:
    """The content of volume.json: filesystem UUID, PARTUUIDs of its members and of its swap partitions."""
    return {"version": 1, "layout": LAYOUT, "uuid": uuid, "members": members, "swap": swap}


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_record(path: str = VOLUME) -> dict[str, Any]:
    """volume.json of a mounted volume, {} where there is none that can be understood. Raises OSError."""
    try:
        with Dir.at(path) as volume, volume.inner(NAME) as top:
            return _parse(top.read(RECORD, _MAX) or b"")
    except (FileNotFoundError, PersistError):
        return {}  # something else in its place: check() says it


def swap_ids(found: dict[str, Any]) -> list[str]:
    """The PARTUUIDs of the volume's swap partitions as a record has them; what is not text is left out."""
    ids = found.get("swap")
    return [i.lower() for i in ids if isinstance(i, str)] if isinstance(ids, list) else []


def serials(found: dict[str, Any]) -> dict[int, str]:
    """The serial numbers of the disks by devid, as they were noted while the disks were there: a record's
    ``serials``; what makes no sense is left out."""
    noted = found.get("serials")
    if not isinstance(noted, dict):
        return {}
    return {
        int(k): v
        for k, v in noted.items()
        if isinstance(k, str) and k.isascii() and k.isdigit() and len(k) < 10 and isinstance(v, str)
    }
