# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of the state subvolume, beside it in ``@persist-state-snapshots``: the way back from a migration.

The top of the filesystem is mounted nowhere, so that a process that is killed leaves no mount behind.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from persist.boot.paths import MIGRATION_SNAPSHOT, VOLUME
from persist.errors import PersistError
from persist.migrate.records import overlap
from persist.system import btrfs, mountinfo, newmount
from persist.system.files import write_atomically
from persist.system.safepath import Dir
from persist.volume.members import in_kernel

STATE, _, SNAPSHOTS = btrfs.SUBVOLUMES
PREFIX = "migration-"
KEEP = 3  # those that no run needs
# The last one of this boot, and the paths of the runs that have begun since.
RECORD = MIGRATION_SNAPSHOT
_SNAPSHOT = 0x50009417  # struct btrfs_ioctl_vol_args_v2 (linux/btrfs.h)
_DESTROY = 0x5000940F
_READ_ONLY = 2  # BTRFS_SUBVOL_RDONLY


def possible(volume: str = VOLUME) -> bool:
    """Whether what is mounted there is the state subvolume of a btrfs. Raises OSError."""
    at = mountinfo.at(volume)
    return at is not None and at.fstype == "btrfs" and at.place[1] == f"/{STATE}"


@contextmanager
def _snapshots(volume: str) -> Iterator[Dir]:
    """The directory that they are in. Raises PersistError and OSError."""
    at = mountinfo.at(volume)
    if at is None:
        raise PersistError(f"Nothing is mounted at {volume}.")
    nodes = [m.node for m in in_kernel.glance(volume) if m.ok]  # mountinfo may name one that was pulled out
    node = at.source if at.source in nodes or not nodes else nodes[0]
    with (
        newmount.nowhere("btrfs", node, "subvolid=5", read_only=False) as top,
        Dir.at(top) as whole,
    ):
        if whole.lstat(SNAPSHOTS) is None:  # a volume that was made by hand
            btrfs.make_subvolume(whole.proc(), SNAPSHOTS)
            os.chmod(whole.proc(SNAPSHOTS), 0o700)
        with whole.sub(SNAPSHOTS) as snapshots:
            yield snapshots


def _ours(snapshots: Dir) -> list[str]:
    return sorted(n for n in os.listdir(snapshots.proc()) if n.startswith(PREFIX))


@contextmanager
def opened(name: str, volume: str = VOLUME) -> Iterator[Dir]:
    """A snapshot. Raises PersistError where there is none of this name, OSError."""
    if not name.startswith(PREFIX) or "/" in name:
        raise PersistError(f"{name!r} is no snapshot of a migration.")
    with _snapshots(volume) as snapshots:
        try:
            found = snapshots.sub(name)
        except FileNotFoundError as e:
            raise PersistError(f"The snapshot {SNAPSHOTS}/{name} is gone.") from e
        with found:
            if os.fstat(found.fd).st_ino != btrfs.TOP_INODE:
                raise PersistError(f"{SNAPSHOTS}/{name} is no snapshot.")
            yield found


def there(name: str, volume: str = VOLUME) -> bool:
    """Whether there is a snapshot of a name. Raises OSError."""
    try:
        with opened(name, volume):
            return True
    except PersistError:
        return False


def _last() -> tuple[str, list[str]]:
    """The last one of this boot, and the paths of the runs since."""
    try:
        with open(RECORD, encoding="utf-8", errors="surrogateescape") as f:
            found = json.load(f)
        return str(found["name"]), [str(path) for path in found["paths"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def _note(name: str, paths: Collection[str]) -> None:
    write_atomically(RECORD, json.dumps({"name": name, "paths": sorted(paths)}) + "\n")


def begins(path: str) -> None:
    """Note that a run on a path begins: the last snapshot of this boot is as it was before. Raises
    OSError."""
    name, paths = _last()
    if name:
        _note(name, {*paths, path})


def as_good(path: str, volume: str = VOLUME) -> str:
    """A snapshot of this boot that has a path as it is now: no run on it, above or below it has begun since;
    '' for none. Raises OSError."""
    name, paths = _last()
    good = name and not any(overlap(path, other) for other in paths) and there(name, volume)
    return name if good else ""


def take(id: str, needed: Collection[str], volume: str = VOLUME) -> str:
    """Snapshot the state subvolume for a migration, on the disk; returns its name. ``needed`` are those that
    runs may go back to. Raises PersistError and OSError."""
    name = f"{PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{id}"
    with _snapshots(volume) as snapshots, Dir.at(volume) as state:
        while snapshots.lstat(name) is not None:
            name += "+"  # a clock that stands, or goes back
        argument = struct.pack("<qQQ32x4040s", state.fd, 0, _READ_ONLY, os.fsencode(name))
        btrfs.ioctl(snapshots.proc(), _SNAPSHOT, bytearray(argument))
        btrfs.sync(volume)
        _prune(snapshots, {*needed, name})
    _note(name, ())
    return name


def _prune(snapshots: Dir, needed: Collection[str]) -> None:
    """Remove all but those that are needed and the newest of the others."""
    spare = [name for name in _ours(snapshots) if name not in needed]
    for name in spare[: len(spare) - (KEEP - 1)] if len(spare) >= KEEP else ():
        # What cannot be removed stays; it costs space and nothing else.
        with suppress(OSError):
            btrfs.ioctl(snapshots.proc(), _DESTROY, btrfs.named(name))
