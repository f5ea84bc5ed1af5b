# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree that a machine seals of itself: a private copy of its root's mount with the filesystems of its
image put in. What PID 1 has bound over /etc/machine-id, and what persist has mounted, hide nothing in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from persist.boot.paths import SEALING
from persist.errors import PersistError
from persist.record import Record, made
from persist.seal.boot.mounted import sort
from persist.system import mountinfo, newmount
from persist.system.mountinfo import Mount
from persist.system.run import run
from persist.system.safepath import Dir, split
from persist.volume import root_kept

PLACE = SEALING + "/tree"
_READ_ONLY = "which takes no writes, so that nothing on it could be wiped"


class Copy(Record):
    """The copy: its directory, the mounts at and below it, those of the machine that went into it, what is
    wrong with it, and what is to be told of it."""

    path: str
    mounts: tuple[Mount, ...]
    inside: tuple[Mount, ...] = ()
    errors: tuple[str, ...] = made(tuple)
    notes: tuple[str, ...] = made(tuple)


def memory(path: str) -> str:
    """Why what is written below a mount point is lost at power-off, '' where it is kept. Raises OSError."""
    found = root_kept.look(path)
    return found.memory


def _make_writable(path: str, shown: str) -> None:
    """A root that fstab has read-only is so for this mount's superblock: made writable through the copy, the
    machine's own mount stays as it is. Raises PersistError for a device that is write-protected."""
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    # Without its options: an overlay takes none of them again from a newer mount(8) (tried, 2.41).
    run("mount", "--options-mode", "ignore", "-o", "remount,rw", path)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise PersistError(f"'{shown}' is on a filesystem {_READ_ONLY}.")


def _hidden(top: Dir, point: str) -> list[str]:
    """A notice where there is something below what is to be put at a place. Raises OSError, PersistError."""
    with top.descend(split(point)) as at:
        if set(os.listdir(at.fd)) <= {"lost+found"}:
            return []
    return [f"'{point}' is not empty below what is mounted there: that was not looked at, and stays."]


def _put(source: str, top: Dir, parts: list[str]) -> None:
    """A copy of one mount, without what is mounted on it, at a place that is reached by no link. Raises
    OSError, PersistError."""
    fd = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with top.descend(parts) as at:
            newmount.attach(fd, at.fd)
    finally:
        os.close(fd)


def make(*, writable: bool, whole: bool, place: str = PLACE, root: str = "/") -> Copy:
    """Make the copy in mounts of this process's own, which it keeps to its end.

    ``writable``: what is read-only is made writable. ``whole``: with /var, /boot and what else is on disks of
    its own. Raises OSError, PersistError.
    """
    every = mountinfo.mounts()
    newmount.apart()
    os.makedirs(place, 0o700, exist_ok=True)
    with Dir.at(place) as at:
        _put(root, at, [])
    lost = memory(root)
    if lost:
        raise PersistError(
            f"The root is {lost}: what is wiped there would be back after the next start, and the disk is "
            "untouched."
        )
    if writable:
        _make_writable(place, root)
    sorted_ = sort(every) if whole else None
    errors = list(sorted_.errors) if sorted_ else []
    inside = list(sorted_.inside) if sorted_ else []
    notes: list[str] = []
    with Dir.at(place) as tree:
        for mount in inside:
            point = mount.mount_point
            try:
                notes += _hidden(tree, point)
                _put(point, tree, split(point))
                if writable:
                    _make_writable(place + point, point)
            except (OSError, PersistError) as e:
                errors.append(f"'{point}' could not be put into the tree: {e}")
    top = place.rstrip("/") + "/"
    own = tuple(m for m in mountinfo.mounts() if (m.mount_point + "/").startswith(top))
    return Copy(place, own, tuple(inside), tuple(errors), tuple(notes))


@contextmanager
def undone(copy: Copy) -> Iterator[Copy]:
    """Take the copy out of sight at the end, for a process that goes on."""
    try:
        yield copy
    finally:
        newmount.take_away(copy.path)
