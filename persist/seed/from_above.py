# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the overlay above a new overlay entry has kept of its path: it goes along, since the new overlay has
the image below it, and not what the one above shows.

An upper is read here as what it is, whiteouts and opaque marks included. Marks by which overlayfs would look
for content elsewhere are refused: none of our mounts makes them (persist/boot/units.py).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from persist.boot.paths import escape
from persist.errors import PersistError
from persist.record import Record
from persist.seed.copy import Source, copy
from persist.seed.tree import Progress, Summary, walk
from persist.system.safepath import Dir, split

_MARK = "trusted.overlay."
_OPAQUE = _MARK + "opaque"
_REFUSED = (_MARK + "redirect", _MARK + "metacopy")
# They tie a file to its place in the old upper, and are of no use without an index.
_OF_THE_OLD = (_MARK + "origin", _MARK + "impure", _MARK + "nlink", _MARK + "upper", _MARK + "uuid")


class Kept(Record):
    """``layer`` is the path's directory in the upper above; ``hides``: nothing of the image is to be seen
    below it."""

    layer: Dir
    label: str
    hides: bool


def _marks(path: str) -> list[str]:
    try:
        return [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(_MARK)]
    except OSError as e:
        if e.errno != errno.ENOTSUP:
            raise
        return []


def _refuse(at: str, called: str) -> bool:
    """Whether a directory is opaque. Raises PersistError for what leads elsewhere."""
    marks = _marks(at)
    for name in _REFUSED:
        if name in marks:
            raise PersistError(
                f"'{called}' carries the mark {name}: its content lies elsewhere, and cannot be taken along.",
                hint="persist makes no such marks. Copy it by hand, and remove it from that upper.",
            )
    return _OPAQUE in marks and os.getxattr(at, _OPAQUE, follow_symlinks=False) == b"y"


def _upper(volume: Dir, up: str) -> Dir | None:
    # With persist=ro what the volume has lies below memory (entries/read_only_boot.py).
    for at in (f".persist/below/{escape(up)}", f".persist/overlay/{escape(up)}/upper"):
        with suppress(FileNotFoundError):
            return volume.sub(at)
    return None


def find(volume: Dir, up: str, path: str) -> Kept | None:
    """What the overlay on ``up`` has kept of a path below it, to be closed; None where that is nothing: the
    path is as in the image, or was removed. Raises PersistError and OSError."""
    here = _upper(volume, up) if up else None
    if here is None:
        return None
    hides = False
    try:
        for part in split(path[len(up) :]):
            there = here.lstat(part)
            if there is None or not stat.S_ISDIR(there.st_mode):
                here.close()  # a whiteout; all else the mount point is refused for
                return None
            deeper = here.sub(part)
            here.close()
            here = deeper
            hides |= _refuse(here.proc(), here.name)
    except BaseException:
        here.close()
        raise
    return Kept(here, f"{path} as a part of {up}", hides)


def take_along(kept: Kept, lower: int | None, tree: Dir, progress: Progress) -> tuple[Summary, list[str]]:
    """Copy it to ``upper`` in ``tree``; returns as copy(). ``lower``: the image's directory. Raises
    PersistError and OSError."""
    for name, _ in walk(kept.layer.proc()):
        _refuse(kept.layer.proc(name) if name else kept.layer.proc(), kept.layer.path(name).rstrip("/"))
    found = copy(Source(kept.layer.fd, "directory", kept.label), tree, "upper", progress)
    with tree.sub("upper") as upper:
        top = upper.proc()
        for name, _ in walk(top):
            at = upper.proc(name) if name else top
            for mark in _marks(at):
                if mark in _OF_THE_OLD or not name:
                    os.removexattr(at, mark, follow_symlinks=False)
        if kept.hides and lower is not None:
            _hide(os.listdir(lower), upper)
    return found


def _hide(names: list[str], upper: Dir) -> None:
    """Hide what the image has: overlayfs does not ask whether the top of an upper is opaque (tried). What a
    later image brings there will be seen."""
    for name in sorted(names):
        there = upper.lstat(name)
        if there is None:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=upper.fd)
        elif stat.S_ISDIR(there.st_mode):
            os.setxattr(upper.proc(name), _OPAQUE, b"y", follow_symlinks=False)
